# The batch script in launch/slurm under a real Slurm of virtual nodes; skipped where that cannot be.
add_library(slow_steps MODULE slurm/slow_steps.c)
target_link_libraries(slow_steps PRIVATE lockstep_flags ${CMAKE_DL_LIBS})

function(lockstep_slurm_test name timeout labels)
  add_test(NAME slurm/${name} COMMAND /usr/bin/python3 -B ${CMAKE_CURRENT_SOURCE_DIR}/slurm/test_slurm.py ${ARGN})
  set_tests_properties(slurm/${name} PROPERTIES
    ENVIRONMENT "LOCKSTEP=$<TARGET_FILE:lockstep>;MPIRUN=${MPIEXEC_EXECUTABLE};SLOW_STEPS=$<TARGET_FILE:slow_steps>"
    TIMEOUT ${timeout} PROCESSORS 1 SKIP_RETURN_CODE 77 LABELS "${labels}")
endfunction()

lockstep_slurm_test(every_day 400 "end_to_end;slurm" TrainsOn)
lockstep_slurm_test(every_event 5400 "end_to_end;slurm;long" EveryEvent SparingSite RequeuingSite)

add_test(NAME slurm/launch_srun COMMAND /usr/bin/python3 -B ${CMAKE_CURRENT_SOURCE_DIR}/slurm/test_launch_srun.py)
set_tests_properties(slurm/launch_srun PROPERTIES
  ENVIRONMENT "LOCKSTEP=$<TARGET_FILE:lockstep>" TIMEOUT 600 PROCESSORS 1 SKIP_RETURN_CODE 77 LABELS "end_to_end;slurm;long")
