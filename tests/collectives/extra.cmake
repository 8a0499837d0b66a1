# The communicator under mpirun, as root and as anybody, with more ranks than processors.
foreach(program IN ITEMS test_reducer_program test_reducer_progress test_reducer_threads)
  target_include_directories(${program} PRIVATE ${PROJECT_SOURCE_DIR}/collectives) # private headers
endforeach()
set(on_platforms test_reducer test_rounds test_gathers)
foreach(program IN LISTS on_platforms)
  target_sources(${program} PRIVATE ${CMAKE_CURRENT_LIST_DIR}/platforms.c)
  target_link_libraries(${program} PRIVATE lockstep_strict_device)
  target_link_options(${program} PRIVATE -Wl,--wrap=gethostname)
endforeach()
foreach(program IN ITEMS test_reducer test_rounds)
  target_sources(${program} PRIVATE ${CMAKE_CURRENT_LIST_DIR}/lane_sums.c)
endforeach()
foreach(program IN ITEMS test_plan test_plan_hosts)
  target_sources(${program} PRIVATE ${CMAKE_CURRENT_LIST_DIR}/plan_interpreter.c)
endforeach()

set(mpi_environment OMPI_ALLOW_RUN_AS_ROOT=1 OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1)
set(mpi_run ${MPIEXEC_EXECUTABLE} --oversubscribe ${MPIEXEC_NUMPROC_FLAG})

foreach(program IN ITEMS test_comm test_attach ${on_platforms})
  foreach(ranks IN ITEMS 1 2 3 5 8)
    add_test(NAME collectives/${program}_${ranks}_ranks COMMAND ${mpi_run} ${ranks} $<TARGET_FILE:${program}>)
    # All ranks on one emulated GPU, where the build has them.
    set_tests_properties(collectives/${program}_${ranks}_ranks PROPERTIES
      ENVIRONMENT "${mpi_environment};EMULATED_GPUS=1" TIMEOUT 120 LABELS "mpi;collectives" PROCESSORS 2)
  endforeach()
endforeach()

# The same ranks as on several hosts.
foreach(division IN ITEMS "3;2;shared" "5;3;auto" "8;4;shared") # auto: with threads that add up
  list(GET division 0 ranks)
  list(GET division 1 each)
  list(GET division 2 platform)
  foreach(program IN LISTS on_platforms)
    set(name collectives/${program}_${ranks}_ranks_${each}_a_host)
    add_test(NAME ${name} COMMAND ${mpi_run} ${ranks} $<TARGET_FILE:${program}> ${platform})
    set_tests_properties(${name} PROPERTIES ENVIRONMENT "${mpi_environment};RANKS_PER_HOST=${each}" TIMEOUT 120
      LABELS "mpi;collectives" PROCESSORS 2)
  endforeach()
endforeach()

# Failures on purpose: the exit code of the whole job and what its standard error must say.
add_executable(comm_faults ${CMAKE_CURRENT_LIST_DIR}/comm_faults.c)
target_link_libraries(comm_faults PRIVATE lockstep_flags lockstep_collectives lockstep_strict_device)

function(comm_fault_test fault ranks exit_code pattern)
  add_test(NAME collectives/comm_${fault}
    COMMAND ${CMAKE_CURRENT_FUNCTION_LIST_DIR}/expect ${exit_code} "${pattern}"
            ${mpi_run} ${ranks} $<TARGET_FILE:comm_faults> ${fault})
  set_tests_properties(collectives/comm_${fault} PROPERTIES
    ENVIRONMENT "${mpi_environment}" TIMEOUT 60 LABELS "mpi;collectives" PROCESSORS 2)
endfunction()

comm_fault_test(sleep_before_barrier 3 124 "^lockstep: rank [02] .*barrier.*no sign of life from rank 1")
comm_fault_test(sleep_before_reduction 3 124 "^lockstep: rank [02] .*gradients from .*no sign of life from rank 1")
comm_fault_test(sleep_before_staged_reduction 3 124 "^lockstep: rank [02] .*gradients from .*no sign of life from rank 1")
comm_fault_test(sleep_before_threads_reduction 3 124 "^lockstep: rank [02] .*gradients from .*no sign of life from rank 1")
comm_fault_test(stopped_beside_threads 3 124 "^lockstep: rank [02] .*no sign of life from rank 1")
comm_fault_test(killed_beside_threads 3 137 ".")
comm_fault_test(abort_beside_threads 3 65 "^lockstep: rank 1 found bad data$")
comm_fault_test(stuck_device 2 124 "^lockstep: rank [01] .*waited 1.5 s for (its device|all ranks at a barrier): all other ranks are waiting too")
comm_fault_test(stopped 3 124 "^lockstep: rank [02] .*no sign of life from rank 1")
comm_fault_test(different_calls 2 124 "^lockstep: rank [01] .*all other ranks are waiting too")
comm_fault_test(abort 3 65 "^lockstep: rank 1 found bad data$")
comm_fault_test(killed 3 137 ".") # mpirun says which rank
comm_fault_test(suspended 3 0 "") # no fault: nobody was slower than the others

if(LOCKSTEP_GPU MATCHES "emulated|cuda")
  include(${CMAKE_CURRENT_LIST_DIR}/nccl.cmake)
endif()
