// A rank under `lockstep launch`: what it does differently from one that nobody watches.
#include "command.h"

#include <errno.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <unistd.h>

#include "supervisor/scratch.h"

// The first of the variables that is set to a number, by Open MPI, PMIx, Slurm or MPICH.
static uint32_t number(const char *const *names, uint32_t otherwise)
{
    for (; *names; names++) {
        const char *text = getenv(*names);
        if (text && *text)
            return (uint32_t)strtoul(text, NULL, 10);
    }
    return otherwise;
}

static const char *const rank_names[] = {
    "OMPI_COMM_WORLD_RANK", "PMIX_RANK", "SLURM_PROCID", "PMI_RANK", NULL};
static const char *const ranks_names[] = {
    "OMPI_COMM_WORLD_SIZE", "SLURM_STEP_NUM_TASKS", "SLURM_NTASKS", "PMI_SIZE", NULL};

LsStatus ls_supervised_enter(LsInvocation *invocation)
{
    const char *supervisor = getenv("LOCKSTEP_SUPERVISOR"), *secret = getenv("LOCKSTEP_SECRET");
    const char *incarnation = getenv("LOCKSTEP_INCARNATION"), *scratch = getenv("LOCKSTEP_SCRATCH");
    if (!supervisor || !secret || !incarnation)
        return LS_OK;
    pid_t parent = getppid();
    if (prctl(PR_SET_PDEATHSIG, SIGKILL) != 0)
        return LS_FAIL(LS_INTERNAL, "cannot tie this rank to its launcher: %s", strerror(errno));
    if (getppid() != parent) // it died before the kernel knew
        return LS_FAIL(LS_INTERNAL, "the launcher of this rank has gone");
    if (scratch)
        ls_scratch_join(scratch);
    return ls_pulse_open(
        &(LsPulseOptions){
            .supervisor = supervisor,
            .secret = secret,
            .incarnation = (uint32_t)strtoul(incarnation, NULL, 10),
            .rank = number(rank_names, 0),
            .ranks = number(ranks_names, 1),
            .polls = ls_comm_polls(),
        },
        &invocation->pulse);
}
