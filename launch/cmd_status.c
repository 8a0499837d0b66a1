// lockstep status: how a run is doing, from its directory alone.
#include "command.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "base/json.h"
#include "train/account.h"
#include "train/run_dir.h"

enum { STATUS_MAX = 1 << 20, EVENTS_SHOWN = 8, EVENTS_TAIL = 65536, TEXT = 512 };

typedef struct RunStatus {
    const char *path;
    json_t *status; // status.json; owned
    json_t *events; // the newest ones, oldest first; owned
    bool held;      // an attempt lives
    char by[TEXT];
    bool accounted;
    LsGoodput goodput;
    int64_t total_steps; // 0: not known
    double total_epochs; // 0: the run does not end by epochs
} RunStatus;

// The end of events.jsonl; lines that are damaged or not whole are left out.
static json_t *newest_events(const char *run)
{
    char path[LS_PATH_MAX];
    json_t *events = json_array();
    FILE *file = ls_path_join(path, run, "events.jsonl") == LS_OK ? fopen(path, "re") : NULL;
    if (!file)
        return events;
    bool part = fseek(file, -EVENTS_TAIL, SEEK_END) == 0;
    if (!part)
        rewind(file);
    char *line = NULL;
    size_t room = 0;
    for (ssize_t size; (size = getline(&line, &room, file)) > 0; part = false) {
        json_t *event = part ? NULL : json_loadb(line, (size_t)size, 0, NULL);
        if (json_is_object(event)) {
            json_array_append(events, event);
            if (json_array_size(events) > EVENTS_SHOWN)
                json_array_remove(events, 0);
        }
        json_decref(event);
    }
    free(line);
    fclose(file);
    return events;
}

// How long the run is to be. Where epochs bound it, the number of steps depends on the data.
static void read_length(RunStatus *r)
{
    char path[LS_PATH_MAX];
    LsConfig config;
    ls_config_defaults(&config);
    if (ls_path_join(path, r->path, "config.yaml") != LS_OK || ls_config_read_yaml(&config, path) != LS_OK)
        return;
    r->total_epochs = config.train.max_epochs;
    r->total_steps = config.train.max_epochs > 0 ? 0 : config.train.max_steps;
}

// A directory without status: is it no run, or one that has not come far enough?
static LsStatus fail_without_status(const RunStatus *r)
{
    char path[LS_PATH_MAX], held[LS_PATH_MAX + TEXT] = "";
    LS_TRY(ls_path_join(path, r->path, "attempts"));
    if (!ls_directory_exists(path))
        return LS_FAIL(LS_NO_INPUT, "%s is no run: it has no status.json", r->path);
    if (r->held)
        snprintf(held, sizeof held, "; %s is setting up", r->by[0] ? r->by : "an attempt");
    return LS_FAIL(
        LS_NO_INPUT, "%s has no status yet: no attempt has come to its first step%s", r->path, held);
}

static LsStatus read_status(RunStatus *r)
{
    char path[LS_PATH_MAX];
    LS_TRY(ls_path_join(path, r->path, "status.json"));
    LsStatus status = ls_json_read(path, STATUS_MAX, LS_BAD_DATA, &r->status);
    if (status == LS_NO_INPUT)
        return fail_without_status(r);
    LS_TRY(status);
    if (!json_is_string(json_object_get(r->status, "state")))
        return LS_FAIL(LS_BAD_DATA, "%s has no state; it was not written by lockstep", path);
    return LS_OK;
}

static LsStatus look(const char *run, RunStatus *out)
{
    *out = (RunStatus){.path = run};
    if (!ls_directory_exists(run))
        return LS_FAIL(LS_NO_INPUT, "%s: there is no such run", run);
    out->held = ls_run_dir_held(run, out->by, sizeof out->by);
    LS_TRY(read_status(out));
    out->events = newest_events(run);
    out->accounted = ls_goodput_read(run, &out->goodput) == LS_OK;
    read_length(out);
    return LS_OK;
}

static void forget(RunStatus *r)
{
    json_decref(r->events);
    json_decref(r->status);
}

// ---- For people -----------------------------------------------------------------------------------------

// Text from a file, without what would move the terminal's cursor.
static const char *clean(const json_t *value, char text[TEXT])
{
    const char *from = json_string_value(value);
    size_t i = 0;
    for (; from && from[i] && i + 1 < TEXT; i++)
        text[i] = (unsigned char)from[i] < ' ' || from[i] == 127 ? '?' : from[i];
    text[i] = '\0';
    return text;
}

static void print_state(const RunStatus *r)
{
    char state[TEXT], message[TEXT];
    clean(json_object_get(r->status, "state"), state);
    clean(json_object_get(r->status, "message"), message);
    bool running = strcmp(state, "running") == 0;
    printf("state       ");
    if (running && !r->held)
        printf("running, as its status says, but nobody holds its lock: it was killed; start it again, if "
               "lockstep launch does not");
    else if (!running && r->held)
        printf("%s, and an attempt is setting up", state);
    else
        printf("%s", state);
    if (r->held && r->by[0])
        printf(" (%s)", r->by);
    printf("%s%s\n", message[0] ? ": " : "", message);
}

