// The loop: launch, watch, end, decide. One thread; signals arrive through a descriptor.
#include "supervisor/supervise.h"

#include <errno.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/signalfd.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/log.h"
#include "supervisor.h"
#include "supervisor/scratch.h"
#include "train/run_dir.h"

// How often the ranks are looked at, when nothing arrives.
enum { TICK_MILLISECONDS = 100 };

// After so long a gap between two ticks this process itself stood still.
static const double STOPPED_SECONDS = 1;

// A launcher that loses a rank ends the job within some milliseconds, unless the machine is busy, and then
// knows why.
static const double DYING_SECONDS = 1.5;

// A launcher whose ranks have all ended ends as well, unless it stands still itself.
static const double LEAVING_SECONDS = 5;

// Processes that were killed close their connections at once; those of a host that is gone never do.
static const double CLOSING_SECONDS = 3;

// ---- Signals --------------------------------------------------------------------------------------------

static LsStatus take_signals(LsSupervisor *s)
{
    static const int taken[] = {SIGTERM, SIGINT, SIGUSR1, SIGUSR2, SIGHUP, SIGCHLD};
    sigset_t set;
    sigemptyset(&set);
    for (size_t i = 0; i < sizeof taken / sizeof *taken; i++)
        sigaddset(&set, taken[i]);
    signal(SIGPIPE, SIG_IGN);
    sigprocmask(SIG_BLOCK, &set, &s->signals_before);
    s->signals = signalfd(-1, &set, SFD_CLOEXEC | SFD_NONBLOCK);
    return s->signals >= 0 ? LS_OK : LS_FAIL(LS_INTERNAL, "cannot receive signals: %s", strerror(errno));
}

static void read_signals(LsSupervisor *s, double now)
{
    struct signalfd_siginfo info;
    while (read(s->signals, &info, sizeof info) == sizeof info) {
        if (info.ssi_signo == SIGCHLD)
            continue;
        // The second Ctrl-C of somebody who does not want to wait.
        s->impatient = s->impatient || (s->asked > 0 && info.ssi_signo == SIGINT);
        if (s->asked == 0) {
            s->asked = now;
            ls_info("launch: asked to stop; the job saves and ends, within %g s", s->options->grace);
        }
    }
}

void ls_supervisor_wait(LsSupervisor *s)
{
    struct pollfd *polled = s->polled;
    size_t needed = 3 + ls_listener_polled(&s->listener), count = 0;
    if (needed > s->polled_capacity) {
        polled = realloc(s->polled, 2 * needed * sizeof *polled);
        if (!polled) // then it is the clock that wakes
            needed = 0;
        else
            s->polled_capacity = 2 * needed;
        s->polled = polled ? polled : s->polled;
    }
    if (needed > 0) {
        polled[count++] = (struct pollfd){.fd = s->signals, .events = POLLIN};
        polled[count++] = (struct pollfd){.fd = s->job.pid > 0 ? s->job.errors : -1, .events = POLLIN};
        polled[count++] = (struct pollfd){.fd = s->look.pid > 0 ? s->look.output : -1, .events = POLLIN};
        count += ls_listener_poll(&s->listener, polled + count);
    }
    poll(polled, count, TICK_MILLISECONDS);
    double now = ls_clock_seconds();
    if (s->woke > 0 && now - s->woke > STOPPED_SECONDS)
        ls_watch_forgive(&s->watch, now - s->woke);
    s->woke = now;
    read_signals(s, now);
    ls_job_read(&s->job);
    ls_listener_serve(&s->listener, &s->watch, now);
}

// ---- One launch -----------------------------------------------------------------------------------------

static LsStatus start_job(LsSupervisor *s, int ranks)
{
    const LsSuperviseOptions *o = s->options;
    double now = ls_clock_seconds();
    ls_watch_free(&s->watch);
    LS_TRY(ls_watch_begin(&s->watch, (uint32_t)ranks, now));
    LS_TRY(ls_listener_begin(&s->listener));
    s->ranks = ranks;
    s->resizing = 0;
    s->forwarded = false;
    s->finding = (LsFinding){0};
    s->begun = now;
    return ls_job_start(
        &(LsJobOptions){
            .launcher = o->launcher,
            .ranks = ranks,
            .hosts = s->elastic ? &s->hosts : NULL,
            .now = now,
            .allocated = getenv("SLURM_JOB_ID") != NULL,
            .extra = o->launcher_arguments,
            .program = o->program,
            .arguments = o->arguments,
            .resume = s->entered ? "auto" : NULL,
            .supervisor = s->listener.address,
            .key = s->listener.key,
            .incarnation = s->listener.incarnation,
        },
        &s->job);
}

