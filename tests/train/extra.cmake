# Evaluation also runs on the device that has the memory rules of a GPU.
target_link_libraries(test_evaluate PRIVATE lockstep_strict_device)
target_link_libraries(test_trainer PRIVATE lockstep_strict_device) # to see that the host never touches device memory

# Tests that look inside the layer.
target_include_directories(test_manifest PRIVATE ${PROJECT_SOURCE_DIR}/runtime/train)

include(${CMAKE_CURRENT_SOURCE_DIR}/train/checkpoint.cmake OPTIONAL)
