// What the tests of the emulated runtime share: work that leaves a trace, and children that must fail.
#ifndef LOCKSTEP_RUNTIME_TEST_H
#define LOCKSTEP_RUNTIME_TEST_H

#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>

#include "emulator.h"

#define OK(call) assert_string_equal(cudaGetErrorName(call), "cudaSuccess")
#define FAILS(call, error) assert_string_equal(cudaGetErrorName(call), #error)

// ---- Work that leaves a letter when it runs -------------------------------------------------------------

static char trace[256];

static inline void clear_trace(void)
{
    trace[0] = '\0';
}

typedef struct Letter {
    char letter;
    int delays; // how often it says that it waits for another process
} Letter;

static inline bool write_letter(void *context)
{
    Letter *letter = context;
    if (letter->delays > 0) {
        letter->delays--;
        return false;
    }
    size_t length = strlen(trace);
    assert_true(length + 1 < sizeof trace);
    trace[length] = letter->letter;
    trace[length + 1] = '\0';
    return true;
}

// Enqueues the letter; with `delays`, as if another process were that many polls late.
static inline cudaError_t enqueue_late_letter(cudaStream_t stream, char letter, int delays)
{
    Letter *work = malloc(sizeof *work);
    *work = (Letter){.letter = letter, .delays = delays};
    return ls_emulator_enqueue(stream,
        &(LsEmulatedWork){.name = "letter", .advance = write_letter, .release = free, .context = work});
}

static inline cudaError_t enqueue_letter(cudaStream_t stream, char letter)
{
    return enqueue_late_letter(stream, letter, 0);
}

// ---- Work on device memory: to[i] = from[i] + add, or to[i] += from[i] + add
// -------------------------------------------------------

typedef struct Addition {
    float *to;
    const float *from;
    size_t n;
    float add;
    bool accumulate; // onto what is there
} Addition;

static inline bool run_addition(void *context)
{
    const Addition *a = context;
    for (size_t i = 0; i < a->n; i++)
        a->to[i] = (a->accumulate ? a->to[i] : 0) + a->from[i] + a->add;
    return true;
}

static inline cudaError_t enqueue(cudaStream_t stream, Addition addition)
{
    Addition *work = malloc(sizeof *work);
    *work = addition;
    return ls_emulator_enqueue(stream,
        &(LsEmulatedWork){.name = "addition", .advance = run_addition, .release = free, .context = work});
}

static inline cudaError_t enqueue_addition(
    cudaStream_t stream, float *to, const float *from, size_t n, float add)
{
    return enqueue(stream, (Addition){to, from, n, add, false});
}

// ---- Objects that every test needs ----------------------------------------------------------------------

static inline cudaStream_t new_stream(void)
{
    cudaStream_t stream;
    OK(cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking));
    return stream;
}

static inline cudaStream_t new_blocking_stream(void)
{
    cudaStream_t stream;
    OK(cudaStreamCreate(&stream));
    return stream;
}

static inline cudaEvent_t new_event(void)
{
    cudaEvent_t event;
    OK(cudaEventCreateWithFlags(&event, cudaEventDisableTiming));
    return event;
}

static inline float *new_device(size_t floats)
{
    void *memory;
    OK(cudaMalloc(&memory, floats * sizeof(float)));
    return memory;
}

static inline float *new_pinned(size_t floats)
{
    void *memory;
    OK(cudaMallocHost(&memory, floats * sizeof(float)));
    return memory;
}

static inline bool all_equal(const float *values, size_t n, float value)
{
    for (size_t i = 0; i < n; i++)
        if (values[i] != value)
            return false;
    return true;
}

static inline bool all_bytes(const void *memory, size_t n, unsigned char value)
{
    const unsigned char *bytes = memory;
    for (size_t i = 0; i < n; i++)
        if (bytes[i] != value)
            return false;
    return true;
}

// ---- Children -------------------------------------------------------------------------------------------

// Runs `body` in a process of its own and returns its status; what it printed on stderr goes to `text`.
static inline int run_child(void (*body)(void), char *text, size_t size)
{
    int ends[2];
    assert_int_equal(pipe(ends), 0);
    fflush(NULL);
    pid_t child = fork();
    assert_true(child >= 0);
    if (child == 0) {
        dup2(ends[1], STDERR_FILENO);
        close(ends[0]);
        close(ends[1]);
        signal(SIGSEGV, SIG_DFL); // cmocka's handlers would go on with the next test
        signal(SIGABRT, SIG_DFL);
        setrlimit(RLIMIT_CORE, &(struct rlimit){0, 0});
        body();
        _exit(0);
    }
    close(ends[1]);
    size_t length = 0;
    for (ssize_t n; (n = read(ends[0], text + length, size - 1 - length)) > 0;)
        length += (size_t)n;
    text[length] = '\0';
    close(ends[0]);
    int status;
    assert_int_equal(waitpid(child, &status, 0), child);
    return status;
}

// The body must end in ls_emulator_fault, with these words in its line.
static inline void expect_fault(void (*body)(void), const char *words)
{
    static char text[1 << 16];
    int status = run_child(body, text, sizeof text);
    if (!WIFSIGNALED(status) || WTERMSIG(status) != SIGABRT || !strstr(text, "emulated GPU: ") ||
        !strstr(text, words))
        fail_msg("expected a fault with \"%s\", got status %d and \"%s\"", words, status, text);
}

// The body must die of a signal or of the address sanitizer.
static inline void expect_crash(void (*body)(void))
{
    static char text[1 << 16];
    int status = run_child(body, text, sizeof text);
    if (WIFEXITED(status) && WEXITSTATUS(status) == 0)
        fail_msg("expected a crash, but the child lived on");
    if (strstr(text, "emulated GPU: "))
        fail_msg("expected a crash, got \"%s\"", text);
}

#endif
