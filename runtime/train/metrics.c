#include "train/metrics.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "base/clock.h"
#include "metrics_rewind.h"

enum { LINE_MAX_TEXT = 512, TAIL = 65536 };

// status.json is for people and supervisors that look every few seconds; writing it syncs the disk.
static const double STATUS_SECONDS = 5;

// An attempt that is superseded, since it was frozen or its storage grants locks to everybody, must not write
// into what the newer one writes: it looks at who owns the run as often as this, and the newer one waits for
// as long before it writes.
static const double FENCE_SECONDS = 0.1;

struct LsMetrics {
    LsMetricsOptions options;
    LsRunDir run;  // which attempt this is
    double opened; // clock
    double fenced; // clock of the newest look at who owns the run
    char metrics_path[LS_PATH_MAX], ahead_path[LS_PATH_MAX], events_path[LS_PATH_MAX],
        status_path[LS_PATH_MAX];
    FILE *metrics, *events; // owned
    json_t *status;         // owned; what status.json says
    double status_written;  // clock
    bool in_place;          // the progress line is rewritten
    bool line_open;         // the terminal's cursor is behind a progress line
};

static LsStatus fail_write(const char *path)
{
    return LS_FAIL(
        LS_IO, "cannot write %s: %s; free space or choose another run directory", path, strerror(errno));
}

// The size of the file up to and including its last end of line.
static LsStatus whole_lines(int fd, const char *path, off_t *out)
{
    static const size_t step = TAIL;
    off_t end = lseek(fd, 0, SEEK_END);
    if (end < 0)
        return LS_FAIL(LS_IO, "cannot examine %s: %s", path, strerror(errno));
    char *part = malloc(step);
    if (part == NULL)
        return LS_FAIL(LS_INTERNAL, "out of memory reading %s", path);
    LsStatus status = LS_OK;
    while (end > 0) {
        size_t size = end < (off_t)step ? (size_t)end : step;
        status = ls_file_read_at(fd, path, part, size, (uint64_t)end - size);
        if (status != LS_OK)
            break;
        const char *newline = memrchr(part, '\n', size);
        end -= (off_t)size;
        if (newline != NULL) {
            end += newline - part + 1;
            break;
        }
    }
    free(part);
    if (status == LS_OK)
        *out = end;
    return status;
}

// Opens a file of lines for appending, without the line that a dead attempt may have left unfinished.
static LsStatus open_lines(const char *path, FILE **out)
{
    int fd = open(path, O_RDWR | O_CREAT | O_APPEND | O_CLOEXEC, 0666);
    if (fd < 0)
        return LS_FAIL(LS_IO, "cannot open %s: %s", path, strerror(errno));
    off_t end = 0;
    LsStatus status = whole_lines(fd, path, &end);
    if (status == LS_OK && end < lseek(fd, 0, SEEK_END) && ftruncate(fd, end) != 0)
        status = fail_write(path);
    FILE *file = status == LS_OK ? fdopen(fd, "a") : NULL;
    if (status == LS_OK && file == NULL)
        status = LS_FAIL(LS_IO, "cannot open %s: %s", path, strerror(errno));
    if (status != LS_OK) {
        close(fd);
        return status;
    }
    *out = file;
    return LS_OK;
}

// Every key of the contract in its order, so that readers need not ask whether one is there.
static json_t *empty_status(int attempt)
{
    static const char *const keys[] = {"state", "step", "epoch", "world_size", "attempt", "train_loss",
        "eval", "samples_per_second", "tokens_per_second", "checkpoint", "message", "goodput", "updated_at"};
    json_t *status = json_object();
    for (size_t i = 0; i < sizeof keys / sizeof *keys; i++)
        json_object_set_new(status, keys[i], json_null());
    json_object_set_new(status, "attempt", json_integer(attempt));
    return status;
}

