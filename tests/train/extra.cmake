# Evaluation also runs on the device that has the memory rules of a GPU.
target_link_libraries(test_evaluate PRIVATE lockstep_strict_device)
# ... and on several ranks.
add_test(NAME train/test_evaluate_3_ranks COMMAND ${MPIEXEC_EXECUTABLE} --oversubscribe ${MPIEXEC_NUMPROC_FLAG} 3
                                                  $<TARGET_FILE:test_evaluate>)
set_tests_properties(train/test_evaluate_3_ranks PROPERTIES
  ENVIRONMENT "OMPI_ALLOW_RUN_AS_ROOT=1;OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1" TIMEOUT 120 LABELS "mpi;train" PROCESSORS 2)
# To see that the host never touches device memory, nor what is still on its way.
target_link_libraries(test_trainer PRIVATE lockstep_strict_device)
target_link_libraries(test_batch PRIVATE lockstep_strict_device)
target_link_libraries(test_saving PRIVATE lockstep_strict_device)

# Tests that look inside the layer.
target_include_directories(test_manifest PRIVATE ${PROJECT_SOURCE_DIR}/runtime/train)
target_include_directories(test_account PRIVATE ${PROJECT_SOURCE_DIR}/runtime/train)
target_include_directories(test_guard_state PRIVATE ${PROJECT_SOURCE_DIR}/runtime/train)
target_include_directories(test_window PRIVATE ${PROJECT_SOURCE_DIR}/runtime/train)
target_include_directories(test_notices PRIVATE ${PROJECT_SOURCE_DIR}/runtime/train)
target_sources(test_notices PRIVATE ${CMAKE_CURRENT_SOURCE_DIR}/support/http_server.c)
target_include_directories(test_saving PRIVATE ${PROJECT_SOURCE_DIR}/runtime/train)

include(${CMAKE_CURRENT_SOURCE_DIR}/train/checkpoint.cmake OPTIONAL)
