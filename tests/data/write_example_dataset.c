// Writes the data sets that check_h5py.py reads: DIRECTORY/{u8,f32}-{plain,deflated}.h5.
#include "dataset_fixture.h"

int main(int argc, char **argv)
{
    static const Example examples[] = {
        {.type = LS_COLUMN_U8,
            .classes = true,
            .shape = {4, 5},
            .dimensions = 2,
            .outputs = 3,
            .samples = {1700, 3, 40}},
        {.type = LS_COLUMN_F32,
            .classes = false,
            .shape = {7},
            .dimensions = 1,
            .outputs = 2,
            .samples = {50000, 0, 1}},
    };
    if (argc != 2)
        return 2;
    for (int i = 0; i < 2; i++)
        for (int compress = 0; compress < 2; compress++) {
            char path[512];
            Example e = examples[i];
            e.compress = compress;
            snprintf(path, sizeof path, "%s/%s-%s.h5", argv[1], i == 0 ? "u8" : "f32",
                compress ? "deflated" : "plain");
            if (write_example(&e, path) != LS_OK) {
                fprintf(stderr, "%s\n", ls_status_message());
                return 1;
            }
        }
    return 0;
}
