// Waiting with a deadline, and finding out who is to blame when it passes.
//
// A rank whose deadline passes asks every other rank for a sign of life. Ranks answer while they wait
// themselves, so those who do not answer are the ones that are stuck somewhere else, and the line names them.
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "base/clock.h"
#include "base/memory.h"
#include "mpi_backend.h"

enum { TAG_QUESTION = 1, TAG_ANSWER = 2 };

enum {
    SPINS = 2000,        // polls without a pause, when every rank has a processor
    YIELDS = 20000,      // polls that offer the processor to others, likewise
    CROWDED_YIELDS = 50, // when ranks share processors, those who wait must get out of the way
    POLLS_PER_SLEEP = 8, // a long message advances by some fragments at each poll
    SLEEP_NANOSECONDS = 20000,
    LISTED_RANKS = 8
};

static volatile uint64_t looks; // at the clock, in waits

const volatile uint64_t *ls_comm_polls(void)
{
    return &looks;
}

static const double ANSWER_SECONDS = 1.0;

// One line is enough: who hears from a lower rank, which then waits as well, lets that one speak first.
static const double PRECEDENCE_SECONDS = 2.0;

// Between two looks at the clock lie some hundred polls. After so long a gap this process was itself stopped,
// and does not hold it against the others.
static const double STOPPED_SECONDS = 0.5;

void ls_mpi_check(MpiComm *mpi, int code, const char *call)
{
    if (code == MPI_SUCCESS)
        return;
    char reason[MPI_MAX_ERROR_STRING] = "unknown error", line[MPI_MAX_ERROR_STRING + 128];
    int length = 0;
    MPI_Error_string(code, reason, &length);
    snprintf(line, sizeof line, "rank %d on %s: %s failed: %s", mpi->base.rank, mpi->base.host, call, reason);
    ls_comm_abort(&mpi->base, LS_INTERNAL, line);
}

// ---- Signs of life --------------------------------------------------------------------------------------

// A message without contents, to be forgotten once sent.
static void send_byte(MpiComm *mpi, int peer, int tag)
{
    static char nothing;
    MPI_Request request;
    ls_mpi_check(mpi, MPI_Isend(&nothing, 0, MPI_BYTE, peer, tag, mpi->pulse, &request), "MPI_Isend");
    ls_mpi_check(mpi, MPI_Request_free(&request), "MPI_Request_free");
}

void ls_mpi_listen(MpiComm *mpi)
{
    ls_mpi_check(mpi,
        MPI_Irecv(&mpi->question_byte, 1, MPI_BYTE, MPI_ANY_SOURCE, TAG_QUESTION, mpi->pulse, &mpi->question),
        "MPI_Irecv");
}

void ls_mpi_stop_listening(MpiComm *mpi)
{
    ls_mpi_check(mpi, MPI_Cancel(&mpi->question), "MPI_Cancel");
    ls_mpi_check(mpi, MPI_Wait(&mpi->question, MPI_STATUS_IGNORE), "MPI_Wait"); // cancelled: returns at once
}

static void answer_questions(MpiComm *mpi)
{
    if (mpi->question == MPI_REQUEST_NULL) // not listening yet
        return;
    int asked;
    MPI_Status status;
    ls_mpi_check(mpi, MPI_Test(&mpi->question, &asked, &status), "MPI_Test");
    if (!asked)
        return;
    send_byte(mpi, status.MPI_SOURCE, TAG_ANSWER);
    ls_mpi_listen(mpi);
}

// Clears silent[r] for every rank r that answers in time. Answering goes on meanwhile: the others may be
// asking as well.
static void ask_everybody(MpiComm *mpi, bool *silent)
{
    int missing = mpi->base.size - 1;
    for (int r = 0; r < mpi->base.size; r++) {
        silent[r] = r != mpi->base.rank;
        if (silent[r])
            send_byte(mpi, r, TAG_QUESTION);
    }
    double deadline = ls_clock_seconds() + ANSWER_SECONDS;
    while (missing > 0 && ls_clock_seconds() < deadline) {
        answer_questions(mpi);
        int arrived;
        MPI_Status status;
        ls_mpi_check(
            mpi, MPI_Iprobe(MPI_ANY_SOURCE, TAG_ANSWER, mpi->pulse, &arrived, &status), "MPI_Iprobe");
        if (!arrived) {
            nanosleep(&(struct timespec){.tv_nsec = SLEEP_NANOSECONDS}, NULL);
            continue;
        }
        char nothing;
        ls_mpi_check(mpi,
            MPI_Recv(&nothing, 1, MPI_BYTE, status.MPI_SOURCE, TAG_ANSWER, mpi->pulse, MPI_STATUS_IGNORE),
            "MPI_Recv");
        silent[status.MPI_SOURCE] = false;
        missing--;
    }
}

// ---- The deadline ---------------------------------------------------------------------------------------

