# Evaluation also runs on the device that has the memory rules of a GPU.
target_link_libraries(test_evaluate PRIVATE lockstep_strict_device)
