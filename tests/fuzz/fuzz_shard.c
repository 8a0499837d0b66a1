// fuzz: data
// Token shards: whatever the bytes, they are refused in one line, or become a data set of exactly their
// tokens that verifies. The vocabulary is 1,000, so that tokens beyond it are met.
#include <fcntl.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "data/import.h"
#include "dataset_format.h"
#include "hdf5_leaks.h"
#include "import_tokens.h"
#include "require.h"

static void check_tokens(const char *path, const uint8_t *data, size_t size)
{
    LsDataset *dataset = NULL;
    LsReader *reader = NULL;
    require(ls_dataset_open(path, &dataset) == LS_OK && ls_dataset_verify(dataset) == LS_OK);
    size_t count = ls_dataset_info(dataset)->token_counts[LS_TRAIN];
    require(LS_SHARD_HEADER + 2 * count == size && ls_dataset_set_window(dataset, 1) == LS_OK);
    require(ls_reader_create(dataset, LS_TRAIN, &reader) == LS_OK);
    for (uint64_t i = 0; i + 1 < count; i++) {
        int32_t x, y;
        require(ls_reader_read(reader, &i, 1, &x, &y) == LS_OK);
        const uint8_t *token = data + LS_SHARD_HEADER + 2 * i;
        require(x == token[0] + 256 * token[1] && y == token[2] + 256 * token[3]);
    }
    ls_reader_destroy(reader);
    ls_dataset_close(dataset);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    char input[64], output[64];
    const char *inputs[] = {input};
    int fd = memfd_create("input", MFD_CLOEXEC);
    require(fd >= 0 && write(fd, data, size) == (ssize_t)size);
    snprintf(input, sizeof input, "/proc/self/fd/%d", fd);
    snprintf(output, sizeof output, "/tmp/lockstep-fuzz-shard-%d.h5", (int)getpid());
    LsImportOptions options;
    ls_import_defaults(&options);
    options.output = output;
    options.vocabulary = 1000;
    options.force = true;
    bool unchanged;
    LsStatus status = ls_import_tokens(inputs, 1, &options, &unchanged);
    if (status == LS_OK)
        check_tokens(output, data, size);
    else
        require(status == LS_BAD_DATA && strchr(ls_status_message(), '\n') == NULL);
    unlink(output);
    close(fd);
    return 0;
}
