// HDF5 loses memory over files that it cannot open, which is not ours to mend: the leak sanitizer is told so.
// For one source file of a program.
#ifndef LOCKSTEP_TESTS_HDF5_LEAKS_H
#define LOCKSTEP_TESTS_HDF5_LEAKS_H

__attribute__((visibility("default"))) const char *__lsan_default_suppressions(void);
const char *__lsan_default_suppressions(void)
{
    return "leak:libhdf5";
}

#endif
