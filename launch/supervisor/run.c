// Launch after launch, and what is said about each.

#include <stdio.h>
#include <string.h>

#include "base/clock.h"
#include "base/log.h"
#include "supervisor.h"
#include "train/run_dir.h"

bool ls_supervisor_has_entered(const LsSupervisor *s)
{
    const LsPulseRecord *furthest = ls_watch_furthest(&s->watch);
    return furthest && furthest->step > 0 && furthest->durable >= 0;
}

// ---- Words ----------------------------------------------------------------------------------------------

static const char *reason_name(const LsSupervisor *s, const LsJobOutcome *o)
{
    static const char *const names[] = {
        [LS_FINDING_NONE] = "the job failed",
        [LS_FINDING_DEAD] = "a rank died",
        [LS_FINDING_SILENT] = "a rank stopped",
        [LS_FINDING_STUCK] = "a rank hung",
        [LS_FINDING_ABSENT] = "a rank did not come",
    };
    if (o->resizing && o->code == ls_status_exit_code(LS_STOPPED))
        return "other hosts";
    if (o->code == ls_status_exit_code(LS_STOPPED))
        return "ranks were asked to stop";
    if (s->finding.kind == LS_FINDING_NONE && o->end == LS_JOB_DIED)
        return "the launcher died";
    return names[s->finding.kind];
}

// The rank that a finding is about, else the one that knows most of the run; NULL when none has come.
static const LsPulseRecord *speaker(const LsSupervisor *s)
{
    const LsPulseRecord *found = &s->watch.rank[s->finding.rank].last;
    bool known = s->finding.kind != LS_FINDING_NONE && found->sequence > 0;
    return known ? found : ls_watch_furthest(&s->watch);
}

// "step 17 (positions 1024 to 1087 of the stream of samples)": which data a failure may have to do with.
static void describe_step(const LsSupervisor *s, const LsJobOutcome *o, char *text, size_t size)
{
    const LsPulseRecord *r = speaker(s);
    if (!o->in_step || !r) {
        snprintf(text, size, "the start");
        return;
    }
    char steps[64];
    if (o->slack > 0)
        snprintf(
            steps, sizeof steps, "steps %lld to %lld", (long long)o->step, (long long)(o->step + o->slack));
    else
        snprintf(steps, sizeof steps, "step %lld", (long long)o->step);
    snprintf(text, size, "%s (positions %llu to %llu of the stream of samples)", steps,
        (unsigned long long)r->cursor,
        (unsigned long long)r->cursor + (unsigned long long)((o->slack + 1) * s->options->batch) - 1);
}

// ---- The run's own record -------------------------------------------------------------------------------

// `seconds`: for how long nothing had come on when the job was over; `delay`: until it is started again.
static void write_restart(LsSupervisor *s, const LsJobOutcome *o, double seconds, double delay)
{
    const LsPulseRecord *furthest = ls_watch_furthest(&s->watch);
    json_t *details = json_pack("{s:s, s:i, s:f, s:f, s:i}", "reason", reason_name(s, o), "code", o->code,
        "seconds", seconds, "delay", delay, "world_size", s->ranks);
    if (s->finding.kind != LS_FINDING_NONE) {
        const LsPulseRecord *r = &s->watch.rank[s->finding.rank].last;
        json_object_set_new(details, "rank", json_integer(s->finding.rank));
        if (r->sequence > 0) {
            json_object_set_new(details, "host", json_string(r->host));
            json_object_set_new(details, "process", json_integer(r->pid));
            json_object_set_new(details, "phase", json_string(ls_phase_name(r->phase)));
        }
    }
    if (s->job.sentence[0] != '\0')
        json_object_set_new(details, "message", json_string(s->job.sentence));
    // A run that cannot be written to says so itself, with its next attempt.
    if (ls_metrics_append_event(s->options->run_dir, furthest ? (int)furthest->attempt : 0, "restart",
            o->step > 0 ? o->step - 1 : 0, details) != LS_OK)
        ls_warn("launch: %s", ls_status_message());
}

// ---- The end --------------------------------------------------------------------------------------------

static LsStatus status_of(int code)
{
    static const LsStatus known[] = {LS_USAGE, LS_BAD_DATA, LS_NO_INPUT, LS_UNAVAILABLE, LS_DIVERGED, LS_IO,
        LS_STOPPED, LS_CHECKPOINT, LS_CONFIG, LS_HUNG};
    for (size_t i = 0; i < sizeof known / sizeof *known; i++)
        if (ls_status_exit_code(known[i]) == code)
            return known[i];
    return code == 126 || code == 127 ? LS_UNAVAILABLE : LS_INTERNAL;
}