// mpirun gives its ranks a terminal of their own whatever its own output is; what counts is where the parent
// process, mpirun or its daemon, writes to.
static bool on_terminal(FILE *out)
{
    if (isatty(fileno(out)) != 1)
        return false;
    if (!getenv("OMPI_COMM_WORLD_SIZE"))
        return true;
    char link[64], target[64] = "";
    snprintf(link, sizeof link, "/proc/%d/fd/1", (int)getppid());
    if (readlink(link, target, sizeof target - 1) < 0)
        return false;
    return strncmp(target, "/dev/pts/", 9) == 0 || strncmp(target, "/dev/tty", 8) == 0;
}

LsStatus ls_metrics_open(const LsRunDir *run, const LsMetricsOptions *options, LsMetrics **out)
{
    LsMetrics *metrics = calloc(1, sizeof *metrics);
    if (metrics == NULL)
        return LS_FAIL(LS_INTERNAL, "out of memory opening the metrics of %s", run->path);
    if (options != NULL)
        metrics->options = *options;
    if (metrics->options.progress == NULL)
        metrics->options.progress = stdout;
    metrics->run = *run;
    metrics->opened = metrics->fenced = ls_clock_seconds();
    metrics->in_place = on_terminal(metrics->options.progress);
    metrics->status = empty_status(run->attempt);
    LsStatus status = ls_path_join(metrics->metrics_path, run->path, "metrics.jsonl");
    if (status == LS_OK)
        status = ls_path_join(metrics->ahead_path, run->path, "metrics-ahead.jsonl");
    if (status == LS_OK)
        status = ls_path_join(metrics->events_path, run->path, "events.jsonl");
    if (status == LS_OK)
        status = ls_path_join(metrics->status_path, run->path, "status.json");
    if (status == LS_OK)
        status = open_lines(metrics->metrics_path, &metrics->metrics);
    if (status == LS_OK)
        status = open_lines(metrics->events_path, &metrics->events);
    if (status != LS_OK) {
        ls_metrics_close(metrics);
        return status;
    }
    *out = metrics;
    return LS_OK;
}

// What is printed next begins on a line of its own.
static void end_progress_line(LsMetrics *metrics)
{
    if (metrics->line_open)
        fputc('\n', metrics->options.progress);
    fflush(metrics->options.progress);
    metrics->line_open = false;
}

void ls_metrics_close(LsMetrics *metrics)
{
    if (metrics == NULL)
        return;
    end_progress_line(metrics);
    if (metrics->events != NULL)
        fclose(metrics->events);
    if (metrics->metrics != NULL)
        fclose(metrics->metrics);
    json_decref(metrics->status);
    free(metrics);
}

// What an attempt before this one writes after its last look at who owns the run, it has written then.
static void await_superseded(const LsMetrics *metrics)
{
    double left = metrics->opened + 1.5 * FENCE_SECONDS - ls_clock_seconds();
    if (metrics->run.attempt > 1 && left > 0)
        nanosleep(&(struct timespec){.tv_nsec = (long)(left * 1e9)}, NULL);
}

LsStatus ls_metrics_rewind(LsMetrics *metrics, int64_t step, int64_t newest)
{
    if (metrics == NULL)
        return LS_OK;
    await_superseded(metrics);
    LS_TRY(ls_run_dir_require_current(&metrics->run));
    LS_TRY(ls_metrics_rewind_file(metrics->metrics_path, metrics->ahead_path, step, newest));
    FILE *file = NULL;
    LS_TRY(open_lines(metrics->metrics_path, &file));
    fclose(metrics->metrics);
    metrics->metrics = file;
    return LS_OK;
}

// LS_IO when a newer attempt owns the run.
static LsStatus fence(LsMetrics *metrics)
{
    double now = ls_clock_seconds();
    if (now - metrics->fenced <= FENCE_SECONDS)
        return LS_OK;
    LS_TRY(ls_run_dir_require_current(&metrics->run));
    metrics->fenced = now;
    return LS_OK;
}

// Writes the object as one line and takes it.
static LsStatus write_line(FILE *file, const char *path, json_t *object)
{
    char *line = ls_json_line(object);
    json_decref(object);
    if (line == NULL)
        return LS_FAIL(LS_INTERNAL, "out of memory writing %s", path);
    errno = 0;
    bool written = fputs(line, file) >= 0 && fputc('\n', file) != EOF && fflush(file) == 0;
    free(line);
    return written ? LS_OK : fail_write(path);
}

