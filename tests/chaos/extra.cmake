# A small run under faults: see tests/chaos/chaos.py. The sanitizers' runtime has to come before every other library, so
# such builds go without.
if(NOT LOCKSTEP_SANITIZE)
  add_library(chaos_shim MODULE chaos/shim.c chaos/shim_journal.c chaos/shim_world.c)
  target_link_libraries(chaos_shim PRIVATE lockstep_flags Threads::Threads ${CMAKE_DL_LIBS})
  # The library defines what the compiler thinks it knows.
  target_compile_options(chaos_shim PRIVATE -fno-builtin -U_FORTIFY_SOURCE)
  set(chaos_environment
    "LOCKSTEP=$<TARGET_FILE:lockstep>;MPIRUN=${MPIEXEC_EXECUTABLE};CHAOS_SHIM=$<TARGET_FILE:chaos_shim>")
  add_test(NAME chaos/schedules
    COMMAND /usr/bin/python3 -B ${CMAKE_CURRENT_SOURCE_DIR}/chaos/chaos.py --schedules 20 --faults 3 --jobs 2)
  set_tests_properties(chaos/schedules PROPERTIES ENVIRONMENT "${chaos_environment}" TIMEOUT 1200
    SKIP_RETURN_CODE 77 LABELS "end_to_end")
  add_test(NAME chaos/long
    COMMAND /usr/bin/python3 -B ${CMAKE_CURRENT_SOURCE_DIR}/chaos/chaos.py --total 1000 --jobs 2
      --table ${CMAKE_BINARY_DIR}/check-chaos.log)
  set_tests_properties(chaos/long PROPERTIES ENVIRONMENT "${chaos_environment}" TIMEOUT 7200
    SKIP_RETURN_CODE 77 LABELS "long;end_to_end")
endif()