// What made the last attempt end, as far as anybody said so.
static void describe_end(const LsSupervisor *s, const LsJobOutcome *o, char *text, size_t size)
{
    const LsPulseRecord *r = &s->watch.rank[s->finding.rank].last;
    char who[256] = "";
    if (s->finding.kind != LS_FINDING_NONE && r->sequence > 0)
        snprintf(who, sizeof who, "%s: rank %u on %s, in %s", reason_name(s, o), s->finding.rank, r->host,
            ls_phase_name(r->phase));
    if (s->job.sentence[0] != '\0')
        snprintf(text, size, "%s%s%s", s->job.sentence, *who ? "; " : "", who);
    else if (*who)
        snprintf(text, size, "%s", who);
    else
        snprintf(text, size, "%s with code %d", reason_name(s, o), o->code);
}

// Of a job that was asked to stop and ended before it had.
static void describe_hurry(const LsSupervisor *s, const char *step, const char *end, char *text, size_t size)
{
    if (s->impatient)
        snprintf(text, size,
            "ended in %s by the second SIGINT: run again to go on from the newest checkpoint", step);
    else if (s->finding.kind != LS_FINDING_NONE)
        snprintf(text, size, "asked to stop, the job was ended in %s: %s; run again to go on", step, end);
    else
        snprintf(text, size, "the job did not save within --grace %g s: it was ended in %s",
            s->options->grace, step);
}

static LsStatus finish(LsSupervisor *s, const LsJobOutcome *o, const LsDecision *decision)
{
    static char message[LS_SENTENCE_MAX + 256]; // a rank's whole sentence fits
    char end[LS_SENTENCE_MAX], step[128];
    if (decision->code == 0)
        return LS_OK;
    LsStatus status = status_of(decision->code);
    describe_end(s, o, end, sizeof end);
    describe_step(s, o, step, sizeof step);
    if (o->superseded) // what is in the run directory now is the other's
        return LS_FAIL(LS_IO,
            "%s: attempt %d of somebody else has taken the run over; this launch stops here",
            s->options->run_dir, ls_run_dir_newest_attempt(s->options->run_dir));
    if (decision->why)
        snprintf(message, sizeof message, "the job %s, in %s: %s", decision->why, step, end);
    else if (o->asked && status != LS_STOPPED && o->end == LS_JOB_HUNG)
        describe_hurry(s, step, end, message, sizeof message);
    else if (status == LS_STOPPED && o->code != decision->code)
        snprintf(message, sizeof message, "asked to stop before the first step: run again to go on");
    else
        snprintf(message, sizeof message, "%s", end);
    // Where no rank could: the state that the run is left in.
    if (ls_metrics_replace_state(s->options->run_dir, decision->why ? NULL : "running",
            status == LS_STOPPED ? "preempted" : "failed", message) != LS_OK)
        ls_warn("launch: %s", ls_status_message());
    return ls_status_adopt(status, message);
}

// ---- The loop -------------------------------------------------------------------------------------------

static void pause_for(LsSupervisor *s, double seconds)
{
    for (double end = ls_clock_seconds() + seconds; ls_clock_seconds() < end && s->asked == 0;)
        ls_supervisor_wait(s);
}

static LsStatus stopped_between(LsSupervisor *s)
{
    const char *message = "asked to stop while no rank ran: run again to go on";
    ls_metrics_replace_state(s->options->run_dir, NULL, "preempted", message);
    return ls_status_adopt(LS_STOPPED, message);
}

// How long the ranks had already come to nothing when the job was over.
static double lost_seconds(const LsSupervisor *s)
{
    double now = ls_clock_seconds();
    return s->finding.kind == LS_FINDING_NONE ? 0 : now - s->found + s->finding.seconds;
}

LsStatus ls_supervisor_run(LsSupervisor *s)
{
    int ranks = 0;
    LS_TRY(ls_supervisor_choose_ranks(s, &ranks));
    for (;;) {
        LsJobOutcome outcome;
        if (s->asked > 0)
            return stopped_between(s);
        LS_TRY(ls_supervisor_launch(s, ranks, &outcome));
        double lost = lost_seconds(s);
        LsDecision decision = ls_policy_decide(&s->policy, &outcome);
        if (!decision.again)
            return finish(s, &outcome, &decision);
        if (!outcome.resizing)
            ls_supervisor_blame_host(s);
        char step[128], end[LS_SENTENCE_MAX];
        describe_step(s, &outcome, step, sizeof step);
        describe_end(s, &outcome, end, sizeof end);
        write_restart(s, &outcome, lost, decision.delay);
        pause_for(s, decision.delay);
        LS_TRY(ls_supervisor_choose_ranks(s, &ranks));
        if (ranks > 0)
            ls_info("launch: attempt ended in %s with code %d: %s; going on with %d rank%s", step,
                outcome.code, end, ranks, ranks == 1 ? "" : "s");
    }
}
