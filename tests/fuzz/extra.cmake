# Fuzz targets: tests/fuzz/fuzz_NAME.c, whose first line names the layer it links ("// fuzz: data"), with its corpus in
# tests/fuzz/corpus/NAME/. With LOCKSTEP_FUZZ (clang) each is a libFuzzer program that the test fuzz/NAME runs for 30
# seconds on a copy of the corpus; in other builds the same source runs once over the corpus.
function(lockstep_fuzz name layer)
  set(fuzz_dir ${CMAKE_CURRENT_SOURCE_DIR}/fuzz)
  set(corpus ${fuzz_dir}/corpus/${name})
  set(sources ${fuzz_dir}/fuzz_${name}.c)
  if(NOT LOCKSTEP_FUZZ)
    list(APPEND sources ${fuzz_dir}/replay.c)
  endif()
  add_executable(fuzz_${name} ${sources})
  target_link_libraries(fuzz_${name} PRIVATE lockstep_flags lockstep_${layer})
  target_include_directories(fuzz_${name} PRIVATE ${fuzz_dir}/../support
    $<TARGET_PROPERTY:lockstep_${layer},SOURCE_DIR>) # looks inside
  if(NOT LOCKSTEP_FUZZ)
    add_test(NAME fuzz/${name} COMMAND fuzz_${name} ${corpus})
    set_tests_properties(fuzz/${name} PROPERTIES TIMEOUT 120 LABELS "unit;fuzz")
    return()
  endif()
  target_link_options(fuzz_${name} PRIVATE -fsanitize=fuzzer,address)
  set(work ${CMAKE_CURRENT_BINARY_DIR}/fuzz-${name}) # what is found is kept here, never in the source tree
  set(script "rm -rf '${work}' && mkdir -p '${work}/corpus' && cp -R '${corpus}/.' '${work}/corpus' && exec \"$0\" \
'${work}/corpus' '-artifact_prefix=${work}/' -max_total_time=30 -rss_limit_mb=2048 -timeout=10 -print_final_stats=1")
  add_test(NAME fuzz/${name} COMMAND sh -c ${script} $<TARGET_FILE:fuzz_${name}>)
  set_tests_properties(fuzz/${name} PROPERTIES TIMEOUT 180 LABELS "long;fuzz")
endfunction()

file(GLOB fuzz_sources CONFIGURE_DEPENDS ${CMAKE_CURRENT_SOURCE_DIR}/fuzz/fuzz_*.c)
foreach(source IN LISTS fuzz_sources)
  file(STRINGS ${source} first_line LIMIT_COUNT 1)
  if(NOT first_line MATCHES "^// fuzz: ([a-z]+)$")
    message(FATAL_ERROR "${source}: the first line must name the layer to link, for example \"// fuzz: data\"")
  endif()
  set(fuzz_layer ${CMAKE_MATCH_1})
  get_filename_component(fuzz_name ${source} NAME_WE)
  string(REPLACE "fuzz_" "" fuzz_name ${fuzz_name})
  lockstep_fuzz(${fuzz_name} ${fuzz_layer})
endforeach()
