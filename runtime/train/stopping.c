// How a run stops when it is asked to.

#include <stdlib.h>

#include "base/memory.h"
#include "trainer_state.h"

// What a rank tells the others of who asked it.
typedef struct Asked {
    LsStopRequest request;
    char host[64];
} Asked;

uint32_t ls_trainer_asks_to_stop(const LsTrainer *t)
{
    return t->stop ? ls_stop_asked(t->stop) : LS_STOP_NONE;
}

LsStatus ls_trainer_watch(LsTrainer *t)
{
    return ls_stop_create(&(LsStopOptions){.config = t->config,
                              .signal = t->options->stop_signal,
                              .run_dir = t->run.path,
                              .begun = t->begun,
                              .first = ls_comm_rank(t->comm) == 0,
                              .asks = ls_comm_local_rank(t->comm) == 0},
        &t->stop);
}

// The rank that was asked first for the reason that counted. It may have been asked for another one since.
static size_t choose(const Asked *all, size_t ranks, uint32_t reason)
{
    size_t best = 0;
    for (size_t r = 1; r < ranks; r++) {
        const LsStopRequest *mine = &all[r].request, *theirs = &all[best].request;
        bool fits = mine->reason == reason, fit = theirs->reason == reason;
        if (fits != fit ? fits : mine->seconds > theirs->seconds)
            best = r;
    }
    return best;
}

// Who asked, alike on all ranks; collective.
static LsStatus find_who_asked(LsTrainer *t, uint32_t reason, Asked *who, size_t *rank)
{
    size_t ranks = (size_t)ls_comm_size(t->comm);
    Asked mine = {0}, *all = NULL;
    LsStatus status = ls_memory_allocate(ranks * (sizeof *all + sizeof(size_t)), (void **)&all);
    LS_TRY(ls_comm_agree(t->comm, status));
    size_t *sizes = (size_t *)(all + ranks);
    for (size_t r = 0; r < ranks; r++)
        sizes[r] = sizeof *all;
    ls_stop_request(t->stop, &mine.request);
    snprintf(mine.host, sizeof mine.host, "%s", ls_comm_host(t->comm));
    status = ls_comm_all_gather(t->comm, &mine, all, sizes);
    if (status == LS_OK) {
        *rank = choose(all, ranks, reason);
        *who = all[*rank];
    }
    free(all);
    return status;
}

// What a stop for which all ranks have voted means for who watches them.
static LsPulseStop pulse_stop(const LsTrainer *t, uint32_t reason)
{
    if (reason == LS_STOP_TIME || reason == LS_STOP_FILE)
        return LS_PULSE_STOPS;
    bool leaves = reason == LS_STOP_NOTICE && ls_trainer_asks_to_stop(t) == LS_STOP_NOTICE;
    return leaves ? LS_PULSE_LEAVES : LS_PULSE_GOES_ON;
}

LsStatus ls_trainer_stop(LsTrainer *t, uint32_t reason)
{
    Asked who;
    size_t rank = 0;
    ls_pulse_stop(t->options->pulse, pulse_stop(t, reason));
    LS_TRY(find_who_asked(t, reason, &who, &rank));
    LsStatus status = ls_metrics_event(t->metrics, "preempt", t->state.control.step,
        json_pack("{s:s, s:s, s:i, s:s, s:o}", "reason", ls_stop_name(who.request.reason), "message",
            who.request.text, "rank", (int)rank, "host", who.host, "seconds",
            ls_json_number(who.request.seconds)));
    // A stop file that nobody has seen yet, or that another reason came before, holds for the next attempt.
    if (status == LS_OK && reason == LS_STOP_FILE)
        status = ls_stop_obeyed(t->stop);
    LS_TRY(ls_comm_agree(t->comm, status));
    return LS_FAIL(LS_STOPPED, "%s: checkpoint of step %lld is durable, run again to go on", who.request.text,
        (long long)t->state.control.step);
}
