// Runs a fuzz target once on each file of the directories given: its committed corpus, in builds without
// libFuzzer.
#include <dirent.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>

#include "base/file.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static bool replay_file(const char *path)
{
    char *data;
    size_t size;
    if (ls_file_read(path, 1 << 26, &data, &size) != LS_OK) {
        fprintf(stderr, "%s\n", ls_status_message());
        return false;
    }
    printf("%s\n", path);
    fflush(stdout); // the last line names the input that ended the program
    LLVMFuzzerTestOneInput((const uint8_t *)data, size);
    free(data);
    return true;
}

static size_t replay_directory(const char *path)
{
    DIR *directory = opendir(path);
    if (directory == NULL)
        return 0;
    size_t count = 0;
    for (struct dirent *entry; (entry = readdir(directory)) != NULL;) {
        char file[LS_PATH_MAX];
        if (entry->d_name[0] != '.' && ls_path_join(file, path, entry->d_name) == LS_OK)
            count += replay_file(file);
    }
    closedir(directory);
    return count;
}

int main(int argc, char **argv)
{
    size_t count = 0;
    for (int i = 1; i < argc; i++)
        count += replay_directory(argv[i]);
    if (count == 0)
        fprintf(stderr, "no inputs: a fuzz target needs a corpus in tests/fuzz/corpus/\n");
    return count == 0;
}
