# The nccl transport, where the build has NCCL or its stand-in. Each rank needs a GPU of its own; a test is skipped
# where there are fewer.
function(nccl_test name program ranks)
  add_test(NAME collectives/${name}_${ranks}_ranks COMMAND ${mpi_run} ${ranks} $<TARGET_FILE:${program}> nccl)
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

  # Failures on purpose: the exit code of the whole job and what its standard error must say.
  add_executable(nccl_faults ${CMAKE_CURRENT_LIST_DIR}/nccl_faults.c)
  target_link_libraries(nccl_faults PRIVATE lockstep_flags lockstep_collectives)
  function(nccl_fault_test name fault ranks exit_code pattern)
    add_test(NAME collectives/nccl_${name}
      COMMAND ${CMAKE_CURRENT_FUNCTION_LIST_DIR}/expect ${exit_code} "${pattern}"
              ${mpi_run} ${ranks} $<TARGET_FILE:nccl_faults> ${fault})
    set_tests_properties(collectives/nccl_${name} PROPERTIES
      ENVIRONMENT "${mpi_environment};EMULATED_GPUS=4;EMULATED_NCCL_TRACE=1;${ARGN}" TIMEOUT 60
      LABELS "mpi;collectives" PROCESSORS 2)
  endfunction()
  set(error "EMULATED_NCCL_FAULT=error 1 7")
  set(stuck "EMULATED_NCCL_FAULT=stuck 1 7")
  nccl_fault_test(no_fault none 3 0 "")
  nccl_fault_test(error of_the_library 3 1 "^lockstep: rank 1 on .* failed: unhandled system error: a failure on purpose" ${error})
  nccl_fault_test(error_aborts of_the_library 3 1 "^emulated NCCL: rank 1 aborts" ${error})
  nccl_fault_test(hanging_abort of_the_library 3 1 "^lockstep: rank 1 on .* failed: unhandled system error" ${error} EMULATED_NCCL_ABORT_HANGS=1)
  nccl_fault_test(stuck of_the_library 3 124 "^lockstep: rank [012] .*waited 1.5 s for .*: all other ranks are waiting too" ${stuck})
  nccl_fault_test(stuck_aborts of_the_library 3 124 "^emulated NCCL: rank [012] aborts" ${stuck})
  nccl_fault_test(absent of_the_library 3 124 "^lockstep: rank [012] .*waited 1.5 s for NCCL to connect all ranks" "EMULATED_NCCL_FAULT=absent 1 0")
  nccl_fault_test(sleep_before_reduction sleep_before_reduction 3 124 "^lockstep: rank [02] .*no sign of life from rank 1")
  nccl_fault_test(sleep_before_closing sleep_before_closing 2 124 "^lockstep: rank 0 .*no sign of life from rank 1")
  nccl_fault_test(sleep_before_gather sleep_before_gather 3 124 "^lockstep: rank [02] .*for an exchange with all ranks.*no sign of life from rank 1")
  nccl_fault_test(stopped stopped 4 124 "^lockstep: rank [023] .*no sign of life from rank 1")
  nccl_fault_test(killed killed 3 137 ".") # mpirun says which rank
  nccl_fault_test(different_sizes different_sizes 2 134 "^emulated GPU: ")
endif()
