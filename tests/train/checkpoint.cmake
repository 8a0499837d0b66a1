# Checkpoints on several ranks, on a full disk, and as others read them.
add_executable(checkpoint_ranks ${CMAKE_CURRENT_SOURCE_DIR}/train/checkpoint_ranks.c)
target_link_libraries(checkpoint_ranks PRIVATE lockstep_flags lockstep_train)

add_test(NAME train/checkpoint_ranks COMMAND sh ${CMAKE_CURRENT_SOURCE_DIR}/train/checkpoint_ranks.sh
                                             $<TARGET_FILE:checkpoint_ranks> ${MPIEXEC_EXECUTABLE})
add_test(NAME train/checkpoint_full_disk COMMAND sh ${CMAKE_CURRENT_SOURCE_DIR}/train/checkpoint_full_disk.sh
                                                 $<TARGET_FILE:checkpoint_ranks>)
add_test(NAME train/checkpoint_reader COMMAND /usr/bin/python3 ${CMAKE_CURRENT_SOURCE_DIR}/train/checkpoint_reader.py
                                              $<TARGET_FILE:checkpoint_ranks> ${PROJECT_SOURCE_DIR}/docs/checkpoints.md)
set_tests_properties(train/checkpoint_ranks train/checkpoint_full_disk train/checkpoint_reader
                     PROPERTIES TIMEOUT 120 SKIP_RETURN_CODE 77 LABELS "unit;train")
set_property(TEST train/checkpoint_ranks APPEND PROPERTY LABELS mpi)
