#include <hdf5.h>
#include <stdio.h>

#include "data/dataset.h"

const char *ls_dataset_library_version(void)
{
    static char text[64];
    unsigned major = 0, minor = 0, release = 0;
    H5get_libversion(&major, &minor, &release);
    snprintf(text, sizeof text, "HDF5 %u.%u.%u", major, minor, release);
    return text;
}
