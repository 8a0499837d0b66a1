// fuzz: data
// IDX files, plain and gzip: whatever the bytes, they are refused in one line or become values of the size
// that the header says; and memory follows what is there, which the fuzzer's limit watches.
#include <stdint.h>
#include <string.h>

#include "import_idx.h"
#include "require.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    LsIdx idx = {0};
    LsStatus status = ls_idx_parse(data, size, "input", &idx);
    if (status != LS_OK) {
        require(status == LS_BAD_DATA);
        require(strncmp(ls_status_message(), "input: ", 7) == 0 && strchr(ls_status_message(), '\n') == NULL);
        require(idx.values == NULL);
        return 0;
    }
    size_t bytes = idx.type == LS_COLUMN_U8 ? 1 : sizeof(float);
    require(idx.dimensions >= 1 && idx.dimensions <= LS_IDX_DIMENSIONS);
    for (int i = 0; i < idx.dimensions; i++)
        bytes *= idx.shape[i];
    require(idx.values != NULL && idx.bytes == bytes && bytes > 0);
    unsigned sum = 0;
    for (size_t i = 0; i < bytes; i++) // the sanitizer sees a value that is not there
        sum += ((const uint8_t *)idx.values)[i];
    require(sum <= 255 * bytes);
    ls_idx_free(&idx);
    return 0;
}