static json_t *tokens_per_second(const LsMetrics *metrics, const LsStepRecord *record)
{
    size_t tokens = metrics->options.tokens_per_sample;
    return tokens ? ls_json_number(record->samples_per_second * (double)tokens) : json_null();
}

static json_t *record_json(const LsMetrics *metrics, const LsStepRecord *record)
{
    json_t *line = json_object();
    json_object_set_new(line, "step", json_integer(record->step));
    json_object_set_new(line, "loss", ls_json_number((double)record->loss));
    json_object_set_new(line, "lr", ls_json_number((double)record->lr));
    json_object_set_new(line, "grad_norm", ls_json_number((double)record->gradient_norm));
    json_object_set_new(line, "step_seconds", ls_json_number(record->step_seconds));
    json_object_set_new(line, "data_seconds", ls_json_number(record->data_seconds));
    json_object_set_new(line, "comm_seconds", ls_json_number(record->comm_seconds));
    json_object_set_new(line, "samples_per_second", ls_json_number(record->samples_per_second));
    json_object_set_new(line, "tokens_per_second", tokens_per_second(metrics, record));
    json_object_set_new(line, "loss_scale", ls_json_number((double)record->loss_scale));
    if (record->mfu >= 0)
        json_object_set_new(line, "mfu", ls_json_number(record->mfu));
    if (record->slowest_ratio > 0)
        json_object_set_new(line, "slowest",
            json_pack("{s:i, s:f}", "rank", record->slowest, "ratio", record->slowest_ratio));
    json_object_set_new(line, "attempt", json_integer(metrics->run.attempt));
    return line;
}

static void show_progress(LsMetrics *metrics, const LsStepRecord *record, const LsProgress *progress)
{
    if (metrics->options.quiet)
        return;
    char line[LINE_MAX_TEXT];
    ls_progress_line(record, progress, metrics->options.tokens_per_sample, line, sizeof line);
    // Carriage return, the line, and erase what a longer line before it left.
    fprintf(metrics->options.progress, metrics->in_place ? "\r%s\033[K" : "%s\n", line);
    fflush(metrics->options.progress);
    metrics->line_open = metrics->in_place;
}

static LsStatus write_status(LsMetrics *metrics, const json_t *fields)
{
    LS_TRY(ls_run_dir_require_current(&metrics->run)); // also at the end of one that was superseded
    char now[32];
    ls_clock_utc(now, sizeof now);
    if (fields != NULL)
        json_object_update(metrics->status, (json_t *)fields); // jansson's argument is not const, but is not
                                                               // changed
    json_object_set_new(metrics->status, "updated_at", json_string(now));
    if (metrics->options.account) {
        LsGoodput goodput;
        ls_account_goodput(metrics->options.account, &goodput);
        json_object_set_new(metrics->status, "goodput", ls_goodput_json(&goodput));
    }
    metrics->status_written = ls_clock_seconds();
    return ls_json_write(metrics->status_path, metrics->status);
}

static LsStatus write_step(LsMetrics *metrics, const LsStepRecord *record, const LsProgress *progress)
{
    LS_TRY(fence(metrics));
    LS_TRY(write_line(metrics->metrics, metrics->metrics_path, record_json(metrics, record)));
    json_t *status = metrics->status;
    json_object_set_new(status, "step", json_integer(record->step));
    json_object_set_new(status, "epoch", ls_json_number(progress->epoch));
    json_object_set_new(status, "train_loss", ls_json_number((double)record->loss));
    json_object_set_new(status, "samples_per_second", ls_json_number(record->samples_per_second));
    json_object_set_new(status, "tokens_per_second", tokens_per_second(metrics, record));
    show_progress(metrics, record, progress);
    if (ls_clock_seconds() - metrics->status_written < STATUS_SECONDS)
        return LS_OK;
    return write_status(metrics, NULL);
}

