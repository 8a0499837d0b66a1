#include "dataset_hdf5.h"

#include <errno.h>
#include <fcntl.h>
#include <hdf5.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/file.h"
#include "base/memory.h"

enum { DEFLATE_LEVEL = 4, NAME_SIZE = 256 };

struct LsHdf5 {
    char *path;
    hid_t file; // -1 once finished
    int fd;
    uint64_t size; // of the file, when reading
    bool writing;
};

// Failures become our sentences; the library would print its own. All files are closed by us; the library's
// own cleaning up at exit would only crash over a file whose close failed on a full disk.
static void prepare_library(void)
{
    H5dont_atexit();
    H5Eset_auto2(H5E_DEFAULT, NULL, NULL);
}

// Access properties: checksummed metadata, no locks (files are replaced, never changed), and no small blocks
// shared by values, so that a chunk is found at the end of the file right after it was written.
static hid_t access_properties(void)
{
    hid_t access = H5Pcreate(H5P_FILE_ACCESS);
    H5Pset_libver_bounds(access, H5F_LIBVER_V110, H5F_LIBVER_V110);
    H5Pset_file_locking(access, false, true);
    H5Pset_small_data_block_size(access, 0);
    return access;
}

static hid_t create_type(LsHdf5Type type, uint64_t text_bytes)
{
    hid_t made;
    switch (type) {
    case LS_HDF5_U8:
        return H5Tcopy(H5T_STD_U8LE);
    case LS_HDF5_F32:
        return H5Tcopy(H5T_IEEE_F32LE);
    case LS_HDF5_I32:
        return H5Tcopy(H5T_STD_I32LE);
    case LS_HDF5_U16:
        return H5Tcopy(H5T_STD_U16LE);
    case LS_HDF5_U32:
        return H5Tcopy(H5T_STD_U32LE);
    case LS_HDF5_U64:
        return H5Tcopy(H5T_STD_U64LE);
    case LS_HDF5_CHUNK: {
        hid_t hash = H5Tarray_create2(H5T_STD_U8LE, 1, (hsize_t[]){16});
        made = H5Tcreate(H5T_COMPOUND, 32);
        H5Tinsert(made, "offset", 0, H5T_STD_U64LE);
        H5Tinsert(made, "bytes", 8, H5T_STD_U64LE);
        H5Tinsert(made, "hash", 16, hash);
        H5Tclose(hash);
        return made;
    }
    case LS_HDF5_TEXT:
        made = H5Tcopy(H5T_C_S1);
        H5Tset_size(made, text_bytes);
        H5Tset_cset(made, H5T_CSET_UTF8);
        H5Tset_strpad(made, H5T_STR_NULLPAD);
        return made;
    }
    return -1;
}

static size_t type_bytes(LsHdf5Type type)
{
    static const size_t bytes[] = {[LS_HDF5_U8] = 1,
        [LS_HDF5_F32] = 4,
        [LS_HDF5_I32] = 4,
        [LS_HDF5_U16] = 2,
        [LS_HDF5_U32] = 4,
        [LS_HDF5_U64] = 8,
        [LS_HDF5_CHUNK] = 32,
        [LS_HDF5_TEXT] = 1};
    return bytes[type];
}

// Takes the descriptor that the library opened, so that both mean the same file whatever its name means
// later.
static LsStatus take_descriptor(LsHdf5 *file)
{
    int *descriptor = NULL;
    struct stat information;
    if (H5Fget_vfd_handle(file->file, H5P_DEFAULT, (void **)&descriptor) < 0 || descriptor == NULL)
        return LS_FAIL(LS_INTERNAL, "%s: HDF5 gives no file descriptor", file->path);
    file->fd = fcntl(*descriptor, F_DUPFD_CLOEXEC, 0);
    if (file->fd < 0 || fstat(file->fd, &information) != 0)
        return ls_file_fail("open", file->path);
    file->size = (uint64_t)information.st_size;
    return LS_OK;
}

static LsStatus allocate_file(const char *path, LsHdf5 **out)
{
    LsHdf5 *file = calloc(1, sizeof *file);
    char *copy = strdup(path);
    if (file == NULL || copy == NULL) {
        free(file);
        free(copy);
        return LS_FAIL(LS_INTERNAL, "%s: out of memory", path);
    }
    *file = (LsHdf5){.path = copy, .file = -1, .fd = -1};
    *out = file;
    return LS_OK;
}

