// Log lines for people: to a rank's log file always, to standard error by level. Thread-safe.
#ifndef LOCKSTEP_BASE_LOG_H
#define LOCKSTEP_BASE_LOG_H

#include "base/status.h"

typedef enum LsLogLevel { LS_LOG_QUIET, LS_LOG_WARN, LS_LOG_INFO, LS_LOG_DEBUG } LsLogLevel;

// Sets what reaches standard error (default LS_LOG_INFO on rank 0; other ranks show warnings only) and the
// rank shown in front of a line when there is more than one.
void ls_log_configure(LsLogLevel level, int rank, int ranks);

// Opens (appends to) the rank's log file; every line of any level goes there with its time. Call at most
// once; ls_log_close ends it.
LsStatus ls_log_open(const char *path);
void ls_log_close(void);

void ls_log(LsLogLevel level, const char *format, ...) __attribute__((format(printf, 2, 3)));

#define ls_warn(...) ls_log(LS_LOG_WARN, __VA_ARGS__)
#define ls_info(...) ls_log(LS_LOG_INFO, __VA_ARGS__)
#define ls_debug(...) ls_log(LS_LOG_DEBUG, __VA_ARGS__)

#endif