static void print_progress(const RunStatus *r)
{
    char text[TEXT];
    long long step = json_integer_value(json_object_get(r->status, "step"));
    printf("step        %lld", step);
    if (r->total_steps > 0)
        printf(" of %lld", (long long)r->total_steps);
    const json_t *epoch = json_object_get(r->status, "epoch"),
                 *loss = json_object_get(r->status, "train_loss"),
                 *rate = json_object_get(r->status, "samples_per_second");
    if (json_is_number(epoch))
        printf(", epoch %.2f", json_number_value(epoch));
    if (r->total_epochs > 0)
        printf(" of %g", r->total_epochs);
    if (json_is_number(loss))
        printf(", loss %.4g", json_number_value(loss));
    if (json_is_number(rate))
        printf(", %.4g samples/s", json_number_value(rate));
    printf(" (%s)\n", clean(json_object_get(r->status, "updated_at"), text));
    long long ranks = json_integer_value(json_object_get(r->status, "world_size"));
    printf("attempt     %lld, on %lld rank%s\n",
        (long long)json_integer_value(json_object_get(r->status, "attempt")), ranks, ranks == 1 ? "" : "s");
    clean(json_object_get(r->status, "checkpoint"), text);
    printf("checkpoint  %s\n", text[0] ? text : "none");
}

static void print_goodput(const RunStatus *r)
{
    const LsGoodput *g = &r->goodput;
    const struct {
        const char *cause;
        double seconds;
    } lost[] = {{"start", g->start}, {"checkpoints", g->checkpoint}, {"evaluation", g->evaluate},
        {"steps made again", g->redo}, {"restarts", g->restart}, {"hangs", g->hang}};
    if (!r->accounted) {
        printf("goodput     not known: no attempt has left an account\n");
        return;
    }
    printf(
        "goodput     %.1f %%: %.1f s of %.1f s in steps that counted\n", 100 * g->ratio, g->steps, g->wall);
    for (size_t i = 0; i < sizeof lost / sizeof *lost; i++)
        printf("  lost to   %-18s %10.1f s\n", lost[i].cause, lost[i].seconds);
}

static void print_events(const RunStatus *r)
{
    size_t i;
    json_t *event;
    printf("newest events\n");
    json_array_foreach(r->events, i, event)
    {
        char time[TEXT], kind[TEXT], reason[TEXT];
        clean(json_object_get(event, "reason"), reason);
        printf("  %s  step %-8lld %s%s%s\n", clean(json_object_get(event, "time"), time),
            (long long)json_integer_value(json_object_get(event, "step")),
            clean(json_object_get(event, "event"), kind), reason[0] ? ": " : "", reason);
    }
}

static void print_text(const RunStatus *r)
{
    print_state(r);
    print_progress(r);
    print_goodput(r);
    print_events(r);
}

// ---- For programs ---------------------------------------------------------------------------------------

static LsStatus print_json(const RunStatus *r)
{
    json_t *all = json_deep_copy(r->status);
    json_object_set_new(all, "alive", json_boolean(r->held));
    json_object_set_new(all, "total_steps", r->total_steps > 0 ? json_integer(r->total_steps) : json_null());
    json_object_set_new(all, "total_epochs", r->total_epochs > 0 ? json_real(r->total_epochs) : json_null());
    if (r->accounted)
        json_object_set_new(all, "goodput", ls_goodput_json(&r->goodput));
    json_object_set(all, "events", r->events);
    char *line = ls_json_line(all);
    json_decref(all);
    if (!line)
        return LS_FAIL(LS_INTERNAL, "out of memory printing the status of %s", r->path);
    puts(line);
    free(line);
    return LS_OK;
}

static LsStatus run(LsInvocation *invocation)
{
    bool json = false;
    const LsFlag flags[] = {{"json", 0, LS_FLAG_SWITCH, &json, NULL, "Prints one line of JSON.", 0, NULL}};
    LS_TRY(ls_arguments_read(invocation, LS_FLAG_TABLE(flags), 1, 1));
    if (invocation->helped)
        return LS_OK;
    RunStatus r;
    LsStatus status = look(invocation->inputs[0], &r);
    if (status == LS_OK && json)
        status = print_json(&r);
    else if (status == LS_OK)
        print_text(&r);
    forget(&r);
    return status;
}

const LsCommand ls_command_status = {
    .name = "status",
    .arguments = "RUN [--json]",
    .summary = "shows how a run is doing, alive or not, and what its time went to",
    .about =
        "Shows state, progress, newest checkpoint and newest events of a run directory, and its goodput:\n"
        "the share of the time since its first attempt began that was spent in steps that counted, with "
        "what\n"
        "was lost by cause. Says when a run that calls itself running has no living process. Disturbs "
        "nothing.",
    .run = run,
};
