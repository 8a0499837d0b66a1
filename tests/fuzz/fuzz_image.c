// fuzz: data
// JPEG and PNG: whatever the bytes, they are refused in one line or become an image within the limits, of the
// channels that were asked for, which can be resized.
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "image.h"
#include "require.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    for (size_t channels = 1; channels <= 3; channels += 2) {
        LsImage image = {0};
        uint8_t small[5 * 7 * 3] = {0};
        LsStatus status = ls_image_decode(data, size, "input", channels, &image);
        if (status != LS_OK) {
            require(status == LS_BAD_DATA);
            require(
                strncmp(ls_status_message(), "input: ", 7) == 0 && strchr(ls_status_message(), '\n') == NULL);
            require(image.pixels == NULL);
            continue;
        }
        require(image.channels == channels && image.height > 0 && image.width > 0);
        require(image.height <= LS_IMAGE_PIXELS_MAX / image.width);
        require(ls_image_resize(&image, 5, 7, small) == LS_OK);
        free(image.pixels);
    }
    return 0;
}
