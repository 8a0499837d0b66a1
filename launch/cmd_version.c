// lockstep version
#include "base/json.h"
#include "command.h"

#include <stdlib.h>

static LsStatus run(LsInvocation *invocation)
{
    bool json = false;
    const LsFlag flags[] = {
        {"json", 0, LS_FLAG_SWITCH, &json, NULL, "Prints a JSON object.", 0, NULL},
    };
    LS_TRY(ls_arguments_read(invocation, LS_FLAG_TABLE(flags), 0, 0));
    if (invocation->helped)
        return LS_OK;
    if (!json) {
        printf("lockstep %s\n", LOCKSTEP_VERSION);
        return LS_OK;
    }
    json_t *object =
        json_pack("{s:s, s:s, s:b}", "version", LOCKSTEP_VERSION, "compiler", __VERSION__, "cuda", 0);
    char *line = object ? ls_json_line(object) : NULL;
    json_decref(object);
    if (!line)
        return LS_FAIL(LS_INTERNAL, "no memory for the version");
    puts(line);
    free(line);
    return LS_OK;
}

const LsCommand ls_command_version = {
    .name = "version",
    .arguments = "[--json]",
    .summary = "prints the version",
    .about = "Prints the version of the program.",
    .several_ranks = false,
    .run = run,
};