// The rank that is to blame in words, for people.
static void describe_finding(const LsSupervisor *s, char *text, size_t size)
{
    static const char *const what[] = {
        "", "died", "gives no sign of life for", "does not come on for", "did not come within"};
    const LsFinding *f = &s->finding;
    const LsPulseRecord *r = &s->watch.rank[f->rank].last;
    if (f->kind == LS_FINDING_ABSENT)
        snprintf(text, size, "rank %u %s %.0f s", f->rank, what[f->kind], f->seconds);
    else if (f->kind == LS_FINDING_DEAD)
        snprintf(text, size, "rank %u on %s (process %u) died, last heard of in %s of step %llu", f->rank,
            r->host, r->pid, ls_phase_name(r->phase), (unsigned long long)r->step);
    else
        snprintf(text, size, "rank %u on %s (process %u) %s %.1f s, in %s of step %llu", f->rank, r->host,
            r->pid, what[f->kind], f->seconds, ls_phase_name(r->phase), (unsigned long long)r->step);
}

static void note_finding(LsSupervisor *s, double now)
{
    char text[256];
    s->finding = ls_watch_look(&s->watch, now);
    s->found = now;
    if (s->finding.kind == LS_FINDING_NONE)
        return;
    describe_finding(s, text, sizeof text);
    if (!s->asked)
        ls_warn("launch: %s; ending the job", text);
}

// Asks the job to save and stop, once all ranks can hear it: before that a signal would kill them or the
// launcher.
static void forward_stop(LsSupervisor *s)
{
    bool wanted = s->asked > 0 || s->resizing > 0;
    if (!wanted || s->forwarded || !ls_watch_all_connected(&s->watch))
        return;
    ls_job_signal(&s->job, SIGUSR1);
    s->forwarded = true;
}

static bool out_of_grace(const LsSupervisor *s, double now)
{
    double since = s->asked > 0 ? s->asked : s->resizing;
    return s->impatient || (since > 0 && now - since > s->options->grace);
}

// Whether the launcher has ended; then *status is what it ended with.
static bool reap(LsSupervisor *s, int *status)
{
    pid_t got = waitpid(s->job.pid, status, WNOHANG);
    return got == s->job.pid || (got < 0 && errno == ECHILD);
}

static bool all_gone(const LsWatch *watch)
{
    uint32_t code;
    return ls_watch_all_ended(watch, &code) && ls_watch_all_closed(watch);
}

// Watches the job to its end and returns the launcher's exit status; *killed: it was ended here.
static int watch_job(LsSupervisor *s, bool *killed)
{
    int status = 0;
    double gone = 0; // clock: since when all ranks have ended
    *killed = false;
    while (!reap(s, &status)) {
        ls_supervisor_wait(s);
        double now = ls_clock_seconds();
        ls_supervisor_look_at_hosts(s, now);
        forward_stop(s);
        if (s->finding.kind == LS_FINDING_NONE && !*killed) // what dies now was killed here
            note_finding(s, now);
        if (gone == 0 && all_gone(&s->watch))
            gone = now;
        bool dead = s->finding.kind == LS_FINDING_DEAD;
        bool wrong = s->finding.kind != LS_FINDING_NONE && (!dead || now - s->found > DYING_SECONDS);
        wrong = wrong || (gone > 0 && now - gone > LEAVING_SECONDS);
        if (!*killed && (wrong || out_of_grace(s, now))) {
            *killed = true;
            ls_job_kill(&s->job);
        }
    }
    return status;
}

// Waits until no rank lives, as far as that can be known.
static void wait_for_ranks(LsSupervisor *s)
{
    double end = ls_clock_seconds() + CLOSING_SECONDS;
    ls_listener_dismiss(&s->listener);
    ls_listener_serve(&s->listener, &s->watch, ls_clock_seconds());
    while (!ls_watch_all_closed(&s->watch) && ls_clock_seconds() < end)
        ls_supervisor_wait(s);
}

