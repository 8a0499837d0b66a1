// Preloaded into lockstep by the Slurm tests: steps and saves take some time, on any machine and without
// computing, so that what happens to a job happens in the middle of them. The file that SLOW_STEPS names says
// how long: milliseconds after each line of metrics.jsonl (rank 0 writes it), and before each fsync of a
// checkpoint. No signal shortens them.
#include <dlfcn.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#define EXPORT __attribute__((visibility("default")))

static int path_has(int fd, const char *part)
{
    char link[64], path[4096];
    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    ssize_t length = readlink(link, path, sizeof path - 1);
    path[length < 0 ? 0 : length] = '\0';
    return strstr(path, part) != NULL;
}

static void take_time(int what)
{
    long milliseconds[2] = {0, 0};
    const char *name = getenv("SLOW_STEPS");
    FILE *file = name ? fopen(name, "re") : NULL;
    if (!file)
        return;
    int read = fscanf(file, "%ld %ld", &milliseconds[0], &milliseconds[1]);
    fclose(file);
    long ms = read == 2 ? milliseconds[what] : 0;
    struct timespec left = {.tv_sec = ms / 1000, .tv_nsec = ms % 1000 * 1000000};
    while (nanosleep(&left, &left) != 0 && errno == EINTR)
        continue;
}

EXPORT int fflush(FILE *file)
{
    static int (*real)(FILE *);
    if (!real)
        *(void **)&real = dlsym(RTLD_NEXT, "fflush");
    int result = real(file);
    if (file && path_has(fileno(file), "/metrics.jsonl"))
        take_time(0);
    return result;
}

EXPORT int fsync(int fd)
{
    static int (*real)(int);
    if (!real)
        *(void **)&real = dlsym(RTLD_NEXT, "fsync");
    if (path_has(fd, "/checkpoints/"))
        take_time(1);
    return real(fd);
}
