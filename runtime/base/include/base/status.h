// What every fallible function of Lockstep returns, and how a failure becomes one line and an exit code.
//
// Whoever decides that something failed calls LS_FAIL with a sentence that says what, where and what to
// do; callers pass the status on with LS_TRY and add nothing. Libraries never print the line and never
// exit: `main` does both, once.
#ifndef LOCKSTEP_BASE_STATUS_H
#define LOCKSTEP_BASE_STATUS_H

#include <stdbool.h>

// name, process exit code, what it means to the user. The exit codes are a public contract.
#define LS_STATUS_LIST(X)                                                                                    \
    X(OK, 0, "done")                                                                                         \
    X(INTERNAL, 1, "internal error")                                                                         \
    X(USAGE, 2, "usage")                                                                                     \
    X(BAD_DATA, 65, "bad data")                                                                              \
    X(NO_INPUT, 66, "missing input")                                                                         \
    X(UNAVAILABLE, 69, "device or library unavailable")                                                      \
    X(UNSUPPORTED, 69, "not supported by this device")                                                       \
    X(DIVERGED, 70, "training diverged")                                                                     \
    X(IO, 74, "input/output error")                                                                          \
    X(STOPPED, 75, "stopped with a durable checkpoint")                                                      \
    X(CHECKPOINT, 76, "checkpoint corrupt or incompatible")                                                  \
    X(CONFIG, 78, "bad configuration")                                                                       \
    X(HUNG, 124, "a rank hung")

typedef enum LsStatus {
#define LS_STATUS_ENUM(name, code, text) LS_##name,
    LS_STATUS_LIST(LS_STATUS_ENUM)
#undef LS_STATUS_ENUM
} LsStatus;

// The process exit code that stands for a status.
int ls_status_exit_code(LsStatus status);

// A short constant description, for example "bad data".
const char *ls_status_text(LsStatus status);

// Records the failure's sentence for this thread and returns `status`. Use LS_FAIL.
LsStatus ls_status_fail(LsStatus status, const char *file, int line, const char *format, ...)
    __attribute__((format(printf, 4, 5)));

// The sentence of this thread's newest failure, "" if there was none. Valid until the thread fails again.
const char *ls_status_message(void);

// Source position of this thread's newest failure, "file:line", for verbose logs.
const char *ls_status_origin(void);

// Makes `message` this thread's newest failure: a worker thread's sentence is carried to the thread that
// reports it this way. Returns `status`.
LsStatus ls_status_adopt(LsStatus status, const char *message);

// Decides that something failed: LS_FAIL(LS_BAD_DATA, "%s: label %d is not below %d", path, label, classes).
// The value is `status` itself, so that the compiler sees that it is not LS_OK.
#define LS_FAIL(status, ...) (ls_status_fail((status), __FILE__, __LINE__, __VA_ARGS__), (status))

// Passes a failure on, unchanged.
#define LS_TRY(expression)                                                                                   \
    do {                                                                                                     \
        LsStatus ls_try_status = (expression);                                                               \
        if (ls_try_status != LS_OK)                                                                          \
            return ls_try_status;                                                                            \
    } while (0)

#endif
