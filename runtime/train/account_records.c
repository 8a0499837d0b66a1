#include "account_records.h"

#include <dirent.h>
#include <errno.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

enum { EVENTS_MAX = 64 << 20, READ_TRIES = 3 };

static const char *const cause_names[LS_ACCOUNT_CAUSES] = {"start", "step", "checkpoint", "evaluate"};

void ls_account_path(char path[LS_PATH_MAX], const char *run_dir, int attempt)
{
    snprintf(path, LS_PATH_MAX, "%s/attempts/%06d/account.json", run_dir, attempt);
}

// ---- One record -----------------------------------------------------------------------------------------

bool ls_account_encode(const LsAccountRecord *r, char text[LS_ACCOUNT_BYTES])
{
    json_t *seconds = json_object(), *marks = json_array();
    for (size_t c = 0; c < LS_ACCOUNT_CAUSES; c++)
        json_object_set_new(seconds, cause_names[c], json_real(r->seconds[c]));
    for (size_t m = 0; m < r->marks; m++)
        json_array_append_new(marks, json_pack("[I, f]", (json_int_t)r->mark[m].step, r->mark[m].seconds));
    json_t *json = json_pack("{s:i, s:f, s:f, s:I, s:I, s:o, s:f, s:o}", "attempt", r->attempt, "began",
        r->began, "alive", r->alive, "from", (json_int_t)r->from, "step", (json_int_t)r->step, "seconds",
        seconds, "redo", r->redo, "marks", marks);
    memset(text, ' ', LS_ACCOUNT_BYTES);
    size_t size =
        json ? json_dumpb(json, text, LS_ACCOUNT_BYTES - 1, JSON_REAL_PRECISION(15) | JSON_COMPACT) : 0;
    json_decref(json);
    text[LS_ACCOUNT_BYTES - 1] = '\n';
    return size > 0 && size < LS_ACCOUNT_BYTES;
}

static bool read_number(const json_t *json, const char *key, double *out)
{
    *out = json_number_value(json_object_get(json, key));
    return isfinite(*out) && *out >= 0;
}

static bool read_step(const json_t *json, int64_t *out)
{
    *out = (int64_t)json_integer_value(json);
    return json_is_integer(json) && *out >= 0;
}

// Marks rise, in steps and in seconds.
static bool decode_mark(const json_t *json, LsAccountRecord *r)
{
    const double newest = r->marks > 0 ? r->mark[r->marks - 1].seconds : 0;
    const int64_t before = r->marks > 0 ? r->mark[r->marks - 1].step : r->from;
    double seconds = json_number_value(json_array_get(json, 1));
    int64_t step;
    if (r->marks == LS_ACCOUNT_MARKS || !read_step(json_array_get(json, 0), &step) || step < before ||
        step > r->step || !(seconds >= newest) || !(seconds <= r->seconds[LS_ACCOUNT_STEP]))
        return false;
    r->mark[r->marks].step = step;
    r->mark[r->marks++].seconds = seconds;
    return true;
}

// False for what no attempt writes; the record is then of no use.
static bool decode(const json_t *json, LsAccountRecord *r)
{
    const json_t *seconds = json_object_get(json, "seconds"), *marks = json_object_get(json, "marks");
    bool sound = read_number(json, "began", &r->began) && read_number(json, "alive", &r->alive) &&
                 read_number(json, "redo", &r->redo) && read_step(json_object_get(json, "from"), &r->from) &&
                 read_step(json_object_get(json, "step"), &r->step) && r->from <= r->step;
    for (size_t c = 0; c < LS_ACCOUNT_CAUSES && sound; c++)
        sound = read_number(seconds, cause_names[c], &r->seconds[c]);
    for (size_t m = 0; m < json_array_size(marks) && sound; m++)
        sound = decode_mark(json_array_get(marks, m), r);
    return sound && r->began > 0;
}

void ls_account_mark(LsAccountRecord *r)
{
    double newest = r->marks > 0 ? r->mark[r->marks - 1].seconds : 0;
    if (r->seconds[LS_ACCOUNT_STEP] - newest < r->spacing)
        return;
    if (r->marks == LS_ACCOUNT_MARKS) {
        for (size_t m = 0; m < LS_ACCOUNT_MARKS / 2; m++)
            r->mark[m] = r->mark[2 * m + 1];
        r->marks /= 2;
        r->spacing *= 2;
    }
    r->mark[r->marks].step = r->step;
    r->mark[r->marks++].seconds = r->seconds[LS_ACCOUNT_STEP];
}

