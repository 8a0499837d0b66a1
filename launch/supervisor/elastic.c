// How many ranks, and where: hosts that come and go.

#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "base/log.h"
#include "supervisor.h"

static const double LOOK_EVERY = 2; // seconds

static void begin_look(LsSupervisor *s, double now)
{
    LsLookOptions options = {.hostfile = s->options->hostfile,
        .discover = s->options->discover,
        .probe = s->options->launcher == LS_LAUNCHER_SRUN && !s->options->probe ? "true" : s->options->probe};
    if (s->look.pid == 0 && ls_look_start(&options, &s->look, now) != LS_OK)
        ls_warn("launch: %s", ls_status_message());
}

static const LsHost *find_host(const LsHosts *hosts, const char *name)
{
    for (size_t i = 0; i < hosts->count; i++)
        if (strcmp(hosts->host[i].name, name) == 0)
            return &hosts->host[i];
    return NULL;
}

static void say_changes(const LsSupervisor *s, const LsHosts *list)
{
    for (size_t i = 0; i < s->hosts.count; i++) {
        const LsHost *known = &s->hosts.host[i], *found = find_host(list, known->name);
        if (known->here && !found)
            ls_warn("launch: host %s has gone: it is not listed, or does not answer", known->name);
        else if (!known->here && found)
            ls_info("launch: host %s is back", known->name);
    }
}

// Takes over a look that is done. False: there is none.
static bool end_look(LsSupervisor *s, double now, LsStatus *status)
{
    LsHosts list = {0};
    if (!ls_look_poll(&s->look, now, status, &list))
        return false;
    s->next_look = now + LOOK_EVERY;
    if (*status == LS_OK) {
        say_changes(s, &list);
        *status = ls_hosts_update(&s->hosts, &list, now);
    }
    ls_hosts_free(&list);
    s->looked = s->looked || *status == LS_OK;
    return true;
}

static int at_most(const LsSupervisor *s, int slots)
{
    return slots > s->options->ranks ? (int)s->options->ranks : slots;
}

// Whether the job should be stopped in good order, to go on with another number of ranks.
static const char *reason_to_resize(const LsSupervisor *s, double now)
{
    int present = at_most(s, ls_hosts_slots(&s->hosts, 0, now));
    int settled = at_most(s, ls_hosts_slots(&s->hosts, s->options->settle, now));
    if (present < s->ranks && present >= s->options->min_ranks)
        return "hosts are leaving";
    bool rested = now - s->begun > s->options->settle && now - s->grown > 2 * s->options->settle;
    return settled > s->ranks && rested ? "hosts have come" : NULL;
}

void ls_supervisor_look_at_hosts(LsSupervisor *s, double now)
{
    LsStatus status;
    if (!s->elastic)
        return;
    if (now >= s->next_look)
        begin_look(s, now);
    if (!end_look(s, now, &status) || status != LS_OK || s->asked > 0 || s->resizing > 0)
        return; // a list that cannot be had now is no reason to disturb the job
    const char *reason = reason_to_resize(s, now);
    if (!reason || !ls_watch_all_connected(&s->watch))
        return;
    ls_info("launch: %s: the job saves, to go on with %d ranks instead of %d", reason,
        at_most(s, ls_hosts_slots(&s->hosts, 0, now)), s->ranks);
    s->grown = s->resizing = now;
}

// Looks once and waits for the result.
static LsStatus look_now(LsSupervisor *s)
{
    LsStatus status = LS_OK;
    ls_look_cancel(&s->look); // it may have begun before a host died
    begin_look(s, ls_clock_seconds());
    while (s->look.pid > 0 && !end_look(s, ls_clock_seconds(), &status) && s->asked == 0)
        ls_supervisor_wait(s);
    return status;
}

LsStatus ls_supervisor_choose_ranks(LsSupervisor *s, int *ranks)
{
    const LsSuperviseOptions *o = s->options;
    *ranks = (int)o->ranks;
    if (!s->elastic)
        return LS_OK;
    double pause = 1;
    bool said = false;
    while (s->asked == 0) {
        LsStatus status = look_now(s);
        // What is wrong from the beginning is a mistake; later it may pass.
        if (status != LS_OK && !s->looked)
            return status;
        double now = ls_clock_seconds();
        *ranks = at_most(s, ls_hosts_slots(&s->hosts, 0, now));
        if (status == LS_OK && *ranks >= o->min_ranks && *ranks > 0)
            return LS_OK;
        if (!said)
            ls_warn("launch: waiting for hosts: %d slots answer, %lld are needed%s%s", *ranks,
                (long long)o->min_ranks, status == LS_OK ? "" : "; ",
                status == LS_OK ? "" : ls_status_message());
        said = true;
        for (double end = now + pause; ls_clock_seconds() < end && s->asked == 0;)
            ls_supervisor_wait(s);
        pause = pause < 30 ? 2 * pause : 30;
    }
    *ranks = 0;
    return LS_OK;
}

bool ls_supervisor_take_leave(LsSupervisor *s)
{
    bool stops = false;
    for (uint32_t r = 0; r < s->watch.ranks; r++) {
        const LsPulseRecord *record = &s->watch.rank[r].last;
        bool leaves = record->stop == LS_PULSE_LEAVES;
        stops = stops || record->stop == LS_PULSE_STOPS || (leaves && !s->elastic);
        if (!leaves || !s->elastic)
            continue;
        ls_warn("launch: %s goes away: it is left out", record->host);
        ls_hosts_leave(&s->hosts, record->host, ls_clock_seconds());
    }
    return stops;
}

void ls_supervisor_blame_host(LsSupervisor *s)
{
    if (!s->elastic || s->finding.kind == LS_FINDING_NONE || s->finding.kind == LS_FINDING_ABSENT)
        return;
    const char *host = s->watch.rank[s->finding.rank].last.host;
    if (ls_hosts_blame(&s->hosts, host, (int)s->options->min_ranks, ls_clock_seconds()))
        ls_warn("launch: ranks on %s failed repeatedly: it is left out for a while", host);
}
