// What a run tells can be read back, survives being killed in the middle of a line, and is rewound by a
// resume.
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <math.h>
#include <sys/stat.h>
#include <unistd.h>

#include "checkpoint_fixture.h"
#include "train/metrics.h"

static LsRunDir run;
static FILE *progress;

// As a claim of the run makes it.
static void make_attempt(const char *name)
{
    char path[LS_PATH_MAX];
    assert_int_equal(ls_path_join(path, run.path, name), LS_OK);
    assert_int_equal(ls_directory_create(path), LS_OK);
}

static void append_to(const char *name, const char *text)
{
    char path[LS_PATH_MAX];
    assert_int_equal(ls_path_join(path, run.path, name), LS_OK);
    FILE *file = fopen(path, "a");
    assert_non_null(file);
    assert_true(fputs(text, file) >= 0);
    assert_int_equal(fclose(file), 0);
}

static int make_run(void **state)
{
    (void)state;
    fixture_directory(run.path);
    run.attempt = 3;
    memset(run.run_id, 'a', sizeof run.run_id - 1);
    make_attempt("attempts/000003");
    append_to("attempts/run_id", run.run_id);
    progress = tmpfile();
    return progress == NULL;
}

static int remove_run(void **state)
{
    (void)state;
    fclose(progress);
    return ls_directory_remove(run.path) == LS_OK ? 0 : 1;
}

static LsMetrics *open_metrics(bool quiet, size_t tokens)
{
    LsMetrics *metrics = NULL;
    LsMetricsOptions options = {.quiet = quiet, .tokens_per_sample = tokens, .progress = progress};
    if (ls_metrics_open(&run, &options, &metrics) != LS_OK)
        fail_msg("%s", ls_status_message());
    return metrics;
}

static char *read_run_file(const char *name)
{
    char path[LS_PATH_MAX], *text;
    size_t size;
    assert_int_equal(ls_path_join(path, run.path, name), LS_OK);
    assert_int_equal(ls_file_read(path, 1 << 20, &text, &size), LS_OK);
    return text;
}

static LsStepRecord record_of(int64_t step, float loss)
{
    return (LsStepRecord){.step = step,
        .loss = loss,
        .lr = 2.9e-4f,
        .gradient_norm = 0.84f,
        .loss_scale = 1,
        .step_seconds = 0.25,
        .data_seconds = 0.0625,
        .comm_seconds = 0.125,
        .samples_per_second = 402.63671875,
        .mfu = 0.41};
}

static const LsProgress halfway = {
    .total_steps = 5000, .epoch = 0.71, .eta_seconds = 1870, .memory_bytes = 65712849715};

static json_t *line_of(const char *text, size_t number)
{
    for (size_t i = 0; i < number; i++)
        text = strchr(text, '\n') + 1;
    json_t *line = json_loadb(text, strcspn(text, "\n"), 0, NULL);
    assert_non_null(line);
    return line;
}

static size_t count_lines(const char *text)
{
    size_t count = 0;
    for (; *text; text++)
        count += *text == '\n';
    return count;
}

static void a_loss_reads_back_to_the_same_float(void **state)
{
    (void)state;
    const float losses[] = {0.1f, 3.4117649f, 1.17549435e-38f, 1e-45f, 3.40282347e38f, 0, 16777215.0f};
    const size_t count = sizeof losses / sizeof *losses;
    LsMetrics *metrics = open_metrics(true, 1024);
    for (size_t i = 0; i < count; i++) {
        LsStepRecord record = record_of((int64_t)i + 1, losses[i]);
        assert_int_equal(ls_metrics_step(metrics, &record, &halfway), LS_OK);
    }
    LsStepRecord diverged = record_of(100, NAN);
    diverged.mfu = -1;
    assert_int_equal(ls_metrics_step(metrics, &diverged, &halfway), LS_OK);
    char *text = read_run_file("metrics.jsonl"); // every line is there at once, not when the file is closed
    assert_int_equal(count_lines(text), count + 1);
    for (size_t i = 0; i < count; i++) {
        json_t *line = line_of(text, i);
        float loss = (float)json_number_value(json_object_get(line, "loss"));
        assert_memory_equal(&loss, &losses[i], sizeof loss);
        assert_int_equal(json_integer_value(json_object_get(line, "step")), i + 1);
        assert_int_equal(json_integer_value(json_object_get(line, "attempt")), 3);
        json_decref(line);
    }
    static const char *const keys[] = {"step", "loss", "lr", "grad_norm", "step_seconds", "data_seconds",
        "comm_seconds", "samples_per_second", "tokens_per_second", "loss_scale", "mfu", "attempt"};
    json_t *line = line_of(text, 0);
    for (size_t i = 0; i < sizeof keys / sizeof *keys; i++)
        assert_non_null(json_object_get(line, keys[i]));
    assert_true(json_number_value(json_object_get(line, "tokens_per_second")) == 412300);
    json_decref(line);
    line = line_of(text, count);
    assert_true(json_is_null(json_object_get(line, "loss")));
    assert_null(json_object_get(line, "mfu")); // its peak is not known
    json_decref(line);
    free(text);
    ls_metrics_close(metrics);
}

