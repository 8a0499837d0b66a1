# Several hosts that are network namespaces of this machine: needs root, and is skipped visibly elsewhere.
add_test(NAME hosts/train COMMAND /usr/bin/python3 -B ${CMAKE_CURRENT_SOURCE_DIR}/hosts/test_hosts.py)
set_tests_properties(hosts/train PROPERTIES ENVIRONMENT "LOCKSTEP=$<TARGET_FILE:lockstep>;MPIRUN=${MPIEXEC_EXECUTABLE}"
  TIMEOUT 600 SKIP_RETURN_CODE 77 LABELS "end_to_end;hosts" PROCESSORS 2)
