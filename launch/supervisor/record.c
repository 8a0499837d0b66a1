#include "record.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <time.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/log.h"
#include "train/checkpoint.h"

// Ranks whose launcher died are gone within a second or two, those of a host that is gone as soon as the
// storage says so.
static const double WAIT_SECONDS = 20;

// Within this long a process that dies in reach is gone.
static const double RELEASE_SECONDS = 1;

// Takes the signals that have come: they are blocked here, and one that was left would end this process when
// it lets them through again.
static bool asked_to_stop(void)
{
    static const int asking[] = {SIGTERM, SIGINT, SIGUSR1, SIGUSR2, SIGHUP};
    sigset_t set;
    bool asked = false;
    sigemptyset(&set);
    for (size_t i = 0; i < sizeof asking / sizeof *asking; i++)
        sigaddset(&set, asking[i]);
    while (sigtimedwait(&set, NULL, &(struct timespec){0}) > 0)
        asked = true;
    return asked;
}

// Takes the lock on RUN/name, trying for a while. fd -1: there is no such file.
static LsStatus wait_for_lock(const char *run_dir, const char *name, int flags, int *fd)
{
    char path[LS_PATH_MAX], holder[160] = "";
    LS_TRY(ls_path_join(path, run_dir, name));
    *fd = open(path, O_RDWR | O_CLOEXEC | flags, 0666);
    if (*fd < 0)
        return errno == ENOENT ? LS_OK : LS_FAIL(LS_IO, "cannot open %s: %s", path, strerror(errno));
    double end = ls_clock_seconds() + WAIT_SECONDS;
    while (flock(*fd, LOCK_EX | LOCK_NB) != 0) {
        int error = errno;
        bool stops = asked_to_stop();
        if (error == EWOULDBLOCK && ls_clock_seconds() < end && !stops) {
            nanosleep(&(struct timespec){.tv_nsec = 50 * 1000 * 1000}, NULL);
            continue;
        }
        ssize_t got = pread(*fd, holder, sizeof holder - 1, 0);
        holder[got > 0 ? strcspn(holder, "\n") : 0] = '\0';
        close(*fd);
        *fd = -1;
        if (error != EWOULDBLOCK)
            return LS_FAIL(LS_IO, "cannot lock %s: %s", path, strerror(error));
        if (stops)
            return LS_FAIL(LS_STOPPED,
                "asked to stop while waiting for %s, which is in use (%s): run again to go on", run_dir,
                holder);
        return LS_FAIL(LS_IO,
            "%s is in use (%s holds process, host and attempt: %s); stop it or choose another run directory",
            run_dir, name, holder);
    }
    return LS_OK;
}

static void sign(int fd)
{
    char host[256] = "", text[320];
    gethostname(host, sizeof host - 1);
    int size = snprintf(text, sizeof text, "%d %s 0\n", (int)getpid(), host);
    // For people; the lock itself is what counts.
    if (ftruncate(fd, 0) != 0 || pwrite(fd, text, (size_t)size, 0) != size)
        return;
}

LsStatus ls_record_open(const char *run_dir, LsRecord *out)
{
    LsRecord made = {.run_dir = run_dir, .lock = -1};
    int ranks = -1;
    LS_TRY(ls_directory_create(run_dir));
    LS_TRY(wait_for_lock(run_dir, "launch.lock", O_CREAT, &made.lock));
    sign(made.lock);
    LsStatus status = wait_for_lock(run_dir, "lock", 0, &ranks);
    if (ranks >= 0)
        close(ranks); // for the job to take
    if (status != LS_OK) {
        ls_record_close(&made);
        return status;
    }
    *out = made;
    return LS_OK;
}

void ls_record_close(LsRecord *record)
{
    if (record->lock >= 0)
        close(record->lock);
    record->lock = -1;
}

// The attempt that holds the lock on the file, as far as its text tells; 0: nobody does.
static uint32_t holder(int fd)
{
    char text[320] = "";
    uint32_t attempt = 0;
    if (flock(fd, LOCK_EX | LOCK_NB) == 0) {
        flock(fd, LOCK_UN);
        return 0;
    }
    ssize_t got = pread(fd, text, sizeof text - 1, 0);
    text[got > 0 ? got : 0] = '\0';
    return sscanf(text, "%*d %*255s %" SCNu32, &attempt) == 1 ? attempt : 0;
}

void ls_record_release(const LsRecord *record, uint32_t attempt)
{
    char path[LS_PATH_MAX];
    if (attempt == 0 || ls_path_join(path, record->run_dir, "lock") != LS_OK)
        return;
    int fd = open(path, O_RDWR | O_CLOEXEC);
    if (fd < 0)
        return;
    double end = ls_clock_seconds() + RELEASE_SECONDS;
    bool held;
    while ((held = holder(fd) == attempt) && ls_clock_seconds() < end)
        nanosleep(&(struct timespec){.tv_nsec = 20 * 1000 * 1000}, NULL);
    if (held && unlink(path) == 0)
        ls_warn("launch: attempt %u may live on out of reach; the run's lock is taken from it", attempt);
    close(fd);
}

int64_t ls_record_durable(const LsRecord *record)
{
    int64_t *steps = NULL, newest = -1;
    size_t count = 0;
    if (ls_checkpoint_list(record->run_dir, &steps, &count) == LS_OK && count > 0)
        newest = steps[count - 1];
    free(steps);
    return newest;
}