static void a_resume_removes_what_lies_past_its_step(void **state)
{
    (void)state;
    LsMetrics *metrics = open_metrics(true, 0);
    for (int64_t step = 10; step <= 50; step += 10) {
        LsStepRecord record = record_of(step, 1);
        assert_int_equal(ls_metrics_step(metrics, &record, &halfway), LS_OK);
    }
    ls_metrics_close(metrics);
    append_to("metrics.jsonl", "{\"step\": 60, \"lo"); // killed in the middle of a line
    append_to("events.jsonl", "{\"step\": 60, \"lo");

    metrics = open_metrics(true, 0);
    char *text = read_run_file("metrics.jsonl");
    assert_int_equal(count_lines(text), 5);
    assert_null(strstr(text, "60"));
    free(text);
    text = read_run_file("events.jsonl");
    assert_string_equal(text, "");
    free(text);

    assert_int_equal(ls_metrics_rewind(metrics, 50, 50), LS_OK);
    assert_int_equal(ls_metrics_rewind(metrics, 30, 30), LS_OK);
    LsStepRecord record = record_of(40, 2);
    assert_int_equal(ls_metrics_step(metrics, &record, &halfway), LS_OK);
    assert_int_equal(ls_metrics_sync(metrics), LS_OK);
    text = read_run_file("metrics.jsonl");
    assert_int_equal(count_lines(text), 4);
    json_t *line = line_of(text, 3);
    assert_int_equal(json_integer_value(json_object_get(line, "step")), 40);
    assert_true(json_number_value(json_object_get(line, "loss")) == 2);
    json_decref(line);
    free(text);
    assert_int_equal(ls_metrics_rewind(metrics, 0, 0), LS_OK);
    text = read_run_file("metrics.jsonl");
    assert_string_equal(text, "");
    free(text);
    ls_metrics_close(metrics);
}

static void write_steps(LsMetrics *metrics, int64_t first, int64_t last, float loss)
{
    for (int64_t step = first; step <= last; step += 10) {
        LsStepRecord record = record_of(step, loss);
        assert_int_equal(ls_metrics_step(metrics, &record, &halfway), LS_OK);
    }
}

// Every tenth step up to `last` and no other.
static void assert_steps(int64_t last)
{
    char *text = read_run_file("metrics.jsonl");
    assert_int_equal(count_lines(text), last / 10);
    for (int64_t step = 10; step <= last; step += 10) {
        json_t *line = line_of(text, (size_t)(step / 10 - 1));
        assert_int_equal(json_integer_value(json_object_get(line, "step")), step);
        json_decref(line);
    }
    free(text);
}

// An attempt that stood still between its look at who owns the run and its next line.
static void what_a_superseded_attempt_still_writes_goes_nowhere(void **state)
{
    (void)state;
    LsMetrics *superseded = open_metrics(true, 0);
    write_steps(superseded, 10, 50, 1);
    LsMetrics *metrics = open_metrics(true, 0);
    assert_int_equal(ls_metrics_rewind(metrics, 30, 30), LS_OK);
    LsStepRecord late = record_of(60, 1);
    assert_int_equal(ls_metrics_step(superseded, &late, &halfway), LS_OK);
    write_steps(metrics, 40, 40, 2);
    assert_steps(40);
    ls_metrics_close(superseded);
    ls_metrics_close(metrics);
    assert_steps(40);
}

static bool lines_are_aside(void)
{
    char path[LS_PATH_MAX];
    assert_int_equal(ls_path_join(path, run.path, "metrics-ahead.jsonl"), LS_OK);
    return access(path, F_OK) == 0;
}