double ls_account_until(const LsAccountRecord *r, int64_t step)
{
    int64_t low = r->from, high = r->step;
    double below = 0, above = r->seconds[LS_ACCOUNT_STEP];
    if (step <= low)
        return 0;
    if (step >= high)
        return above;
    for (size_t m = 0; m < r->marks; m++) {
        if (r->mark[m].step <= step && r->mark[m].step >= low) {
            low = r->mark[m].step;
            below = r->mark[m].seconds;
        } else if (r->mark[m].step > step && r->mark[m].step < high) {
            high = r->mark[m].step;
            above = r->mark[m].seconds;
        }
    }
    return below + (above - below) * (double)(step - low) / (double)(high - low);
}

void ls_account_take_back(LsAccountRecord *r, int64_t step)
{
    double kept = ls_account_until(r, step);
    r->redo += r->seconds[LS_ACCOUNT_STEP] - kept;
    r->seconds[LS_ACCOUNT_STEP] = kept;
    while (r->marks > 0 && r->mark[r->marks - 1].step > step)
        r->marks--;
    r->from = r->from < step ? r->from : step;
    r->step = step;
}

// ---- All records of a run -------------------------------------------------------------------------------

// A record that is being written over may be seen half new: it is read again.
static bool read_record(const char *run_dir, LsAccountRecord *r)
{
    char path[LS_PATH_MAX];
    json_t *json = NULL;
    ls_account_path(path, run_dir, r->attempt);
    for (int i = 0; i < READ_TRIES && !json; i++)
        if (ls_json_read(path, 2 * LS_ACCOUNT_BYTES, LS_BAD_DATA, &json) == LS_NO_INPUT)
            break;
    bool sound = json && decode(json, r);
    json_decref(json);
    return sound;
}

static int by_attempt(const void *a, const void *b)
{
    int first = ((const LsAccountRecord *)a)->attempt, second = ((const LsAccountRecord *)b)->attempt;
    return (first > second) - (first < second);
}

static LsStatus list_attempts(const char *run_dir, int below, LsAccountRecord **out, size_t *count)
{
    char path[LS_PATH_MAX];
    LS_TRY(ls_path_join(path, run_dir, "attempts"));
    DIR *directory = opendir(path);
    if (!directory)
        return ls_file_fail("list", path);
    LsAccountRecord *records = NULL;
    size_t used = 0, room = 0;
    struct dirent *entry;
    while ((entry = readdir(directory)) != NULL) {
        size_t length = strlen(entry->d_name);
        if (length < 6 || length > 9 || strspn(entry->d_name, "0123456789") != length)
            continue;
        int attempt = atoi(entry->d_name);
        if (attempt >= below)
            continue;
        if (used == room) {
            room = room ? 2 * room : 16;
            LsAccountRecord *more = realloc(records, room * sizeof *more);
            if (!more) {
                free(records);
                closedir(directory);
                return LS_FAIL(LS_INTERNAL, "out of memory listing %s", path);
            }
            records = more;
        }
        records[used++] = (LsAccountRecord){.attempt = attempt};
    }
    closedir(directory);
    if (used > 0)
        qsort(records, used, sizeof *records, by_attempt);
    *out = records;
    *count = used;
    return LS_OK;
}

LsStatus ls_account_read_all(const char *run_dir, int attempt, LsAccountRecord **out, size_t *count)
{
    LsAccountRecord *records = NULL;
    size_t listed = 0, kept = 0;
    LS_TRY(list_attempts(run_dir, attempt, &records, &listed));
    for (size_t i = 0; i < listed; i++)
        if (read_record(run_dir, &records[i]))
            records[kept++] = records[i];
    *out = records;
    *count = kept;
    return LS_OK;
}

// ---- What they add up to --------------------------------------------------------------------------------

// From the record's last word to `next`.
static double gap_after(const LsAccountRecord *r, double next)
{
    double gap = next - (r->began + r->alive);
    return gap > 0 ? gap : 0; // a wall clock may be set back
}

// "2026-01-31T12:34:56.789Z"; 0: it is none.
static double seconds_of(const char *text)
{
    struct tm parts = {0};
    const char *rest = text ? strptime(text, "%Y-%m-%dT%H:%M:%S", &parts) : NULL;
    return rest ? (double)timegm(&parts) + strtod(*rest == '.' ? rest : "0", NULL) : 0;
}

