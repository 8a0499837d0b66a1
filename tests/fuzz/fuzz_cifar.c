// fuzz: data
// CIFAR's binary files: whatever the bytes, they are refused in one line or become images with labels below
// their classes.
#include <stdint.h>
#include <string.h>

#include "import_cifar.h"
#include "require.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    LsCifar file = {0};
    LsStatus status = ls_cifar_parse(data, size, "input", &file);
    if (status != LS_OK) {
        require(status == LS_BAD_DATA);
        require(strncmp(ls_status_message(), "input: ", 7) == 0 && strchr(ls_status_message(), '\n') == NULL);
        return 0;
    }
    require(file.count > 0 && file.count * (file.label_bytes + LS_CIFAR_BYTES) == size);
    for (size_t i = 0; i < file.count; i++)
        for (int coarse = 0; coarse < 2; coarse++) {
            uint8_t image[LS_CIFAR_BYTES];
            int32_t label = ls_cifar_record(&file, i, coarse, image);
            require(label >= 0 && (size_t)label < ls_cifar_classes(&file, coarse));
        }
    return 0;
}
