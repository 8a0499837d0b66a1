# launch/kubernetes without a cluster: its manifests, its image, and runs in pods that are namespaces of this machine.
# These need root or container tools, and are skipped visibly elsewhere. What sanitizers look for is tested elsewhere.
function(lockstep_kubernetes_test name program)
  add_test(NAME kubernetes/${name}
    COMMAND /usr/bin/python3 -B ${CMAKE_CURRENT_SOURCE_DIR}/kubernetes/${program} ${ARGN})
  set_tests_properties(kubernetes/${name} PROPERTIES
    ENVIRONMENT "LOCKSTEP=$<TARGET_FILE:lockstep>;MPIRUN=${MPIEXEC_EXECUTABLE}"
    TIMEOUT 1200 SKIP_RETURN_CODE 77 LABELS "kubernetes")
endfunction()

if(NOT LOCKSTEP_SANITIZE)
  lockstep_kubernetes_test(manifests test_manifests.py)
  lockstep_kubernetes_test(pods test_pods.py short)
  lockstep_kubernetes_test(pods_long test_pods.py long)
  lockstep_kubernetes_test(image test_image.py)
  set_property(TEST kubernetes/pods_long kubernetes/image APPEND PROPERTY LABELS long)
  set_tests_properties(kubernetes/image PROPERTIES TIMEOUT 3600) # it builds everything anew
endif()
