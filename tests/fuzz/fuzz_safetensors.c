// fuzz: train
// safetensors files: whatever the bytes, they are refused in one line, or every byte of the data is one
// tensor's and every tensor can be read. The first byte chooses: a whole file, or a header alone, which is
// given its length and as many zeros of data as the second byte says, so that what is behind them is reached.
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "require.h"
#include "train/safetensors.h"

static void put(int fd, const void *bytes, size_t size)
{
    require(write(fd, bytes, size) == (ssize_t)size);
}

static void check_refusal(LsStatus status)
{
    require(status == LS_CHECKPOINT || status == LS_INTERNAL); // memory may run out
    require(strchr(ls_status_message(), '\n') == NULL && ls_status_message()[0] != '\0');
}

static void check_tensor(const LsSafetensors *file, const LsFileTensor *tensor)
{
    float *values = malloc(tensor->elements * sizeof *values + 1); // no more than the file has bytes
    require(values != NULL && ls_safetensors_find(file, tensor->name) == tensor);
    LsStatus status = ls_safetensors_read(file, tensor, 0, tensor->elements, values);
    if (status != LS_OK) { // another type
        check_refusal(status);
        require(strcmp(tensor->type, "F32") != 0);
    }
    free(values);
}

static void try_file(const char *path)
{
    LsSafetensors *file = NULL;
    LsStatus status = ls_safetensors_open(path, &file);
    if (status != LS_OK) {
        check_refusal(status);
        require(file == NULL);
        return;
    }
    size_t count;
    uint64_t end = 0;
    const LsFileTensor *list = ls_safetensors_list(file, &count);
    for (size_t i = 0; i < count; i++) {
        require(list[i].begin == end && list[i].end >= end);
        end = list[i].end;
        check_tensor(file, &list[i]);
    }
    ls_safetensors_close(file);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static const uint8_t zeros[UINT8_MAX];
    char path[64];
    if (size < 2)
        return 0;
    int fd = memfd_create("input", MFD_CLOEXEC);
    require(fd >= 0);
    uint64_t length = size - 2;
    if (data[0] & 1)
        put(fd, &length, sizeof length);
    put(fd, data + 2, length);
    if (data[0] & 1)
        put(fd, zeros, data[1]);
    snprintf(path, sizeof path, "/proc/self/fd/%d", fd);
    try_file(path);
    close(fd);
    return 0;
}
