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
target_link_libraries(test_conversions PRIVATE lockstep_device)

# The race checker: kernels that tell of every access (the compiler's thread sanitizer without its library), in a test
# of the checker and in the device library's own kernels under all op cases.
function(lockstep_watch_copies target)
  if(CMAKE_CXX_COMPILER_ID STREQUAL Clang)
    add_custom_command(TARGET ${target} PRE_LINK COMMAND_EXPAND_LISTS VERBATIM
      COMMAND ${PROJECT_SOURCE_DIR}/tests/emulator/watch-copies ${CMAKE_OBJCOPY} $<TARGET_OBJECTS:${target}>)
  endif()
endfunction()
if(NOT LOCKSTEP_SANITIZE MATCHES thread)
  file(GLOB kernels CONFIGURE_DEPENDS ${PROJECT_SOURCE_DIR}/runtime/device/cuda/kernels/*.cu)
  set_source_files_properties(${kernels} ${CMAKE_CURRENT_LIST_DIR}/tests/test_races.cu PROPERTIES LANGUAGE CXX
                              COMPILE_OPTIONS "-xc++;-fno-sanitize=all;-fsanitize=thread;-O1;-ffp-contract=off;-fno-strict-aliasing;-Wno-unknown-pragmas;-Wno-pass-failed")
  # Linked as objects, they come before those of the library's archive.
  add_executable(kernel_races ${CMAKE_CURRENT_LIST_DIR}/tests/kernel_races.c ${kernels})
  target_include_directories(kernel_races PRIVATE ${CMAKE_CURRENT_LIST_DIR})
  target_link_libraries(kernel_races PRIVATE lockstep_flags lockstep_op_cases lockstep_device lockstep_emulator
                        PkgConfig::CMOCKA)
  lockstep_watch_copies(kernel_races)
  lockstep_watch_copies(test_races)
  add_test(NAME emulator/kernel_races COMMAND kernel_races)
  # Attention and convolutions are our own kernels' here.
  set_tests_properties(emulator/kernel_races PROPERTIES TIMEOUT 300 LABELS "unit;emulator"
                       ENVIRONMENT "EMULATED_CUDNN=missing")
endif()

# Results must not depend on the order of threads: the op cases once more in a shuffled one. The sanitizers would see
# nothing new in it.
if(NOT LOCKSTEP_SANITIZE)
  add_test(NAME emulator/ops_shuffled COMMAND test_ops)
  set_tests_properties(emulator/ops_shuffled PROPERTIES TIMEOUT 300 LABELS "unit;emulator"
                       ENVIRONMENT "EMULATED_GPU_SEED=20177;EMULATED_CUDNN=missing")
endif()
