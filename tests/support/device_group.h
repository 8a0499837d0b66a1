// For programs that run each test on every device in FP32: a cmocka group's set-up and tear-down, and the
// devices.
#ifndef LOCKSTEP_TESTS_DEVICE_GROUP_H
#define LOCKSTEP_TESTS_DEVICE_GROUP_H

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "test_devices.h"

static LsDevice *devices[LS_TEST_DEVICES];
static int device_count;

static int open_devices(void **unused)
{
    (void)unused;
    device_count = ls_test_devices_open(LS_PRECISION_FP32, devices);
    return device_count > 0 ? 0 : -1;
}

static int close_devices(void **unused)
{
    (void)unused;
    for (int d = 0; d < device_count; d++)
        ls_device_close(devices[d]);
    return 0;
}

// A copy in the device's memory, to be released by its `release`.
static inline void *on_device(LsDevice *device, const void *from, size_t bytes)
{
    void *memory;
    assert_int_equal(device->ops->allocate(device, bytes, &memory), LS_OK);
    assert_int_equal(device->ops->copy_in(device, memory, from, bytes), LS_OK);
    assert_int_equal(device->ops->synchronize(device), LS_OK);
    return memory;
}

#endif