// What the system says about the file, and whether it begins as HDF5 does: sentences better than the
// library's.
static LsStatus check_signature(const char *path)
{
    static const uint8_t signature[8] = {0x89, 'H', 'D', 'F', '\r', '\n', 0x1a, '\n'};
    uint8_t bytes[8];
    struct stat information;
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0)
        return ls_file_fail("open", path);
    LsStatus status = LS_OK;
    if (fstat(fd, &information) != 0)
        status = ls_file_fail("examine", path);
    else if (!S_ISREG(information.st_mode))
        status = LS_FAIL(LS_BAD_DATA, "%s is not a regular file; give a data set file", path);
    else if (information.st_size < 8)
        status = LS_FAIL(LS_BAD_DATA, "%s: %lld bytes are no data set", path, (long long)information.st_size);
    else
        status = ls_file_read_at(fd, path, bytes, sizeof bytes, 0);
    if (status == LS_OK && memcmp(bytes, signature, sizeof bytes) != 0)
        status = LS_FAIL(LS_BAD_DATA,
            "%s is no HDF5 file (its first 8 bytes are not the signature); import the data with 'lockstep "
            "data "
            "import'",
            path);
    close(fd);
    return status;
}

LsStatus ls_hdf5_open(const char *path, LsHdf5 **out)
{
    prepare_library();
    LS_TRY(check_signature(path));
    LsHdf5 *file = NULL;
    LS_TRY(allocate_file(path, &file));
    hid_t access = access_properties();
    file->file = H5Fopen(path, H5F_ACC_RDONLY, access);
    H5Pclose(access);
    LsStatus status;
    if (file->file < 0)
        status =
            LS_FAIL(LS_BAD_DATA, "%s is truncated or damaged: HDF5 cannot open it; import it again", path);
    else
        status = take_descriptor(file);
    if (status != LS_OK) {
        ls_hdf5_close(file);
        return status;
    }
    *out = file;
    return LS_OK;
}

// Does the link exist, and every group on the way to it? Negative: the file is damaged.
static int link_exists(hid_t file, const char *name)
{
    char group[NAME_SIZE];
    const char *slash = strrchr(name, '/');
    if (slash != name) {
        snprintf(group, sizeof group, "%.*s", (int)(slash - name), name);
        int exists = H5Lexists(file, group, H5P_DEFAULT);
        if (exists <= 0)
            return exists;
    }
    return H5Lexists(file, name, H5P_DEFAULT);
}

static LsStatus read_type(const LsHdf5 *file, const char *name, hid_t set, LsHdf5Set *out)
{
    hid_t type = H5Dget_type(set);
    if (type >= 0 && H5Tget_class(type) == H5T_STRING && H5Tis_variable_str(type) == 0) {
        out->type = LS_HDF5_TEXT;
        out->shape[0] = H5Tget_size(type);
        H5Tclose(type);
        return LS_OK;
    }
    for (LsHdf5Type candidate = LS_HDF5_U8; type >= 0 && candidate <= LS_HDF5_CHUNK; candidate++) {
        hid_t wanted = create_type(candidate, 0);
        bool equal = H5Tequal(type, wanted) > 0;
        H5Tclose(wanted);
        if (equal) {
            out->type = candidate;
            H5Tclose(type);
            return LS_OK;
        }
    }
    if (type >= 0)
        H5Tclose(type);
    return LS_FAIL(LS_BAD_DATA, "%s: %s has a type that no data set has", file->path, name);
}

static LsStatus read_shape(const LsHdf5 *file, const char *name, hid_t set, LsHdf5Set *out)
{
    hsize_t shape[H5S_MAX_RANK];
    hid_t space = H5Dget_space(set);
    int dimensions = space < 0 ? -1 : H5Sget_simple_extent_ndims(space);
    bool text = out->type == LS_HDF5_TEXT;
    bool good = dimensions >= (text ? 0 : 1) && dimensions <= (text ? 0 : LS_HDF5_DIMENSIONS);
    if (good && !text)
        good = H5Sget_simple_extent_dims(space, shape, NULL) == dimensions;
    if (space >= 0)
        H5Sclose(space);
    if (!good)
        return LS_FAIL(LS_BAD_DATA, "%s: %s has %d dimensions", file->path, name, dimensions);
    out->dimensions = dimensions;
    size_t bytes = type_bytes(out->type);
    for (int i = 0; i < (text ? 1 : dimensions); i++) {
        if (!text)
            out->shape[i] = shape[i];
        if (out->shape[i] == 0 || !ls_size_multiply(bytes, out->shape[i], &bytes))
            return LS_FAIL(LS_BAD_DATA, "%s: %s has an impossible size (%llu in dimension %d)", file->path,
                name, (unsigned long long)out->shape[i], i);
    }
    out->bytes = bytes;
    return LS_OK;
}