// "rank 2", "ranks 2, 5 and 7", "ranks 0, 1, 2, … (40 in all)"; false when no flag is set.
static bool name_ranks(const bool *set, int ranks, char *text, size_t size)
{
    int total = 0, named = 0;
    for (int r = 0; r < ranks; r++)
        total += set[r];
    if (total == 0)
        return false;
    size_t used = (size_t)snprintf(text, size, total == 1 ? "rank" : "ranks");
    for (int r = 0; r < ranks && named < LISTED_RANKS; r++) {
        if (!set[r])
            continue;
        const char *separator = named == 0 ? " " : named == total - 1 ? " and " : ", ";
        used += (size_t)snprintf(text + used, size - used, "%s%d", separator, r);
        named++;
    }
    if (named < total)
        snprintf(text + used, size - used, ", … (%d in all)", total);
    return true;
}

// Answers questions until a lower rank, if one is not silent, has had its time to end the job.
static void let_lower_speak(MpiComm *mpi, const bool *silent)
{
    bool lower = false;
    for (int r = 0; r < mpi->base.rank; r++)
        lower = lower || !silent[r];
    double until = ls_clock_seconds() + PRECEDENCE_SECONDS;
    while (lower && ls_clock_seconds() < until) {
        answer_questions(mpi);
        nanosleep(&(struct timespec){.tv_nsec = SLEEP_NANOSECONDS}, NULL);
    }
}

// Prints the line and ends the job with exit code 124.
static _Noreturn void give_up(MpiComm *mpi, const LsWait *wait)
{
    char missing[160] = "", silent[160] = "nobody can be asked yet", line[1024];
    bool *flags = calloc((size_t)mpi->base.size, sizeof *flags);
    if (flags && wait->mark_pending) {
        char names[128];
        wait->mark_pending(wait->context, flags);
        if (name_ranks(flags, mpi->base.size, names, sizeof names))
            snprintf(missing, sizeof missing, " from %s", names);
    }
    if (flags && mpi->question != MPI_REQUEST_NULL) {
        ask_everybody(mpi, flags);
        let_lower_speak(mpi, flags);
        char names[128];
        if (name_ranks(flags, mpi->base.size, names, sizeof names))
            snprintf(silent, sizeof silent, "no sign of life from %s", names);
        else
            snprintf(silent, sizeof silent, "all other ranks are waiting too");
    }
    snprintf(line, sizeof line,
        "rank %d on %s waited %g s for %s%s: %s; ending the job (collectives.timeout sets the limit)",
        mpi->base.rank, mpi->base.host, mpi->base.timeout, wait->what, missing, silent);
    ls_comm_abort(&mpi->base, LS_HUNG, line);
}

// Makes way after `polls` polls in vain. True when it slept.
static bool pause_after(const MpiComm *mpi, unsigned polls)
{
    unsigned spins = mpi->crowded ? 0 : SPINS, yields = mpi->crowded ? CROWDED_YIELDS : YIELDS;
    if (polls < spins)
        return false;
    if (polls < spins + yields || polls % POLLS_PER_SLEEP != 0) {
        sched_yield();
        return false;
    }
    nanosleep(&(struct timespec){.tv_nsec = SLEEP_NANOSECONDS}, NULL);
    return true;
}

// What broke on the GPU would otherwise show only as somebody's silence.
static LsStatus check_transport(LsComm *comm)
{
    LsTransport *transport = comm->transport;
    return transport && transport->ops->check ? transport->ops->check(transport) : LS_OK;
}

LsStatus ls_mpi_wait(LsComm *comm, const LsWait *wait)
{
    MpiComm *mpi = mpi_comm(comm);
    size_t outstanding, before = SIZE_MAX;
    double deadline = 0, looked = 0;
    for (unsigned polls = 0;; polls++) {
        LS_TRY(wait->poll(wait->context, &outstanding));
        if (outstanding == 0)
            return LS_OK;
        if (outstanding != before) {
            before = outstanding;
            polls = 0;
            looked = ls_clock_seconds();
            deadline = looked + comm->timeout;
        }
        if (pause_after(mpi, polls) || polls % 256 == 255) {
            double now = ls_clock_seconds();
            looks = looks + 1;
            if (now - looked > STOPPED_SECONDS)
                deadline += now - looked;
            looked = now;
            answer_questions(mpi);
            LS_TRY(check_transport(comm));
            if (now > deadline)
                give_up(mpi, wait);
        }
    }
}

typedef struct Requests {
    MpiComm *mpi;
    MPI_Request *list;
    int count;
} Requests;

static LsStatus poll_requests(void *context, size_t *outstanding)
{
    Requests *requests = context;
    int done;
    ls_mpi_check(requests->mpi, MPI_Testall(requests->count, requests->list, &done, MPI_STATUSES_IGNORE),
        "MPI_Testall");
    *outstanding = done ? 0 : 1;
    return LS_OK;
}

LsStatus ls_mpi_wait_requests(MpiComm *mpi, MPI_Request *list, int count, const char *what)
{
    Requests requests = {mpi, list, count};
    return ls_mpi_wait(&mpi->base, &(LsWait){.what = what, .poll = poll_requests, .context = &requests});
}
