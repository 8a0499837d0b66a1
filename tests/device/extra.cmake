# What tests of devices share with tests of other layers and with the benchmark of the ops.
add_library(lockstep_strict_device STATIC support/strict_device.c support/strict_copies.c support/strict_ops.c
            support/strict_images.c)
target_include_directories(lockstep_strict_device PUBLIC support)
target_link_libraries(lockstep_strict_device PUBLIC lockstep_device PRIVATE lockstep_flags)

add_library(lockstep_op_cases STATIC support/op_list.c support/op_cases.c support/op_call.c
            support/op_expect.c support/op_language.c support/op_language_expect.c support/op_image.c
            support/op_image_expect.c)
target_include_directories(lockstep_op_cases PUBLIC support)
target_link_libraries(lockstep_op_cases PUBLIC lockstep_device PRIVATE lockstep_flags)

target_link_libraries(test_ops PRIVATE lockstep_op_cases lockstep_strict_device)
target_link_libraries(test_strict_device PRIVATE lockstep_strict_device)
target_link_libraries(test_isa PRIVATE lockstep_op_cases)
target_link_libraries(test_scratchpads PRIVATE lockstep_op_cases -Wl,--wrap=ls_cpu_memory_grow)
target_include_directories(test_scratchpads PRIVATE ${PROJECT_SOURCE_DIR}/runtime/device)
# Every case on every device, which on a busy machine, with sanitizers besides, takes its time.
set_tests_properties(device/test_ops PROPERTIES TIMEOUT 300)

# The cuda device; its tests say that they are skipped where there is none.
foreach(name IN ITEMS test_cuda test_cuda_products)
  target_sources(${name} PRIVATE device/cuda/cuda_fixture.c)
endforeach()

# Kernels called past the device, on a GPU or the emulated one.
if(NOT LOCKSTEP_GPU STREQUAL "none")
  foreach(name IN ITEMS test_cuda_sums test_cuda_losses test_cuda_language)
    add_executable(${name} device/cuda/${name}.c device/cuda/kernel_arrays.c)
    target_include_directories(${name} PRIVATE ${PROJECT_SOURCE_DIR}/runtime/device
                               ${PROJECT_SOURCE_DIR}/runtime/device/cuda)
    target_link_libraries(${name} PRIVATE lockstep_flags lockstep_device PkgConfig::CMOCKA m
                          $<IF:$<STREQUAL:${LOCKSTEP_GPU},cuda>,CUDA::cudart_static,lockstep_emulator>)
    add_test(NAME device/${name} COMMAND ${name})
    set_tests_properties(device/${name} PROPERTIES TIMEOUT 120 SKIP_RETURN_CODE 77 LABELS "unit;device")
  endforeach()
endif()

# What needs no GPU at all.
if(NOT LOCKSTEP_GPU STREQUAL "none")
  add_executable(test_cuda_peaks device/cuda/test_cuda_peaks.c)
  target_include_directories(test_cuda_peaks PRIVATE ${PROJECT_SOURCE_DIR}/runtime/device/cuda)
  target_link_libraries(test_cuda_peaks PRIVATE lockstep_flags lockstep_device PkgConfig::CMOCKA
                        $<IF:$<STREQUAL:${LOCKSTEP_GPU},cuda>,CUDA::cudart_static,lockstep_emulator>)
  add_test(NAME device/test_cuda_peaks COMMAND test_cuda_peaks)
  set_tests_properties(device/test_cuda_peaks PROPERTIES TIMEOUT 60 LABELS "unit;device")
endif()

# Who computes attention and convolutions, with the private hooks that forbid cuDNN.
if(NOT LOCKSTEP_GPU STREQUAL "none")
  foreach(name IN ITEMS test_cuda_attention test_cuda_convolution)
    add_executable(${name} device/cuda/${name}.c device/cuda/cuda_fixture.c)
    target_include_directories(${name} PRIVATE ${PROJECT_SOURCE_DIR}/runtime/device/cuda)
    target_link_libraries(${name} PRIVATE lockstep_flags lockstep_op_cases lockstep_device PkgConfig::CMOCKA m
                          $<IF:$<STREQUAL:${LOCKSTEP_GPU},cuda>,CUDA::cudart_static,lockstep_emulator>)
    add_test(NAME device/${name} COMMAND ${name})
    set_tests_properties(device/${name} PROPERTIES TIMEOUT 120 SKIP_RETURN_CODE 77 LABELS "unit;device")
  endforeach()
endif()

# Plans of the real cuDNN, for GPUs that need not be here. One that is must not be asked either: a stand-in for the
# driver comes first.
if(LOCKSTEP_GPU STREQUAL "cuda")
  add_library(test_cuda_driver SHARED device/cuda/driver/cuda_driver.c)
  target_link_libraries(test_cuda_driver PRIVATE lockstep_flags)
  set_target_properties(test_cuda_driver PROPERTIES OUTPUT_NAME cuda SOVERSION 1
                        LIBRARY_OUTPUT_DIRECTORY ${CMAKE_CURRENT_BINARY_DIR}/cuda_driver)
  add_executable(test_cudnn_plans device/cuda/test_cudnn_plans.c)
  target_include_directories(test_cudnn_plans PRIVATE ${PROJECT_SOURCE_DIR}/runtime/device/cuda)
  target_link_libraries(test_cudnn_plans PRIVATE lockstep_flags lockstep_device PkgConfig::CMOCKA CUDA::cudart_static)
  add_dependencies(test_cudnn_plans test_cuda_driver)
  add_test(NAME device/test_cudnn_plans COMMAND test_cudnn_plans)
  set_tests_properties(device/test_cudnn_plans PROPERTIES TIMEOUT 300 SKIP_RETURN_CODE 77 LABELS "unit;device"
                       ENVIRONMENT_MODIFICATION LD_LIBRARY_PATH=path_list_prepend:${CMAKE_CURRENT_BINARY_DIR}/cuda_driver)
endif()
