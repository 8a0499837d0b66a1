// What the tests of the kernel runner share: launches, and children that must fail.
#ifndef LOCKSTEP_KERNEL_TEST_H
#define LOCKSTEP_KERNEL_TEST_H

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

#include <utility>
#include <vector>

extern "C" {
#include <cmocka.h>
}

#include <cuda_runtime.h>

#include "emulator.h"

#define OK(call) assert_string_equal(cudaGetErrorName(call), "cudaSuccess")
#define FAILS(call, error) assert_string_equal(cudaGetErrorName(call), #error)

// A launch on the default stream.
template <typename... Parameters, typename... Arguments>
static inline cudaError_t launch(
    dim3 grid, dim3 block, size_t shared_bytes, void (*kernel)(Parameters...), Arguments &&...arguments)
{
    cudaLaunchConfig_t config = {};
    config.gridDim = grid;
    config.blockDim = block;
    config.dynamicSmemBytes = shared_bytes;
    return cudaLaunchKernelEx(&config, kernel, std::forward<Arguments>(arguments)...);
}

// Device memory for `count` elements that tests fill and read.
template <typename T> struct DeviceArray {
    T *memory;
    size_t count;

    explicit DeviceArray(size_t elements) : memory(NULL), count(elements)
    {
        OK(cudaMalloc(reinterpret_cast<void **>(&memory), count * sizeof(T)));
    }
    explicit DeviceArray(const std::vector<T> &values) : DeviceArray(values.size())
    {
        OK(cudaMemcpy(memory, values.data(), count * sizeof(T), cudaMemcpyHostToDevice));
    }
    DeviceArray(const DeviceArray &) = delete;
    DeviceArray &operator=(const DeviceArray &) = delete;
    ~DeviceArray()
    {
        (void)cudaFree(memory);
    }
    std::vector<T> read() const
    {
        std::vector<T> values(count);
        OK(cudaMemcpy(values.data(), memory, count * sizeof(T), cudaMemcpyDeviceToHost));
        return values;
    }
};

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
        for (int number : {SIGABRT, SIGSEGV, SIGBUS})
            signal(number, SIG_DFL); // cmocka's handler would go on with the next test
        const struct rlimit no_core = {0, 0};
        setrlimit(RLIMIT_CORE, &no_core);
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

// The body must end in ls_emulator_fault, with all these words in its line.
static inline void expect_fault(void (*body)(void), const std::vector<const char *> &words)
{
    static char text[1 << 16];
    int status = run_child(body, text, sizeof text);
    bool good = WIFSIGNALED(status) && WTERMSIG(status) == SIGABRT && strstr(text, "emulated GPU: ");
    for (const char *word : words)
        if (!good || !strstr(text, word))
            fail_msg("expected a fault with \"%s\", got status %d and \"%s\"", word, status, text);
}

// The body must die: of a closed page, or of the address sanitizer.
static inline void expect_crash(void (*body)(void))
{
    static char text[1 << 16];
    int status = run_child(body, text, sizeof text);
    if (WIFEXITED(status) && WEXITSTATUS(status) == 0)
        fail_msg("expected a crash, but the child lived on");
}

// The body must end well.
static inline void expect_success(void (*body)(void))
{
    static char text[1 << 16];
    int status = run_child(body, text, sizeof text);
    if (!WIFEXITED(status) || WEXITSTATUS(status) != 0)
        fail_msg("expected success, got status %d and \"%s\"", status, text);
}

#endif
