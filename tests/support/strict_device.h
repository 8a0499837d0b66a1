// A device for tests that has the rules of a GPU's memory and the arithmetic of the ref backend.
//
// - Device memory cannot be touched by the host: its pages are closed but while an op or a copy runs, and
//   inputs are open for reading only. A read or write from outside faults at once (SIGSEGV).
// - New memory, and host memory from allocate_host, is filled with 0xFF bytes, which are NaN in every
//   floating-point type.
// - Released memory stays closed until the device is closed, so use after free faults. A closed page guards
//   each allocation; the end of the memory lies at most LS_ALIGNMENT - 1 bytes before it.
// - Every pointer argument is checked: device memory must lie within one living allocation with its whole
//   extent, host memory must not. LS_INTERNAL names the op and the argument.
// - What copy_out wrote arrives when the host has waited: at synchronize, marker_synchronize, or when
//   marker_reached answers yes, of a marker behind the copy in its stream or in one that waited for it. Until
//   then the host sees 0xFF bytes. Memory from allocate_host that copy_in read must be unchanged until then
//   (LS_INTERNAL).
// - marker_reached answers no the first time it is asked about a recorded place. There are no graphs.
#ifndef LOCKSTEP_TESTS_STRICT_DEVICE_H
#define LOCKSTEP_TESTS_STRICT_DEVICE_H

#include "device/device.h"

// precision: LsPrecision; auto means fp32. Close with ls_device_close.
LsStatus ls_strict_device_open(int precision, LsDevice **out);

#endif
