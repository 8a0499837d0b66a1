# Tests of the emulated GPU itself: tests/test_*.c and, with kernels in them, tests/test_*.cu.
file(GLOB sources CONFIGURE_DEPENDS ${CMAKE_CURRENT_LIST_DIR}/tests/test_*.c ${CMAKE_CURRENT_LIST_DIR}/tests/test_*.cu)
foreach(source IN LISTS sources)
  get_filename_component(name ${source} NAME_WE)
  if(source MATCHES "\\.cu$")
    set_source_files_properties(${source} PROPERTIES LANGUAGE CXX COMPILE_OPTIONS "-xc++")
  endif()
  add_executable(${name} ${source})
  target_include_directories(${name} PRIVATE ${CMAKE_CURRENT_LIST_DIR})
  target_link_libraries(${name} PRIVATE lockstep_flags lockstep_emulator PkgConfig::CMOCKA)
  add_test(NAME emulator/${name} COMMAND ${name})
  set_tests_properties(emulator/${name} PROPERTIES TIMEOUT 120 SKIP_RETURN_CODE 77 LABELS "unit;emulator")
endforeach()

# The conversions of the kernel language are compared with the runtime's.
target_link_libraries(test_float16 PRIVATE lockstep_device)
