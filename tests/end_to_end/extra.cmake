# The whole program from outside: one Python program for each subject, run alone with a deadline.
add_library(slow_steps MODULE end_to_end/slow_steps.c)
lockstep_preloaded(slow_steps end_to_end/slow_steps.c)
target_include_directories(slow_steps PRIVATE $<TARGET_PROPERTY:DNNL::dnnl,INTERFACE_INCLUDE_DIRECTORIES>)
target_link_libraries(slow_steps PRIVATE lockstep_flags ${CMAKE_DL_LIBS})
file(GLOB end_to_end_tests CONFIGURE_DEPENDS ${CMAKE_CURRENT_SOURCE_DIR}/end_to_end/test_*.py)
foreach(source IN LISTS end_to_end_tests)
  get_filename_component(name ${source} NAME_WE)
  add_test(NAME end_to_end/${name} COMMAND /usr/bin/python3 -B ${source})
  set_tests_properties(end_to_end/${name} PROPERTIES
    ENVIRONMENT "LOCKSTEP=$<TARGET_FILE:lockstep>;MPIRUN=${MPIEXEC_EXECUTABLE};LOCKSTEP_BUILD=${CMAKE_BINARY_DIR};ABORT_AT_STEP_LIBRARY=$<TARGET_FILE:abort_at_step>;SLOW_STEPS_LIBRARY=$<TARGET_FILE:slow_steps>"
    TIMEOUT 1200 SKIP_RETURN_CODE 77 LABELS "end_to_end")
  if(name MATCHES "_long$")
    set_property(TEST end_to_end/${name} APPEND PROPERTY LABELS long)
  endif()
endforeach()

# Wrong and slow products, wrong sums. The sanitizers' runtime has to come before every other library, so such builds go without.
if(NOT LOCKSTEP_SANITIZE)
  add_library(wrong_products MODULE end_to_end/wrong_products.c)
  target_include_directories(wrong_products PRIVATE $<TARGET_PROPERTY:DNNL::dnnl,INTERFACE_INCLUDE_DIRECTORIES>)
  target_link_libraries(wrong_products PRIVATE lockstep_flags ${CMAKE_DL_LIBS})
  set_property(TEST end_to_end/test_guard end_to_end/test_buckets APPEND PROPERTY
    ENVIRONMENT "WRONG_PRODUCTS_LIBRARY=$<TARGET_FILE:wrong_products>")
  add_library(wrong_sums MODULE end_to_end/wrong_sums.c)
  target_link_libraries(wrong_sums PRIVATE lockstep_flags MPI::MPI_C)
  set_property(TEST end_to_end/test_bench APPEND PROPERTY ENVIRONMENT "WRONG_SUMS_LIBRARY=$<TARGET_FILE:wrong_sums>")
endif()
