// Preloaded into lockstep by tests that act on a run in its midst: what they act on takes some time, on any
// machine and without computing. The file that SLOW_STEPS names says how long, in milliseconds:
//
//   STEP FROM SAVE PRODUCT EVENT
//
// STEP: after each line of metrics.jsonl (rank 0 writes it); SAVE: before each fsync of a checkpoint;
// PRODUCT: before each of oneDNN's products; EVENT: after each line of events.jsonl about an evaluation. STEP
// and PRODUCT are meant from the line about step FROM on, in a process that has written it. No signal
// shortens them; a file with less in it does. Whoever waits for a product leaves a file SLOW_STEPS.computing.
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include <dnnl.h>

#define EXPORT __attribute__((visibility("default")))

enum { STEP, FROM, SAVE, PRODUCT, EVENT, NUMBERS };
enum { SLICE = 10 }; // milliseconds, after which the file is read again

static long newest_step;  // that a line of metrics.jsonl was about
static int is_evaluation; // the newest line of events.jsonl

static int path_has(int fd, const char *part)
{
    char link[64], path[4096];
    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    ssize_t length = readlink(link, path, sizeof path - 1);
    path[length < 0 ? 0 : length] = '\0';
    return strstr(path, part) != NULL;
}

static long wanted(int what)
{
    long number[NUMBERS] = {0};
    const char *name = getenv("SLOW_STEPS");
    FILE *file = name ? fopen(name, "re") : NULL;
    if (!file)
        return 0;
    int read = 0;
    while (read < NUMBERS && fscanf(file, "%ld", &number[read]) == 1)
        read++;
    fclose(file);
    int early = (what == STEP || what == PRODUCT) && newest_step < number[FROM];
    return read < NUMBERS || early ? 0 : number[what];
}

static void take_time(int what)
{
    for (long passed = 0, left; (left = wanted(what) - passed) > 0; passed += SLICE) {
        long slice = left < SLICE ? left : SLICE;
        struct timespec time = {.tv_nsec = slice * 1000000};
        while (nanosleep(&time, &time) != 0 && errno == EINTR)
            continue;
    }
}

EXPORT int fputs(const char *restrict text, FILE *restrict file)
{
    static int (*real)(const char *restrict, FILE *restrict);
    if (!real)
        *(void **)&real = dlsym(RTLD_NEXT, "fputs");
    sscanf(text, "{\"step\": %ld,", &newest_step);
    is_evaluation = strstr(text, "\"event\": \"eval\"") != NULL;
    return real(text, file);
}

EXPORT int fflush(FILE *file)
{
    static int (*real)(FILE *);
    if (!real)
        *(void **)&real = dlsym(RTLD_NEXT, "fflush");
    int result = real(file);
    if (file && path_has(fileno(file), "/metrics.jsonl"))
        take_time(STEP);
    if (is_evaluation && file && path_has(fileno(file), "/events.jsonl"))
        take_time(EVENT);
    return result;
}

EXPORT int fsync(int fd)
{
    static int (*real)(int);
    if (!real)
        *(void **)&real = dlsym(RTLD_NEXT, "fsync");
    if (path_has(fd, "/checkpoints/"))
        take_time(SAVE);
    return real(fd);
}

static void leave_word(void)
{
    char path[4096];
    snprintf(path, sizeof path, "%.4000s.computing", getenv("SLOW_STEPS"));
    int fd = open(path, O_WRONLY | O_CREAT | O_CLOEXEC, 0666);
    if (fd >= 0)
        close(fd);
}

EXPORT dnnl_status_t dnnl_primitive_execute(
    const_dnnl_primitive_t primitive, dnnl_stream_t stream, int count, const dnnl_exec_arg_t *argument)
{
    static dnnl_status_t (*real)(const_dnnl_primitive_t, dnnl_stream_t, int, const dnnl_exec_arg_t *);
    if (!real)
        *(void **)&real = dlsym(RTLD_NEXT, "dnnl_primitive_execute");
    if (wanted(PRODUCT) > 0) {
        leave_word();
        take_time(PRODUCT);
    }
    return real(primitive, stream, count, argument);
}