// Chunks must be of whole rows, with deflate as the only filter.
static bool read_chunking(hid_t properties, LsHdf5Set *out)
{
    hsize_t chunk[H5S_MAX_RANK];
    unsigned flags, configuration;
    size_t values = 0;
    if (H5Pget_chunk(properties, H5S_MAX_RANK, chunk) != out->dimensions ||
        H5Pget_nfilters(properties) != 1 ||
        H5Pget_filter2(properties, 0, &flags, &values, NULL, 0, NULL, &configuration) != H5Z_FILTER_DEFLATE)
        return false;
    uint64_t row_bytes = out->bytes / out->shape[0];
    for (int i = 1; i < out->dimensions; i++)
        if (chunk[i] != out->shape[i])
            return false;
    out->chunk_rows = chunk[0];
    return chunk[0] > 0 && ls_size_multiply(row_bytes, chunk[0], &out->bytes);
}

static LsStatus read_layout(const LsHdf5 *file, const char *name, hid_t set, LsHdf5Set *out)
{
    hid_t properties = H5Dget_create_plist(set);
    if (properties < 0)
        return LS_FAIL(LS_BAD_DATA, "%s: the description of %s is damaged", file->path, name);
    H5D_layout_t layout = H5Pget_layout(properties);
    bool plain = layout == H5D_CONTIGUOUS && H5Pget_external_count(properties) == 0;
    bool chunked = layout == H5D_CHUNKED && read_chunking(properties, out);
    H5Pclose(properties);
    if (chunked)
        return LS_OK;
    if (!plain)
        return LS_FAIL(LS_BAD_DATA,
            "%s: %s is neither contiguous nor in deflated chunks of whole rows; import it again", file->path,
            name);
    haddr_t offset = H5Dget_offset(set);
    if (offset == HADDR_UNDEF || offset > file->size || out->bytes > file->size - offset)
        return LS_FAIL(LS_BAD_DATA, "%s: %s (%llu bytes) is not within the file (%llu bytes)", file->path,
            name, (unsigned long long)out->bytes, (unsigned long long)file->size);
    out->chunk_rows = 0;
    out->offset = offset;
    return LS_OK;
}

LsStatus ls_hdf5_find(LsHdf5 *file, const char *name, LsHdf5Set *out, bool *found)
{
    prepare_library();
    int exists = link_exists(file->file, name);
    hid_t set = exists > 0 ? H5Dopen2(file->file, name, H5P_DEFAULT) : -1;
    if (exists < 0 || (exists > 0 && set < 0))
        return LS_FAIL(LS_BAD_DATA, "%s: the description of %s is damaged", file->path, name);
    if (exists == 0) {
        *found = false;
        return LS_OK;
    }
    LsHdf5Set read = {0};
    LsStatus status = read_type(file, name, set, &read);
    if (status == LS_OK)
        status = read_shape(file, name, set, &read);
    if (status == LS_OK)
        status = read_layout(file, name, set, &read);
    H5Dclose(set);
    if (status == LS_OK) {
        *out = read;
        *found = true;
    }
    return status;
}

LsStatus ls_hdf5_create(const char *path, LsHdf5 **out)
{
    prepare_library();
    // Created by us first: the library would not say why it cannot, and would overwrite.
    int fd = open(path, O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, 0666);
    if (fd < 0)
        return LS_FAIL(LS_IO, "cannot create %s: %s", path, strerror(errno));
    close(fd);
    LsHdf5 *file = NULL;
    LsStatus status = allocate_file(path, &file);
    if (status == LS_OK) {
        hid_t access = access_properties();
        file->writing = true;
        file->file = H5Fcreate(path, H5F_ACC_TRUNC, H5P_DEFAULT, access);
        H5Pclose(access);
        if (file->file < 0)
            status = LS_FAIL(LS_IO, "cannot create %s: HDF5 failed; is the disk full?", path);
        else
            status = take_descriptor(file);
    }
    if (status != LS_OK) {
        ls_hdf5_close(file);
        unlink(path);
        return status;
    }
    *out = file;
    return LS_OK;
}

// Values are written at their offsets by us, so their place is allocated at once and never filled.
static hid_t creation_properties(const LsHdf5Set *set)
{
    hid_t properties = H5Pcreate(H5P_DATASET_CREATE);
    H5Pset_fill_time(properties, H5D_FILL_TIME_NEVER);
    H5Pset_attr_phase_change(properties, 0, 0);
    if (set->chunk_rows == 0) {
        H5Pset_alloc_time(properties, H5D_ALLOC_TIME_EARLY);
        return properties;
    }
    hsize_t chunk[LS_HDF5_DIMENSIONS];
    for (int i = 0; i < set->dimensions; i++)
        chunk[i] = set->shape[i];
    chunk[0] = set->chunk_rows;
    H5Pset_chunk(properties, set->dimensions, chunk);
    H5Pset_deflate(properties, DEFLATE_LEVEL);
    return properties;
}

