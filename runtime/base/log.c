#include "base/log.h"

#include <pthread.h>
#include <stdarg.h>
#include <stdio.h>

#include "base/clock.h"
#include "base/file.h"
#include "base/text.h"

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER; // guards everything below
static LsLogLevel shown = LS_LOG_INFO;
static int own_rank = 0;
static int rank_count = 1;
static FILE *file = NULL;

static const char *const level_names[] = {"quiet", "warning", "info", "debug"};

void ls_log_configure(LsLogLevel level, int rank, int ranks)
{
    pthread_mutex_lock(&lock);
    shown = rank != 0 && level > LS_LOG_WARN ? LS_LOG_WARN : level;
    own_rank = rank;
    rank_count = ranks;
    pthread_mutex_unlock(&lock);
}

LsStatus ls_log_open(const char *path)
{
    FILE *opened = fopen(path, "ae");
    if (opened == NULL)
        return ls_file_fail("append to", path);
    pthread_mutex_lock(&lock);
    file = opened;
    pthread_mutex_unlock(&lock);
    return LS_OK;
}

void ls_log_close(void)
{
    pthread_mutex_lock(&lock);
    if (file != NULL)
        fclose(file);
    file = NULL;
    pthread_mutex_unlock(&lock);
}

void ls_log(LsLogLevel level, const char *format, ...)
{
    char line[2048]; // as long as a failure's sentence can be
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(line, sizeof line, format, arguments);
    va_end(arguments);
    ls_text_clean(line);

    pthread_mutex_lock(&lock);
    if (file != NULL) {
        char time[32];
        ls_clock_utc(time, sizeof time);
        fprintf(file, "%s %-7s %s\n", time, level_names[level], line);
        fflush(file); // a rank that is killed leaves its last line
    }
    if (level <= shown) {
        // One call for a line, so that lines of several ranks on one terminal do not mix.
        const char *mark = level == LS_LOG_WARN ? "warning: " : "";
        if (rank_count > 1)
            fprintf(stderr, "[%d] %s%s\n", own_rank, mark, line);
        else
            fprintf(stderr, "%s%s\n", mark, line);
    }
    pthread_mutex_unlock(&lock);
}
