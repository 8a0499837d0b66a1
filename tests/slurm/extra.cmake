# The batch script in launch/slurm under a real Slurm of virtual nodes; skipped where that cannot be.
function(lockstep_slurm_test name timeout labels)
  add_test(NAME slurm/${name} COMMAND /usr/bin/python3 -B ${CMAKE_CURRENT_SOURCE_DIR}/slurm/test_slurm.py ${ARGN})
  set_tests_properties(slurm/${name} PROPERTIES
    ENVIRONMENT "LOCKSTEP=$<TARGET_FILE:lockstep>;MPIRUN=${MPIEXEC_EXECUTABLE};SLOW_STEPS_LIBRARY=$<TARGET_FILE:slow_steps>"
    TIMEOUT ${timeout} PROCESSORS 1 SKIP_RETURN_CODE 77 LABELS "${labels}")
endfunction()

lockstep_slurm_test(every_day 400 "end_to_end;slurm" TrainsOn)
lockstep_slurm_test(every_event 5400 "end_to_end;slurm;long" EveryEvent SparingSite RequeuingSite)

add_test(NAME slurm/launch_srun COMMAND /usr/bin/python3 -B ${CMAKE_CURRENT_SOURCE_DIR}/slurm/test_launch_srun.py)
set_tests_properties(slurm/launch_srun PROPERTIES
  ENVIRONMENT "LOCKSTEP=$<TARGET_FILE:lockstep>;SLOW_STEPS_LIBRARY=$<TARGET_FILE:slow_steps>" TIMEOUT 600 PROCESSORS 1 SKIP_RETURN_CODE 77 LABELS "end_to_end;slurm;long")

add_test(NAME slurm/scaling COMMAND /usr/bin/python3 -B ${CMAKE_CURRENT_SOURCE_DIR}/slurm/test_scaling.py)
set_tests_properties(slurm/scaling PROPERTIES
  ENVIRONMENT "LOCKSTEP=$<TARGET_FILE:lockstep>" TIMEOUT 1800 PROCESSORS 1 SKIP_RETURN_CODE 77 LABELS "end_to_end;slurm;long")
