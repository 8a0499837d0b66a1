#include "stop.h"

#include <errno.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/file.h"
#include "base/log.h"
#include "base/thread.h"
#include "notices.h"

static const double LOOK_SECONDS = 1;

// A thread that looks at something every second until it has found it.
typedef struct Watcher {
    LsStopWatch *watch;
    void (*look)(struct Watcher *watcher); // sets `found`
    pthread_t thread;
    bool started;
    atomic_bool found;
    double when; // clock; valid when found
    char text[LS_STOP_TEXT];
} Watcher;

struct LsStopWatch {
    const LsStopSignal *signal;
    double max_time; // clock at which train.max_time is over, 0: never
    double limit;    // clock at which the job's time limit is near, 0: never
    char file_path[LS_PATH_MAX];
    LsNotices *notices;
    bool complained; // the service fails, and that has been said
    int continued;   // SIGCONTs that ls_stop_hinted has told of
    Watcher file, notice;
    pthread_mutex_t lock;
    pthread_cond_t ending;
    bool ends;
};

const char *ls_stop_name(LsStopReason reason)
{
    static const char *const names[] = {"none", "time", "file", "signal", "notice"};
    return names[reason];
}

// ---- Threads --------------------------------------------------------------------------------------------

static void find(Watcher *watcher, const char *text)
{
    snprintf(watcher->text, sizeof watcher->text, "%s", text);
    watcher->when = ls_clock_seconds();
    atomic_store(&watcher->found, true);
}

static void look_for_file(Watcher *watcher)
{
    if (ls_file_exists(watcher->watch->file_path))
        find(watcher, "asked to stop by the file stop in the run directory");
}

static void ask_for_notice(Watcher *watcher)
{
    LsStopWatch *watch = watcher->watch;
    char text[LS_NOTICE_TEXT];
    LsStatus status = ls_notices_ask(watch->notices, text);
    if (status == LS_OK && watch->complained)
        ls_info("notices of the cloud are answered again");
    if (status != LS_OK && !watch->complained)
        ls_warn("cannot ask for notices of the cloud: %s; training goes on and asks on", ls_status_message());
    watch->complained = status != LS_OK;
    if (status == LS_OK && *text)
        find(watcher, text);
}

// A second more or less, or until the watch ends. Waits on the clock that never jumps.
static bool wait_a_while(LsStopWatch *watch)
{
    struct timespec until;
    clock_gettime(CLOCK_MONOTONIC, &until);
    until.tv_sec += (time_t)LOOK_SECONDS;
    pthread_mutex_lock(&watch->lock);
    int error = 0;
    while (!watch->ends && error != ETIMEDOUT)
        error = pthread_cond_timedwait(&watch->ending, &watch->lock, &until);
    bool ends = watch->ends;
    pthread_mutex_unlock(&watch->lock);
    return !ends;
}

static void *run(void *argument)
{
    Watcher *watcher = argument;
    ls_thread_unbind();
    do
        watcher->look(watcher);
    while (!atomic_load(&watcher->found) && wait_a_while(watcher->watch));
    return NULL;
}

static LsStatus start(LsStopWatch *watch, Watcher *watcher, void (*look)(Watcher *))
{
    watcher->watch = watch;
    watcher->look = look;
    int error = pthread_create(&watcher->thread, NULL, run, watcher);
    if (error)
        return LS_FAIL(LS_INTERNAL, "cannot start a thread that watches for stops: %s", strerror(error));
    watcher->started = true;
    return LS_OK;
}

// ---- Times ----------------------------------------------------------------------------------------------

// The clock at which so many seconds are left of the job's time limit; 0 where there is none.
static double limit_of_job(double margin)
{
    const char *text = getenv("SLURM_JOB_END_TIME");
    if (!text || margin <= 0)
        return 0;
    char *end = NULL;
    errno = 0;
    long long seconds = strtoll(text, &end, 10);
    double left = difftime((time_t)seconds, time(NULL));
    if (errno || end == text || *end || seconds <= 0) {
        ls_warn(
            "SLURM_JOB_END_TIME is \"%.32s\", which is no time; the job's time limit is not looked at", text);
        return 0;
    }
    if (left >= margin)
        return ls_clock_seconds() + left - margin;
    ls_warn("the job's time limit is %.0f s away, and stop.margin is %.0f: this attempt makes one step", left,
        margin);
    return ls_clock_seconds(); // of a machine that has just begun: what lies before it would be below zero
}

// ---- The watch ------------------------------------------------------------------------------------------

