// The devices that this build and machine have, for tests that run on each: ref, cpu and cuda, real or
// emulated. Those that do not open are named on standard output.
#ifndef LOCKSTEP_TESTS_TEST_DEVICES_H
#define LOCKSTEP_TESTS_TEST_DEVICES_H

#include <stdio.h>

#include "device/device.h"

enum { LS_TEST_DEVICES = 3 };

// Opens them all in that order and returns how many; close each with ls_device_close.
static inline int ls_test_devices_open(int precision, LsDevice *devices[LS_TEST_DEVICES])
{
    static const int kinds[LS_TEST_DEVICES] = {LS_DEVICE_REF, LS_DEVICE_CPU, LS_DEVICE_CUDA};
    int count = 0;
    for (int k = 0; k < LS_TEST_DEVICES; k++) {
        LsDeviceOptions options = {.kind = kinds[k], .precision = precision, .threads = 1};
        if (ls_device_open(&options, &devices[count]) == LS_OK)
            count++;
        else
            printf("skipped: %s\n", ls_status_message());
    }
    return count;
}

#endif