// The newest checkpoint cannot be read at one start, and can at the next.
static void a_checkpoint_that_comes_back_has_its_lines(void **state)
{
    (void)state;
    LsMetrics *metrics = open_metrics(true, 0);
    write_steps(metrics, 10, 90, 1);
    assert_int_equal(ls_metrics_rewind(metrics, 30, 70), LS_OK);
    assert_steps(30);
    assert_true(lines_are_aside());
    write_steps(metrics, 40, 50, 1);
    assert_int_equal(ls_metrics_rewind(metrics, 20, 70), LS_OK); // and once more
    assert_steps(20);
    assert_int_equal(ls_metrics_rewind(metrics, 60, 70), LS_OK);
    assert_steps(60);
    assert_int_equal(ls_metrics_rewind(metrics, 70, 70), LS_OK);
    assert_steps(70);
    assert_false(lines_are_aside());
    // What was trained again counts, not what was before.
    write_steps(metrics, 80, 90, 1);
    assert_int_equal(ls_metrics_rewind(metrics, 50, 90), LS_OK);
    write_steps(metrics, 60, 90, 2);
    assert_int_equal(ls_metrics_rewind(metrics, 90, 90), LS_OK);
    assert_steps(90);
    char *text = read_run_file("metrics.jsonl");
    json_t *line = line_of(text, 8);
    assert_true(json_number_value(json_object_get(line, "loss")) == 2);
    json_decref(line);
    free(text);
    assert_false(lines_are_aside());
    ls_metrics_close(metrics);
}

// As after a power cut: the blocks of a line were never written.
static void a_line_of_nothing_is_cut_with_what_follows(void **state)
{
    (void)state;
    LsMetrics *metrics = open_metrics(true, 0);
    write_steps(metrics, 10, 60, 1);
    ls_metrics_close(metrics);
    append_to("metrics.jsonl", "nothing of ours\n");
    metrics = open_metrics(true, 0);
    write_steps(metrics, 70, 90, 1);
    assert_int_equal(ls_metrics_rewind(metrics, 40, 80), LS_OK);
    assert_steps(40);
    write_steps(metrics, 50, 50, 1);
    assert_steps(50);
    assert_int_equal(ls_metrics_rewind(metrics, 70, 80), LS_OK); // some from there, the rest stays
    assert_steps(70);
    assert_true(lines_are_aside());
    assert_int_equal(ls_metrics_rewind(metrics, 80, 80), LS_OK);
    assert_steps(80);
    ls_metrics_close(metrics);
}

static void a_file_that_is_one_torn_line_is_emptied(void **state)
{
    (void)state;
    char *torn = malloc(300001); // longer than what is searched at once
    memset(torn, 'x', 300000);
    torn[300000] = '\0';
    append_to("metrics.jsonl", torn);
    append_to("events.jsonl", "whole\n");
    append_to("events.jsonl", torn);
    free(torn);
    ls_metrics_close(open_metrics(true, 0));
    char *text = read_run_file("metrics.jsonl");
    assert_string_equal(text, "");
    free(text);
    text = read_run_file("events.jsonl");
    assert_string_equal(text, "whole\n");
    free(text);
}

static void events_carry_time_attempt_and_step(void **state)
{
    (void)state;
    LsMetrics *metrics = open_metrics(true, 0);
    assert_int_equal(ls_metrics_event(metrics, "start", 0, NULL), LS_OK);
    assert_int_equal(
        ls_metrics_event(metrics, "eval", 20, json_pack("{s:f, s:i}", "accuracy", 0.5, "step", 99)), LS_OK);
    char *text = read_run_file("events.jsonl");
    assert_int_equal(count_lines(text), 2);
    json_t *line = line_of(text, 1);
    assert_string_equal(json_string_value(json_object_get(line, "event")), "eval");
    assert_int_equal(json_integer_value(json_object_get(line, "attempt")), 3);
    assert_int_equal(json_integer_value(json_object_get(line, "step")), 20); // details do not replace it
    assert_true(json_number_value(json_object_get(line, "accuracy")) == 0.5);
    assert_int_equal(json_string_length(json_object_get(line, "time")), strlen("2026-01-31T12:34:56.789Z"));
    json_decref(line);
    free(text);
    ls_metrics_close(metrics);
}