static LsStatus start_threads(LsStopWatch *watch, const LsStopOptions *options)
{
    const LsConfig *config = options->config;
    if (options->first) {
        LS_TRY(ls_path_join(watch->file_path, options->run_dir, "stop"));
        LS_TRY(start(watch, &watch->file, look_for_file));
    }
    if (options->asks && config->stop.notices != LS_NOTICE_NONE) {
        LS_TRY(ls_notices_create(config->stop.notices, config->stop.notice_url, &watch->notices));
        LS_TRY(start(watch, &watch->notice, ask_for_notice));
    }
    return LS_OK;
}

LsStatus ls_stop_create(const LsStopOptions *options, LsStopWatch **out)
{
    LsStopWatch *watch = calloc(1, sizeof *watch);
    if (!watch)
        return LS_FAIL(LS_INTERNAL, "out of memory for what may ask to stop");
    pthread_condattr_t monotonic;
    pthread_condattr_init(&monotonic);
    pthread_condattr_setclock(&monotonic, CLOCK_MONOTONIC);
    pthread_mutex_init(&watch->lock, NULL);
    pthread_cond_init(&watch->ending, &monotonic);
    pthread_condattr_destroy(&monotonic);
    watch->signal = options->signal;
    if (options->config->train.max_time > 0)
        watch->max_time = options->begun + options->config->train.max_time;
    if (options->first)
        watch->limit = limit_of_job(options->config->stop.margin);
    LsStatus status = start_threads(watch, options);
    if (status != LS_OK) {
        ls_stop_destroy(watch);
        return status;
    }
    *out = watch;
    return LS_OK;
}

static void join(Watcher *watcher)
{
    if (watcher->started)
        pthread_join(watcher->thread, NULL);
}

void ls_stop_destroy(LsStopWatch *watch)
{
    if (!watch)
        return;
    pthread_mutex_lock(&watch->lock);
    watch->ends = true;
    pthread_cond_broadcast(&watch->ending);
    pthread_mutex_unlock(&watch->lock);
    if (watch->notices)
        ls_notices_interrupt(watch->notices);
    join(&watch->notice);
    join(&watch->file);
    ls_notices_destroy(watch->notices);
    pthread_cond_destroy(&watch->ending);
    pthread_mutex_destroy(&watch->lock);
    free(watch);
}

LsStopReason ls_stop_asked(const LsStopWatch *watch)
{
    if (atomic_load_explicit(&watch->notice.found, memory_order_acquire))
        return LS_STOP_NOTICE;
    if (watch->signal && watch->signal->number)
        return LS_STOP_SIGNAL;
    if (atomic_load_explicit(&watch->file.found, memory_order_acquire))
        return LS_STOP_FILE;
    if (watch->max_time == 0 && watch->limit == 0)
        return LS_STOP_NONE;
    double now = ls_clock_seconds();
    bool over = (watch->max_time > 0 && now >= watch->max_time) || (watch->limit > 0 && now >= watch->limit);
    return over ? LS_STOP_TIME : LS_STOP_NONE;
}

bool ls_stop_hinted(LsStopWatch *watch)
{
    if (!watch->signal || watch->signal->continued == watch->continued)
        return false;
    watch->continued = watch->signal->continued;
    return true;
}

static void describe_time(const LsStopWatch *watch, LsStopRequest *out, double now)
{
    bool max_time = watch->max_time > 0 && now >= watch->max_time;
    out->seconds = now - (max_time ? watch->max_time : watch->limit);
    snprintf(out->text, sizeof out->text, "%s",
        max_time ? "train.max_time is over" : "the time limit of the Slurm job is near");
}

void ls_stop_request(const LsStopWatch *watch, LsStopRequest *out)
{
    double now = ls_clock_seconds();
    *out = (LsStopRequest){.reason = ls_stop_asked(watch)};
    const Watcher *watcher = out->reason == LS_STOP_NOTICE ? &watch->notice : &watch->file;
    switch (out->reason) {
    case LS_STOP_SIGNAL:
        out->seconds = now - watch->signal->seconds;
        snprintf(out->text, sizeof out->text, "asked to stop by SIG%s", sigabbrev_np(watch->signal->number));
        break;
    case LS_STOP_TIME:
        describe_time(watch, out, now);
        break;
    case LS_STOP_FILE:
    case LS_STOP_NOTICE:
        out->seconds = now - watcher->when;
        snprintf(out->text, sizeof out->text, "%s", watcher->text);
        break;
    default:
        break;
    }
}

LsStatus ls_stop_obeyed(const LsStopWatch *watch)
{
    if (watch->file_path[0] && unlink(watch->file_path) != 0 && errno != ENOENT)
        return LS_FAIL(LS_IO, "cannot remove %s: %s", watch->file_path, strerror(errno));
    return LS_OK;
}
