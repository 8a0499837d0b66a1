# These tests look inside.
foreach(name IN ITEMS test_hosts test_listener test_policy test_watch test_scratch)
  target_include_directories(${name} PRIVATE ${PROJECT_SOURCE_DIR}/launch/supervisor)
endforeach()

# For tests of the whole program: a rank that aborts at a chosen step.
add_library(abort_at_step MODULE supervisor/abort_at_step.c)
target_link_libraries(abort_at_step PRIVATE lockstep_flags ${CMAKE_DL_LIBS})
lockstep_preloaded(abort_at_step supervisor/abort_at_step.c)