static void status_keeps_what_it_was_told(void **state)
{
    (void)state;
    static const char *const keys[] = {"state", "step", "epoch", "world_size", "attempt", "train_loss",
        "eval", "samples_per_second", "tokens_per_second", "checkpoint", "message", "updated_at"};
    LsMetrics *metrics = open_metrics(true, 0);
    json_t *fields = json_pack("{s:s, s:i}", "state", "running", "world_size", 4), *read;
    assert_int_equal(ls_metrics_status(metrics, fields), LS_OK);
    json_decref(fields);
    LsStepRecord record = record_of(70, 0.5f);
    assert_int_equal(ls_metrics_step(metrics, &record, &halfway), LS_OK);
    fields = json_pack("{s:s}", "state", "completed");
    assert_int_equal(ls_metrics_status(metrics, fields), LS_OK);
    json_decref(fields);

    char path[LS_PATH_MAX];
    assert_int_equal(ls_path_join(path, run.path, "status.json"), LS_OK);
    assert_int_equal(ls_json_read(path, 10000, LS_BAD_DATA, &read), LS_OK);
    for (size_t i = 0; i < sizeof keys / sizeof *keys; i++)
        assert_non_null(json_object_get(read, keys[i]));
    assert_string_equal(json_string_value(json_object_get(read, "state")), "completed");
    assert_int_equal(json_integer_value(json_object_get(read, "world_size")), 4);
    assert_int_equal(json_integer_value(json_object_get(read, "attempt")), 3);
    assert_int_equal(json_integer_value(json_object_get(read, "step")), 70);
    assert_true(json_number_value(json_object_get(read, "train_loss")) == 0.5);
    assert_true(json_is_null(json_object_get(read, "checkpoint")));
    assert_true(json_is_string(json_object_get(read, "updated_at")));
    json_decref(read);
    ls_metrics_close(metrics);
}

static void the_progress_line_is_that_of_the_contract(void **state)
{
    (void)state;
    char line[256];
    LsStepRecord record = record_of(1200, 3.412f);
    ls_progress_line(&record, &halfway, 1024, line, sizeof line);
    assert_string_equal(line, "step 1200/5000 24% | epoch 0.71 | loss 3.412 | gnorm 0.84 | lr 2.9e-04 | "
                              "412.3k tok/s | mfu 41% | mem 61.2G | eta 00:31:10");

    record.samples_per_second = 999990;
    record.mfu = -1;
    record.gradient_norm = 0.00012f;
    LsProgress endless = {.epoch = 12, .eta_seconds = -1};
    ls_progress_line(&record, &endless, 0, line, sizeof line);
    assert_string_equal(
        line, "step 1200 | epoch 12.00 | loss 3.412 | gnorm 1.20e-04 | lr 2.9e-04 | 1.0M smp/s");

    record.samples_per_second = 83.4;
    record.loss = NAN;
    record.gradient_norm = 123456;
    LsProgress slow = {.total_steps = 1200, .eta_seconds = 360061, .memory_bytes = 300 << 20};
    ls_progress_line(&record, &slow, 0, line, sizeof line);
    assert_string_equal(line, "step 1200/1200 100% | epoch 0.00 | loss nan | gnorm 1.23e+05 | lr 2.9e-04 | "
                              "83 smp/s | mem 300.0M | eta 100:01:01");

    char small[16]; // cut off, not overrun
    ls_progress_line(&record, &halfway, 0, small, sizeof small);
    assert_string_equal(small, "step 1200/5000 ");
}

static void progress_is_lines_in_a_file_and_nothing_when_quiet(void **state)
{
    (void)state;
    LsStepRecord record = record_of(1200, 3.412f);
    LsMetrics *metrics = open_metrics(true, 0);
    assert_int_equal(ls_metrics_step(metrics, &record, &halfway), LS_OK);
    ls_metrics_close(metrics);
    assert_int_equal(ftell(progress), 0);

    metrics = open_metrics(false, 0);
    assert_int_equal(ls_metrics_step(metrics, &record, &halfway), LS_OK);
    assert_int_equal(ls_metrics_step(metrics, &record, &halfway), LS_OK);
    ls_metrics_close(metrics);
    char text[512] = "";
    rewind(progress);
    text[fread(text, 1, sizeof text - 1, progress)] = '\0';
    assert_int_equal(count_lines(text), 2);
    assert_null(strchr(text, '\r'));
    assert_int_equal(strncmp(text, "step 1200/5000 24% |", 20), 0);
}

static void without_metrics_nothing_happens(void **state)
{
    (void)state;
    LsStepRecord record = record_of(1, 1);
    assert_int_equal(ls_metrics_step(NULL, &record, &halfway), LS_OK);
    assert_int_equal(ls_metrics_event(NULL, "stop", 1, json_object()), LS_OK);
    assert_int_equal(ls_metrics_rewind(NULL, 1, 1), LS_OK);
    assert_int_equal(ls_metrics_sync(NULL), LS_OK);
    assert_int_equal(ls_metrics_status(NULL, NULL), LS_OK);
    ls_metrics_close(NULL);
}

