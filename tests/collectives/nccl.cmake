# The nccl transport, where the build has NCCL or its stand-in. Each rank needs a GPU of its own; a test is skipped
# where there are fewer.
function(nccl_test name program ranks)
  add_test(NAME collectives/${name}_${ranks}_ranks COMMAND ${mpi_run} ${ranks} $<TARGET_FILE:${program}>)
  set_tests_properties(collectives/${name}_${ranks}_ranks PROPERTIES
    ENVIRONMENT "${mpi_environment};EMULATED_GPUS=4;${ARGN}" TIMEOUT 120 LABELS "mpi;collectives" PROCESSORS 2
    SKIP_RETURN_CODE 77)
endfunction()

foreach(ranks IN ITEMS 1 2 3 4)
  nccl_test(nccl test_nccl ${ranks})
  nccl_test(nccl_reducer test_reducer ${ranks})
endforeach()

if(LOCKSTEP_GPU STREQUAL "emulated")
  add_executable(nccl_stand_in ${CMAKE_CURRENT_LIST_DIR}/nccl_stand_in.c)
  target_link_libraries(nccl_stand_in PRIVATE lockstep_flags lockstep_emulator MPI::MPI_C PkgConfig::CMOCKA m)
  foreach(ranks IN ITEMS 1 2 3 4)
    nccl_test(nccl_stand_in nccl_stand_in ${ranks})
  endforeach()
  # Streams that move on at other moments than the latest.
  nccl_test(nccl_stand_in_seeded nccl_stand_in 3 EMULATED_GPU_SEED=7)
  nccl_test(nccl_seeded test_nccl 3 EMULATED_GPU_SEED=7)
  nccl_test(nccl_reducer_seeded test_reducer 4 EMULATED_GPU_SEED=9)
endif()
