// lockstep bench: its subcommands; what they do is in bench/.
#include "bench/bench.h"

static LsStatus run_all_reduce(LsInvocation *invocation)
{
    return ls_bench_collective(invocation, LS_LIBRARY_ALL_REDUCE);
}

static LsStatus run_reduce_scatter(LsInvocation *invocation)
{
    return ls_bench_collective(invocation, LS_LIBRARY_REDUCE_SCATTER);
}

static LsStatus run_all_gather(LsInvocation *invocation)
{
    return ls_bench_collective(invocation, LS_LIBRARY_ALL_GATHER);
}

static const char collective_arguments[] = "[-b SIZE] [-e SIZE] [-f N] [-n N] [options]";

#define COLLECTIVE_ABOUT                                                                                     \
    "Sizes from -b to -e; at each, the contenders take turns: `exact` along the lane plan, in memory of\n"   \
    "the communicator and again behind a copy from ordinary memory; `fast`, where the library adds up;\n"    \
    "and the library's own call. Every result is checked: exact ones must have the bits of the lane\n"       \
    "tree. Exit code 1 when one is wrong. Runs under mpirun; see docs/benchmarking.md."

const LsCommand ls_command_bench_all_reduce = {
    .name = "bench allreduce",
    .arguments = collective_arguments,
    .summary = "measures sums over all ranks: gradients reduced to their owners, then gathered",
    .about = COLLECTIVE_ABOUT,
    .several_ranks = true,
    .run = run_all_reduce,
};

const LsCommand ls_command_bench_reduce_scatter = {
    .name = "bench reduce_scatter",
    .arguments = collective_arguments,
    .summary = "measures the reduction of gradients to their owners",
    .about = COLLECTIVE_ABOUT,
    .several_ranks = true,
    .run = run_reduce_scatter,
};

const LsCommand ls_command_bench_all_gather = {
    .name = "bench all_gather",
    .arguments = collective_arguments,
    .summary = "measures the gathering of parameters from their owners",
    .about = "Sizes from -b to -e; at each, ours and the library's own call take turns. Every result is "
             "checked;\nexit code 1 when one is wrong. Runs under mpirun; see docs/benchmarking.md.",
    .several_ranks = true,
    .run = run_all_gather,
};

const LsCommand ls_command_bench_step = {
    .name = "bench step",
    .arguments = "-c FILE [-n N] [options]",
    .summary = "measures a training step: time by phase, throughput, MFU, part of the roofline",
    .about =
        "Trains with the configuration, without evaluation or checkpoints, in a directory that is removed\n"
        "afterwards. A window is one step, on GPUs ten. Runs alone or under mpirun; see\n"
        "docs/benchmarking.md.",
    .several_ranks = true,
    .run = ls_bench_step,
};

const LsCommand ls_command_bench_scaling = {
    .name = "bench scaling",
    .arguments = "-c FILE [--ranks LIST] [--kind strong|weak] [options]",
    .summary = "measures training on several numbers of ranks: throughput, efficiency, exposed communication",
    .about =
        "Starts `bench step` through mpirun for each number of ranks, round after round. Efficiency is the\n"
        "throughput by that of the first number of ranks in the same round, by the ratio of the ranks.\n"
        "With --predict it measures nothing: lockstep bench scaling --predict --help. See "
        "docs/benchmarking.md.",
    .run = ls_bench_scaling,
};

const LsCommand ls_command_bench_data = {
    .name = "bench data",
    .arguments = "-c FILE [-n N] [options]",
    .summary = "measures the loader: samples and bytes a second when nothing is computed",
    .about = "Brings the microbatches of a run with this configuration, each rank its own, and computes\n"
             "nothing. Runs alone or under mpirun; see docs/benchmarking.md.",
    .several_ranks = true,
    .run = ls_bench_data,
};

const LsCommand ls_command_bench_checkpoint = {
    .name = "bench checkpoint",
    .arguments = "-c FILE [--saves N] [--every K] [options]",
    .summary = "measures checkpoints: how fast they are written and verified, what they cost training",
    .about = "Trains with the configuration and saves every K steps, into a directory that is removed "
             "afterwards;\n"
             "then verifies the newest checkpoint. Runs alone or under mpirun; see docs/benchmarking.md.",
    .several_ranks = true,
    .run = ls_bench_checkpoint,
};
