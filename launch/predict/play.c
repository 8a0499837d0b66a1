#include "play.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "base/memory.h"

static size_t phase_transfers(const LsPlan *plan, size_t phase)
{
    return phase < plan->phases ? plan->phase[phase].transfers : 0;
}

static LsStatus allocate(LsPlay *play)
{
    size_t most = 1;
    for (size_t phase = 0; phase < play->plan[0].phases; phase++) {
        size_t transfers = 0;
        for (uint32_t r = 0; r < play->ranks; r++)
            transfers += phase_transfers(&play->plan[r], phase);
        most = transfers > most ? transfers : most;
    }
    LS_TRY(ls_memory_allocate(most * sizeof *play->message, (void **)&play->message));
    LS_TRY(ls_memory_allocate(most * sizeof *play->job, (void **)&play->job));
    LS_TRY(ls_memory_allocate((play->ranks + 1) * sizeof *play->first, (void **)&play->first));
    LS_TRY(ls_memory_allocate(play->ranks * sizeof *play->now, (void **)&play->now));
    return ls_memory_allocate(play->ranks * sizeof *play->next, (void **)&play->next);
}

LsStatus ls_play_create(uint32_t lanes, uint32_t ranks, LsPlay *out)
{
    LsPlay play = {.ranks = 0};
    LsStatus status = ls_memory_allocate(ranks * sizeof *play.plan, (void **)&play.plan);
    while (status == LS_OK && play.ranks < ranks) {
        status = ls_plan_choose(lanes, ranks, play.ranks, &play.plan[play.ranks]);
        play.ranks += status == LS_OK;
    }
    if (status == LS_OK)
        status = allocate(&play);
    if (status != LS_OK) {
        ls_play_free(&play);
        return status;
    }
    *out = play;
    return LS_OK;
}

void ls_play_free(LsPlay *play)
{
    for (uint32_t r = 0; r < play->ranks; r++)
        ls_plan_free(&play->plan[r]);
    free(play->plan);
    free(play->message);
    free(play->job);
    free(play->first);
    free(play->now);
    free(play->next);
    *play = (LsPlay){0};
}

// What is sent in a phase; what is received is the same once more. Returns the number of messages.
static size_t list_messages(
    const LsPlay *play, size_t phase, const LsLink *link, size_t blocks, double block_bytes)
{
    size_t messages = 0;
    for (uint32_t r = 0; r < play->ranks; r++) {
        const LsPlan *plan = &play->plan[r];
        double posted = play->now[r];
        for (size_t i = 0; i < phase_transfers(plan, phase); i++) {
            const LsTransfer *t = &plan->transfer[plan->phase[phase].first_transfer + i];
            size_t moved = ls_piece(blocks, plan->ranks, t->first_piece + t->pieces).first -
                           ls_piece(blocks, plan->ranks, t->first_piece).first;
            if (t->kind != LS_SEND || moved == 0)
                continue;
            posted += link->message;
            play->message[messages++] = (LsPlayMessage){.from = r,
                .to = t->peer,
                .begin = fmax(posted, play->now[t->peer]),
                .bytes = (double)moved * block_bytes};
        }
    }
    return messages;
}

// Runs the jobs of one link, whose bandwidth those that have begun share.
static void share_link(LsPlayJob *job, size_t jobs)
{
    double now = 0;
    for (size_t left = jobs; left > 0;) {
        size_t active = 0;
        double least = INFINITY, soonest = INFINITY;
        for (size_t i = 0; i < jobs; i++) {
            if (job[i].left <= 0)
                continue;
            if (job[i].begin > now) {
                soonest = fmin(soonest, job[i].begin);
                continue;
            }
            active++;
            least = fmin(least, job[i].left);
        }
        double done = active == 0 ? soonest : fmin(soonest, now + least * (double)active);
        // The job with the least left is over when no other one begins before; rounding must not keep it.
        bool ends = active > 0 && now + least * (double)active <= soonest;
        for (size_t i = 0; i < jobs; i++) {
            if (job[i].left <= 0 || job[i].begin > now)
                continue;
            job[i].left = ends && job[i].left <= least ? 0 : job[i].left - (done - now) / (double)active;
            if (job[i].left <= 0) {
                *job[i].end = done;
                left--;
            }
        }
        now = done;
    }
}

// Sorts the messages by the rank whose link they use, and runs every link.
static void run_links(const LsPlay *play, size_t messages, bool receives, double bandwidth)
{
    memset(play->first, 0, (play->ranks + 1) * sizeof *play->first);
    for (size_t i = 0; i < messages; i++)
        play->first[(receives ? play->message[i].to : play->message[i].from) + 1]++;
    for (uint32_t r = 0; r < play->ranks; r++)
        play->first[r + 1] += play->first[r];
    for (size_t i = messages; i-- > 0;) {
        LsPlayMessage *m = &play->message[i];
        uint32_t rank = receives ? m->to : m->from;
        play->job[--play->first[rank + 1]] =
            (LsPlayJob){.begin = m->begin, .left = m->bytes / bandwidth, .end = &m->end[receives]};
    }
    // first[r + 1] is now where rank r's jobs begin.
    for (uint32_t r = 0; r < play->ranks; r++) {
        size_t end = r + 1 < play->ranks ? play->first[r + 2] : messages;
        share_link(play->job + play->first[r + 1], end - play->first[r + 1]);
    }
}

double ls_play_seconds(const LsPlay *play, const LsLink *link, size_t blocks, double block_bytes)
{
    double last = 0;
    memset(play->now, 0, play->ranks * sizeof *play->now);
    for (size_t phase = 0; phase < play->plan[0].phases; phase++) {
        size_t messages = list_messages(play, phase, link, blocks, block_bytes);
        run_links(play, messages, false, link->bandwidth);
        run_links(play, messages, true, link->bandwidth);
        memcpy(play->next, play->now, play->ranks * sizeof *play->now);
        for (size_t i = 0; i < messages; i++) {
            const LsPlayMessage *m = &play->message[i];
            double end = fmax(m->end[0], m->end[1]) + link->latency;
            play->next[m->from] = fmax(play->next[m->from], end);
            play->next[m->to] = fmax(play->next[m->to], end);
            last = fmax(last, end);
        }
        memcpy(play->now, play->next, play->ranks * sizeof *play->now);
    }
    return last;
}
