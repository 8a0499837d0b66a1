# What tests of devices share with tests of other layers and with the benchmark of the ops.
add_library(lockstep_strict_device STATIC support/strict_device.c support/strict_copies.c support/strict_ops.c)
target_include_directories(lockstep_strict_device PUBLIC support)
target_link_libraries(lockstep_strict_device PUBLIC lockstep_device PRIVATE lockstep_flags)

add_library(lockstep_op_cases STATIC support/op_list.c support/op_cases.c support/op_call.c
            support/op_expect.c)
target_include_directories(lockstep_op_cases PUBLIC support)
target_link_libraries(lockstep_op_cases PUBLIC lockstep_device PRIVATE lockstep_flags)

target_link_libraries(test_ops PRIVATE lockstep_op_cases lockstep_strict_device)
target_link_libraries(test_strict_device PRIVATE lockstep_strict_device)
target_link_libraries(test_isa PRIVATE lockstep_op_cases)