// {"time", "event", "attempt", "step"} and what is in `details`, which is taken.
static json_t *event_json(int attempt, const char *kind, int64_t step, json_t *details)
{
    char now[32];
    ls_clock_utc(now, sizeof now);
    json_t *event = json_object();
    json_object_set_new(event, "time", json_string(now));
    json_object_set_new(event, "event", json_string(kind));
    json_object_set_new(event, "attempt", json_integer(attempt));
    json_object_set_new(event, "step", json_integer(step));
    if (details != NULL)
        json_object_update_missing(event, details);
    json_decref(details);
    return event;
}

static LsStatus write_event(LsMetrics *metrics, const char *kind, int64_t step, json_t *details)
{
    LsStatus status = fence(metrics);
    if (status != LS_OK) {
        json_decref(details);
        return status;
    }
    end_progress_line(metrics);
    return write_line(
        metrics->events, metrics->events_path, event_json(metrics->run.attempt, kind, step, details));
}

LsStatus ls_metrics_sync(LsMetrics *metrics)
{
    if (metrics == NULL)
        return LS_OK;
    if (fflush(metrics->metrics) != 0 || fsync(fileno(metrics->metrics)) != 0)
        return fail_write(metrics->metrics_path);
    if (fflush(metrics->events) != 0 || fsync(fileno(metrics->events)) != 0)
        return fail_write(metrics->events_path);
    return LS_OK;
}

// Storage, and whoever reads standard output, take the time they take.

LsStatus ls_metrics_step(LsMetrics *metrics, const LsStepRecord *record, const LsProgress *progress)
{
    if (metrics == NULL)
        return LS_OK;
    LsPhase before = ls_pulse_at(metrics->options.pulse, LS_PHASE_LOG);
    LsStatus status = write_step(metrics, record, progress);
    ls_pulse_at(metrics->options.pulse, before);
    return status;
}

LsStatus ls_metrics_event(LsMetrics *metrics, const char *kind, int64_t step, json_t *details)
{
    if (metrics == NULL) {
        json_decref(details);
        return LS_OK;
    }
    LsPhase before = ls_pulse_at(metrics->options.pulse, LS_PHASE_LOG);
    LsStatus status = write_event(metrics, kind, step, details);
    ls_pulse_at(metrics->options.pulse, before);
    return status;
}

LsStatus ls_metrics_status(LsMetrics *metrics, const json_t *fields)
{
    if (metrics == NULL)
        return LS_OK;
    LsPhase before = ls_pulse_at(metrics->options.pulse, LS_PHASE_LOG);
    LsStatus status = write_status(metrics, fields);
    ls_pulse_at(metrics->options.pulse, before);
    return status;
}

// ---- Without a rank -------------------------------------------------------------------------------------

LsStatus ls_metrics_append_event(
    const char *run_dir, int attempt, const char *kind, int64_t step, json_t *details)
{
    char path[LS_PATH_MAX];
    FILE *file = NULL;
    json_t *event = event_json(attempt, kind, step, details);
    LsStatus status = ls_path_join(path, run_dir, "events.jsonl");
    if (status == LS_OK)
        status = open_lines(path, &file);
    if (status != LS_OK) {
        json_decref(event);
        return status;
    }
    status = write_line(file, path, event);
    fclose(file);
    return status;
}

LsStatus ls_metrics_replace_state(
    const char *run_dir, const char *before, const char *state, const char *message)
{
    char path[LS_PATH_MAX], now[32];
    json_t *fields = NULL;
    LS_TRY(ls_path_join(path, run_dir, "status.json"));
    LsStatus status = ls_json_read(path, 1 << 20, LS_IO, &fields);
    if (status == LS_NO_INPUT)
        return LS_OK;
    LS_TRY(status);
    const char *found = json_string_value(json_object_get(fields, "state"));
    if (before == NULL || (found != NULL && strcmp(found, before) == 0)) {
        ls_clock_utc(now, sizeof now);
        json_object_set_new(fields, "state", json_string(state));
        json_object_set_new(fields, "message", json_string(message));
        json_object_set_new(fields, "updated_at", json_string(now));
        status = ls_json_write(path, fields);
    }
    json_decref(fields);
    return status;
}
