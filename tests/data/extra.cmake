# The data tests look inside the layer.
file(GLOB data_tests CONFIGURE_DEPENDS ${CMAKE_CURRENT_SOURCE_DIR}/data/test_*.c)
foreach(source IN LISTS data_tests)
  get_filename_component(name ${source} NAME_WE)
  target_include_directories(${name} PRIVATE ${PROJECT_SOURCE_DIR}/runtime/data)
  target_link_libraries(${name} PRIVATE PkgConfig::ZLIB)
endforeach()
target_link_libraries(test_image PRIVATE PkgConfig::TURBOJPEG PkgConfig::PNG) # which encode
target_link_libraries(test_encoded PRIVATE PkgConfig::TURBOJPEG)

# What we write is what h5py reads.
add_executable(write_example_dataset data/write_example_dataset.c)
target_include_directories(write_example_dataset PRIVATE ${PROJECT_SOURCE_DIR}/runtime/data
                                                         ${CMAKE_CURRENT_SOURCE_DIR}/support)
target_link_libraries(write_example_dataset PRIVATE lockstep_flags lockstep_data PkgConfig::CMOCKA)
add_test(NAME data/check_h5py COMMAND /usr/bin/python3 ${CMAKE_CURRENT_SOURCE_DIR}/data/check_h5py.py
                                      $<TARGET_FILE:write_example_dataset>)
set_tests_properties(data/check_h5py PROPERTIES TIMEOUT 120 SKIP_RETURN_CODE 77 LABELS "unit;data")

# The tokenizer against a reference in Python.
foreach(case IN ITEMS tokenizer gpt2)
  set(arguments $<TARGET_FILE:lockstep> ${PROJECT_SOURCE_DIR})
  if(case STREQUAL "gpt2")
    list(APPEND arguments --gpt2)
  endif()
  add_test(NAME data/check_${case} COMMAND /usr/bin/python3 ${CMAKE_CURRENT_SOURCE_DIR}/data/check_tokenizer.py ${arguments})
  set_tests_properties(data/check_${case} PROPERTIES TIMEOUT 120 SKIP_RETURN_CODE 77 LABELS "unit;data")
endforeach()
add_test(NAME data/check_import_text COMMAND /usr/bin/python3 ${CMAKE_CURRENT_SOURCE_DIR}/data/check_import_text.py
                                             $<TARGET_FILE:lockstep>)
set_tests_properties(data/check_import_text PROPERTIES TIMEOUT 120 SKIP_RETURN_CODE 77 LABELS "unit;data")
