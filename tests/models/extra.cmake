# These also run on the device that has the memory rules of a GPU.
foreach(name IN ITEMS test_mlp test_mlp_dropout test_mlp_training)
  target_sources(${name} PRIVATE ${CMAKE_CURRENT_SOURCE_DIR}/support/strict_device.c)
endforeach()
