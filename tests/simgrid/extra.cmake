# `lockstep bench scaling --predict` against SimGrid (libsimgrid-dev); skipped where there is none.
function(lockstep_simgrid_test name timeout labels)
  add_test(NAME simgrid/${name} COMMAND /usr/bin/python3 -B ${CMAKE_CURRENT_SOURCE_DIR}/simgrid/test_simgrid.py ${ARGN})
  set_tests_properties(simgrid/${name} PROPERTIES ENVIRONMENT "LOCKSTEP=$<TARGET_FILE:lockstep>"
    TIMEOUT ${timeout} PROCESSORS 1 SKIP_RETURN_CODE 77 LABELS "${labels}")
endfunction()

lockstep_simgrid_test(steps 300 "end_to_end;simgrid")
lockstep_simgrid_test(many_ranks 3600 "end_to_end;simgrid;long" long)