LsStatus ls_hdf5_add(LsHdf5 *file, const char *name, LsHdf5Set *set)
{
    prepare_library();
    hsize_t shape[LS_HDF5_DIMENSIONS];
    set->bytes = type_bytes(set->type);
    for (int i = 0; i < (set->type == LS_HDF5_TEXT ? 1 : set->dimensions); i++) {
        shape[i] = set->shape[i];
        set->bytes *= set->shape[i];
    }
    hid_t type = create_type(set->type, set->shape[0]);
    hid_t space =
        set->type == LS_HDF5_TEXT ? H5Screate(H5S_SCALAR) : H5Screate_simple(set->dimensions, shape, NULL);
    hid_t properties = creation_properties(set);
    hid_t links = H5Pcreate(H5P_LINK_CREATE);
    H5Pset_create_intermediate_group(links, 1);
    hid_t made = H5Dcreate2(file->file, name, type, space, links, properties, H5P_DEFAULT);
    haddr_t offset = made < 0 || set->chunk_rows > 0 ? 0 : H5Dget_offset(made);
    bool good = made >= 0 && offset != HADDR_UNDEF;
    if (made >= 0)
        H5Dclose(made);
    H5Pclose(links);
    H5Pclose(properties);
    H5Sclose(space);
    H5Tclose(type);
    if (!good)
        return LS_FAIL(LS_IO, "cannot create %s in %s: HDF5 failed; is the disk full?", name, file->path);
    set->offset = offset;
    return LS_OK;
}

// H5Dget_chunk_info walks the index, so asking it for every chunk costs quadratic time. Where the file grew
// by exactly the chunk, the chunk is what it grew by; only otherwise the index is asked.
LsStatus ls_hdf5_write_chunk(
    LsHdf5 *file, const char *name, uint64_t row, const void *data, size_t bytes, uint64_t *offset)
{
    prepare_library();
    hid_t set = H5Dopen2(file->file, name, H5P_DEFAULT);
    if (set < 0)
        return LS_FAIL(LS_INTERNAL, "%s has no set %s", file->path, name);
    hsize_t start[LS_HDF5_DIMENSIONS] = {row}, found_bytes = 0;
    haddr_t before = 0, after = 0, found = HADDR_UNDEF;
    unsigned mask = 0;
    bool good = H5Fget_eoa(file->file, &before) >= 0 &&
                H5Dwrite_chunk(set, H5P_DEFAULT, 0, start, bytes, data) >= 0 &&
                H5Fget_eoa(file->file, &after) >= 0;
    if (good && after - before == bytes)
        found = before;
    else if (good)
        good = H5Dget_chunk_info_by_coord(set, start, &mask, &found, &found_bytes) >= 0 &&
               found_bytes == bytes && found != HADDR_UNDEF;
    H5Dclose(set);
    if (!good)
        return LS_FAIL(LS_IO, "cannot write row %llu of %s to %s: HDF5 failed; is the disk full?",
            (unsigned long long)row, name, file->path);
    *offset = found;
    return LS_OK;
}

int ls_hdf5_descriptor(const LsHdf5 *file)
{
    return file->fd;
}

// Flushed first, because a close that fails leaves the library with a file half closed.
LsStatus ls_hdf5_finish(LsHdf5 *file)
{
    prepare_library();
    herr_t done = H5Fflush(file->file, H5F_SCOPE_LOCAL);
    if (done >= 0) {
        done = H5Fclose(file->file);
        file->file = -1;
    }
    if (done < 0)
        return LS_FAIL(LS_IO, "cannot write %s: HDF5 failed; is the disk full?", file->path);
    return LS_OK;
}

// Gives the library a file in memory in place of one that is given up, so that what it still holds can be
// written and the close succeeds, whatever is wrong with the disk.
static void write_nowhere(const LsHdf5 *file)
{
    int *descriptor = NULL;
    int nowhere = memfd_create("abandoned", MFD_CLOEXEC);
    if (nowhere >= 0 && H5Fget_vfd_handle(file->file, H5P_DEFAULT, (void **)&descriptor) >= 0)
        dup3(nowhere, *descriptor, O_CLOEXEC);
    if (nowhere >= 0)
        close(nowhere);
}

void ls_hdf5_close(LsHdf5 *file)
{
    if (file == NULL)
        return;
    prepare_library();
    if (file->file >= 0) {
        if (file->writing)
            write_nowhere(file);
        H5Fclose(file->file);
    }
    if (file->fd >= 0)
        close(file->fd);
    free(file->path);
    free(file);
}