static void a_full_disk_is_said(void **state)
{
    (void)state;
    char path[LS_PATH_MAX];
    assert_int_equal(ls_path_join(path, run.path, "metrics.jsonl"), LS_OK);
    assert_int_equal(mkdir(path, 0777), 0);
    LsMetrics *metrics = NULL;
    assert_int_equal(ls_metrics_open(&run, NULL, &metrics), LS_IO);
    assert_null(metrics);
    assert_non_null(strstr(ls_status_message(), "metrics.jsonl"));
    assert_int_equal(rmdir(path), 0);

    // The limit on the size of files stands for a full disk.
    metrics = open_metrics(true, 0);
    LsStepRecord record = record_of(1, 1);
    assert_int_equal(ls_metrics_step(metrics, &record, &halfway), LS_OK);
    fixture_limit_files(100);
    LsStatus status = ls_metrics_event(metrics, "eval", 1,
        json_pack("{s:s%}", "long",
            "a text that makes the line longer than the limit, which is a hundred bytes of one file in all",
            90));
    fixture_limit_files(RLIM_INFINITY);
    assert_int_equal(status, LS_IO);
    assert_non_null(strstr(ls_status_message(), "events.jsonl"));
    ls_metrics_close(metrics);
}

// Frozen, superseded and woken up: nothing of it comes between what the newer attempt writes.
static void a_superseded_attempt_writes_nothing(void **state)
{
    (void)state;
    LsMetrics *metrics = open_metrics(true, 0);
    LsStepRecord record = record_of(1, 0.5f);
    LsProgress shown = {.total_steps = 2};
    assert_int_equal(ls_metrics_step(metrics, &record, &shown), LS_OK);
    make_attempt("attempts/000004");
    usleep(150 * 1000);
    char *before = read_run_file("status.json");
    assert_int_equal(ls_metrics_step(metrics, &record, &shown), LS_IO);
    assert_non_null(strstr(ls_status_message(), "superseded by attempt 4"));
    assert_int_equal(ls_metrics_event(metrics, "eval", 1, NULL), LS_IO);
    assert_int_equal(ls_metrics_status(metrics, NULL), LS_IO);
    ls_metrics_close(metrics);
    char *lines = read_run_file("metrics.jsonl"), *events = read_run_file("events.jsonl"),
         *after = read_run_file("status.json");
    assert_ptr_equal(strchr(lines, '\n'), lines + strlen(lines) - 1);
    assert_string_equal(events, "");
    assert_string_equal(before, after);
    free(after);
    free(events);
    free(lines);
    free(before);
}

// Never frozen: it looks while it writes step after step.
static void a_superseded_attempt_that_runs_on_stops(void **state)
{
    (void)state;
    LsMetrics *metrics = open_metrics(true, 0);
    LsProgress shown = {.total_steps = 1000};
    LsStatus status = LS_OK;
    make_attempt("attempts/000004");
    for (int64_t step = 1; step < 1000 && status == LS_OK; step++) {
        LsStepRecord record = record_of(step, 0.5f);
        usleep(5 * 1000);
        status = ls_metrics_step(metrics, &record, &shown);
    }
    assert_int_equal(status, LS_IO);
    ls_metrics_close(metrics);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(a_loss_reads_back_to_the_same_float, make_run, remove_run),
        cmocka_unit_test_setup_teardown(a_resume_removes_what_lies_past_its_step, make_run, remove_run),
        cmocka_unit_test_setup_teardown(
            what_a_superseded_attempt_still_writes_goes_nowhere, make_run, remove_run),
        cmocka_unit_test_setup_teardown(a_checkpoint_that_comes_back_has_its_lines, make_run, remove_run),
        cmocka_unit_test_setup_teardown(a_line_of_nothing_is_cut_with_what_follows, make_run, remove_run),
        cmocka_unit_test_setup_teardown(a_file_that_is_one_torn_line_is_emptied, make_run, remove_run),
        cmocka_unit_test_setup_teardown(events_carry_time_attempt_and_step, make_run, remove_run),
        cmocka_unit_test_setup_teardown(status_keeps_what_it_was_told, make_run, remove_run),
        cmocka_unit_test_setup_teardown(the_progress_line_is_that_of_the_contract, make_run, remove_run),
        cmocka_unit_test_setup_teardown(
            progress_is_lines_in_a_file_and_nothing_when_quiet, make_run, remove_run),
        cmocka_unit_test_setup_teardown(without_metrics_nothing_happens, make_run, remove_run),
        cmocka_unit_test_setup_teardown(a_superseded_attempt_writes_nothing, make_run, remove_run),
        cmocka_unit_test_setup_teardown(a_superseded_attempt_that_runs_on_stops, make_run, remove_run),
        cmocka_unit_test_setup_teardown(a_full_disk_is_said, make_run, remove_run),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
