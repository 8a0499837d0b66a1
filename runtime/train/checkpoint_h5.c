// The only file of the layer that knows HDF5. It makes the file's structure; the numbers are written by all
// ranks past the library, at the offsets that it gave the data sets.
#include <hdf5.h>

#include <stdlib.h>
#include <string.h>

#include "manifest.h"

// Every object starts on a page: a block is 16 KiB, so no two ranks ever write to one page, which network
// file systems would have to merge.
enum { PAGE = 4096, REASON_MAX = 400 };

// A file that HDF5 could not finish stays in its tables, and its clean-up at exit trips over it. Nothing is
// left to that clean-up: every file is closed where it was opened. This must come before any other call.
__attribute__((constructor)) static void leave_out_clean_up(void)
{
    H5dont_atexit();
}

static herr_t keep_innermost(unsigned depth, const H5E_error2_t *error, void *text)
{
    (void)depth;
    if (*(char *)text == '\0' && error->desc != NULL)
        snprintf(text, REASON_MAX, "%s", error->desc);
    return 0;
}

// Turns the library's error stack into one line.
static LsStatus fail_hdf5(const char *action, const char *what, const char *path)
{
    char reason[REASON_MAX] = "";
    H5Ewalk2(H5E_DEFAULT, H5E_WALK_UPWARD, keep_innermost, reason);
    for (char *c = reason; *c; c++)
        if (*c == '\n' || *c == '\r')
            *c = ' ';
    return LS_FAIL(LS_IO, "cannot %s %s in %s: HDF5: %s", action, what, path, *reason ? reason : "no reason");
}

// Identifiers that every data set needs; H5I_INVALID_HID where not made.
typedef struct Properties {
    hid_t file_access, links, data;
} Properties;

static void properties_close(Properties *properties)
{
    if (properties->data >= 0)
        H5Pclose(properties->data);
    if (properties->links >= 0)
        H5Pclose(properties->links);
    if (properties->file_access >= 0)
        H5Pclose(properties->file_access);
}

static bool properties_open(Properties *out)
{
    *out =
        (Properties){H5Pcreate(H5P_FILE_ACCESS), H5Pcreate(H5P_LINK_CREATE), H5Pcreate(H5P_DATASET_CREATE)};
    return out->file_access >= 0 && out->links >= 0 && out->data >= 0 &&
           H5Pset_alignment(out->file_access, 1, PAGE) >= 0 &&
           H5Pset_small_data_block_size(out->file_access, 0) >= 0 &&
           H5Pset_create_intermediate_group(out->links, 1) >= 0 &&
           H5Pset_layout(out->data, H5D_CONTIGUOUS) >= 0 &&
           H5Pset_alloc_time(out->data, H5D_ALLOC_TIME_EARLY) >= 0 &&
           H5Pset_fill_time(out->data, H5D_FILL_TIME_NEVER) >= 0 &&
           // Without times the same state makes the same file.
           H5Pset_obj_track_times(out->data, false) >= 0;
}

static LsStatus create_tensor(
    hid_t file, const Properties *properties, const char *path, LsManifestTensor *tensor)
{
    hsize_t shape[LS_DIMENSIONS_MAX];
    for (int i = 0; i < tensor->dimensions; i++)
        shape[i] = tensor->shape[i];
    hid_t space = H5Screate_simple(tensor->dimensions, shape, NULL);
    if (space < 0)
        return fail_hdf5("describe", tensor->path, path);
    hid_t data = H5Dcreate2(
        file, tensor->path, H5T_IEEE_F32LE, space, properties->links, properties->data, H5P_DEFAULT);
    LsStatus status = LS_OK;
    if (data < 0) {
        status = fail_hdf5("create", tensor->path, path);
    } else {
        haddr_t offset = H5Dget_offset(data);
        if (offset == HADDR_UNDEF)
            status = fail_hdf5("locate", tensor->path, path);
        tensor->offset = offset;
        if (H5Dclose(data) < 0 && status == LS_OK)
            status = fail_hdf5("close", tensor->path, path);
    }
    H5Sclose(space);
    return status;
}

static LsStatus create_tensors(
    hid_t file, const Properties *properties, const char *path, LsManifest *manifest)
{
    for (size_t i = 0; i < manifest->tensors; i++)
        LS_TRY(create_tensor(file, properties, path, &manifest->tensor[i]));
    return LS_OK;
}

static LsStatus create_file(const char *path, LsManifest *manifest)
{
    Properties properties;
    LsStatus status = LS_OK;
    if (!properties_open(&properties)) {
        status = fail_hdf5("prepare", "properties", path);
        goto close_properties;
    }
    hid_t file = H5Fcreate(path, H5F_ACC_EXCL, H5P_DEFAULT, properties.file_access);
    if (file < 0) {
        status = fail_hdf5("create", "a file", path);
        goto close_properties;
    }
    status = create_tensors(file, &properties, path, manifest);
    if (H5Fclose(file) < 0 && status == LS_OK)
        status = fail_hdf5("close", "the file", path);
close_properties:
    properties_close(&properties);
    return status;
}

LsStatus ls_state_file_create(const char *path, LsManifest *manifest)
{
    LsStatus status;
    // The library prints its error stack unless told not to, and we say it in one line.
    H5E_BEGIN_TRY
    {
        status = create_file(path, manifest);
    }
    H5E_END_TRY
    return status;
}
