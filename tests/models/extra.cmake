# These also run on the device that has the memory rules of a GPU.
foreach(name IN ITEMS test_mlp test_mlp_dropout test_mlp_training test_gpt test_gpt_dropout
        test_gpt_training test_resnet)
  target_link_libraries(${name} PRIVATE lockstep_strict_device)
endforeach()
