// What the benchmarks of a training configuration are told in the same way.
#include <string.h>

#include "bench.h"

static LsStatus read_flags(LsInvocation *invocation, const LsFlag *own, size_t count, LsBenchInput *input)
{
    const LsFlag first[] = {
        {"config", 'c', LS_FLAG_TEXT, &input->file, "FILE", "Configuration file.", 0, NULL},
        {"set", 0, LS_FLAG_LIST, &input->settings, "A.B=V", "Sets one option; may be repeated.", 0, NULL},
    };
    const LsFlag last = {
        "json", 0, LS_FLAG_TEXT, &input->json, "FILE", "Writes the results as JSON.", 0, NULL};
    enum { FIRST = sizeof first / sizeof *first };
    LsFlag all[LS_FLAGS_MAX];
    if (count > LS_FLAGS_MAX - FIRST - 1)
        return LS_FAIL(LS_INTERNAL, "%s has too many options", invocation->command->name);
    memcpy(all, first, sizeof first);
    memcpy(all + FIRST, own, count * sizeof *own);
    all[FIRST + count] = last;
    return ls_arguments_read(invocation, all, FIRST + count + 1, 0, 0);
}

LsStatus ls_bench_read(
    LsInvocation *invocation, const LsFlag *own, size_t count, LsBenchInput *input, LsConfig *config)
{
    LS_TRY(read_flags(invocation, own, count, input));
    if (invocation->helped)
        return LS_OK;
    if (!input->file)
        return LS_FAIL(LS_USAGE, "-c FILE is missing; see lockstep %s --help", invocation->command->name);
    LS_TRY(ls_launch_configure(input->file, &input->settings, config));
    return ls_config_validate(config);
}