// How the job ended: what all ranks said, if they did, else what the launcher says.
static void judge(LsSupervisor *s, int status, bool killed, LsJobOutcome *out)
{
    uint32_t said = 0;
    const LsPulseRecord *furthest = ls_watch_furthest(&s->watch);
    *out = (LsJobOutcome){
        .asked = s->asked > 0,
        .resizing = s->resizing > 0,
        .durable = ls_record_durable(&s->record),
        .superseded = furthest && furthest->attempt > 0 &&
                      ls_run_dir_newest_attempt(s->options->run_dir) > (int)furthest->attempt,
        .step = furthest ? (int64_t)furthest->step : 0,
        .in_step = furthest && furthest->step > 0,
        .final_stop = ls_supervisor_take_leave(s),
    };
    if (s->finding.kind != LS_FINDING_NONE && s->finding.kind != LS_FINDING_ABSENT)
        out->step = (int64_t)s->watch.rank[s->finding.rank].last.step;
    if (s->finding.kind == LS_FINDING_DEAD)
        out->slack = ls_watch_slack(&s->watch, s->finding.rank);
    out->code = WIFSIGNALED(status) ? 128 + WTERMSIG(status) : WEXITSTATUS(status);
    out->end = out->code > 128 && out->code < 128 + 65 ? LS_JOB_DIED : LS_JOB_EXITED;
    if (ls_watch_all_ended(&s->watch, &said)) {
        out->end = LS_JOB_EXITED;
        out->code = (int)said;
    } else if (killed && s->finding.kind != LS_FINDING_DEAD) {
        out->end = LS_JOB_HUNG;
        out->code = ls_status_exit_code(LS_HUNG);
    } else if (killed) {
        out->end = LS_JOB_DIED;
        out->code = 128 + SIGKILL;
    } else if (out->code == 0) { // a launcher that is content with ranks that did not say so
        out->end = LS_JOB_DIED;
        out->code = ls_status_exit_code(LS_INTERNAL);
    }
}

LsStatus ls_supervisor_launch(LsSupervisor *s, int ranks, LsJobOutcome *out)
{
    bool killed = false;
    LS_TRY(start_job(s, ranks));
    int status = watch_job(s, &killed);
    ls_job_read(&s->job);
    wait_for_ranks(s);
    const LsPulseRecord *furthest = ls_watch_furthest(&s->watch);
    if (furthest)
        ls_record_release(&s->record, furthest->attempt);
    ls_job_end(&s->job);
    judge(s, status, killed, out);
    // What the first attempt was told about where to begin has been done.
    s->entered = s->entered || ls_supervisor_has_entered(s);
    return LS_OK;
}

// ---- All launches ---------------------------------------------------------------------------------------

static LsStatus open_supervisor(LsSupervisor *s)
{
    LS_TRY(take_signals(s));
    LS_TRY(ls_listener_open(s->options->interface, &s->listener));
    LS_TRY(ls_record_open(s->options->run_dir, &s->record));
    ls_scratch_sweep();
    s->policy.durable = ls_record_durable(&s->record);
    return LS_OK;
}

// Ranks of a launch that was killed may still be dying, and hold what is to be removed until they are dead.
static void sweep_at_the_end(const LsSupervisor *s)
{
    enum { LOOKS = 100 };
    ls_scratch_sweep();
    for (int i = 0; i < LOOKS && ls_directory_exists(s->job.scratch); i++) {
        nanosleep(&(struct timespec){.tv_nsec = 10000000}, NULL);
        ls_scratch_sweep();
    }
}

static void close_supervisor(LsSupervisor *s)
{
    sweep_at_the_end(s);
    ls_look_cancel(&s->look);
    ls_listener_close(&s->listener);
    ls_watch_free(&s->watch);
    ls_hosts_free(&s->hosts);
    ls_record_close(&s->record);
    free(s->polled);
    if (s->signals >= 0) {
        close(s->signals);
        sigprocmask(SIG_SETMASK, &s->signals_before, NULL);
    }
}

LsStatus ls_supervise(const LsSuperviseOptions *options)
{
    static LsSupervisor supervisor; // for its size; there is one in a process
    supervisor = (LsSupervisor){
        .options = options,
        .elastic = options->hostfile || options->discover,
        .signals = -1,
        .listener.fd = -1,
        .job = {.errors = -1, .scratch_lock = -1},
        .record.lock = -1,
        .policy.max_restarts = options->max_restarts,
    };
    LsStatus status = open_supervisor(&supervisor);
    if (status == LS_OK)
        status = ls_supervisor_run(&supervisor);
    close_supervisor(&supervisor);
    return status;
}