static bool is_hang(const json_t *event)
{
    const char *kind = json_string_value(json_object_get(event, "event"));
    const char *reason = json_string_value(json_object_get(event, "reason"));
    return kind && strcmp(kind, "restart") == 0 && reason &&
           (strcmp(reason, "a rank hung") == 0 || strcmp(reason, "a rank stopped") == 0);
}

static double hang_of(const json_t *event, const LsAccountRecord *records, size_t count, double next)
{
    int attempt = (int)json_integer_value(json_object_get(event, "attempt"));
    double noted = seconds_of(json_string_value(json_object_get(event, "time")));
    for (size_t i = 0; i < count; i++) {
        if (records[i].attempt != attempt)
            continue;
        double gap = gap_after(&records[i], i + 1 < count ? records[i + 1].began : next);
        double hung = noted - (records[i].began + records[i].alive);
        return hung <= 0 ? 0 : hung < gap ? hung : gap;
    }
    return 0;
}

double ls_account_hangs(const char *run_dir, const LsAccountRecord *records, size_t count, double next)
{
    char path[LS_PATH_MAX], *text = NULL;
    size_t size = 0;
    double total = 0;
    if (count == 0 || ls_path_join(path, run_dir, "events.jsonl") != LS_OK ||
        ls_file_read(path, EVENTS_MAX, &text, &size) != LS_OK)
        return 0;
    char *rest = text;
    for (char *line; (line = strsep(&rest, "\n")) != NULL;) {
        if (!strstr(line, "\"restart\""))
            continue;
        json_t *event = json_loads(line, 0, NULL);
        if (is_hang(event))
            total += hang_of(event, records, count, next);
        json_decref(event);
    }
    free(text);
    return total;
}

static void add(const LsAccountRecord *r, int64_t *limit, LsGoodput *out)
{
    double counted = ls_account_until(r, *limit);
    out->attempts++;
    out->wall += r->alive;
    out->steps += counted;
    out->redo += r->redo + r->seconds[LS_ACCOUNT_STEP] - counted;
    out->start += r->seconds[LS_ACCOUNT_START];
    out->checkpoint += r->seconds[LS_ACCOUNT_CHECKPOINT];
    out->evaluate += r->seconds[LS_ACCOUNT_EVALUATE];
    *limit = *limit < r->from ? *limit : r->from;
}

// From the newest attempt to the oldest: what began at a step makes everything past it in earlier ones
// redone.
void ls_account_sum(
    const LsAccountRecord *records, size_t count, const LsAccountRecord *newest, double hang, LsGoodput *out)
{
    int64_t limit = INT64_MAX;
    double next = newest ? newest->began : 0;
    *out = (LsGoodput){0};
    if (newest)
        add(newest, &limit, out);
    for (size_t i = count; i-- > 0;) {
        add(&records[i], &limit, out);
        if (next > 0)
            out->restart += gap_after(&records[i], next);
        next = records[i].began;
    }
    out->wall += out->restart;
    out->hang = hang < out->restart ? hang : out->restart;
    out->restart -= out->hang;
    out->ratio = out->wall > 0 ? out->steps / out->wall : 0;
}

LsStatus ls_goodput_read(const char *run_dir, LsGoodput *out)
{
    LsAccountRecord *records = NULL;
    size_t count = 0;
    LS_TRY(ls_account_read_all(run_dir, INT32_MAX, &records, &count));
    if (count == 0) {
        free(records);
        return LS_FAIL(LS_NO_INPUT, "%s: no attempt has left an account of its time", run_dir);
    }
    const LsAccountRecord *newest = &records[count - 1];
    double hang = ls_account_hangs(run_dir, records, count - 1, newest->began);
    ls_account_sum(records, count - 1, newest, hang, out);
    free(records);
    return LS_OK;
}

json_t *ls_goodput_json(const LsGoodput *g)
{
    json_t *lost = json_pack("{s:o, s:o, s:o, s:o, s:o, s:o}", "start", ls_json_number(g->start),
        "checkpoint", ls_json_number(g->checkpoint), "redo", ls_json_number(g->redo), "restart",
        ls_json_number(g->restart), "hang", ls_json_number(g->hang), "evaluate", ls_json_number(g->evaluate));
    return json_pack("{s:o, s:o, s:o, s:i, s:o}", "ratio", ls_json_number(g->ratio), "wall_seconds",
        ls_json_number(g->wall), "step_seconds", ls_json_number(g->steps), "attempts", g->attempts, "lost",
        lost);
}
