// The guard's part of a run's state: what is empty leaves no trace, what is there comes back whole wherever
// in its ring it lay; and which checkpoint a rollback goes to.
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <stdlib.h>
#include <string.h>

#include "guard_state.h"

static void sha_of(const LsRunState *state, char text[LS_SHA256_TEXT])
{
    LsSha256 *sha = ls_sha256_create();
    assert_non_null(sha);
    ls_guard_state_hash(state, sha);
    ls_sha256_finish(sha, text);
}

// `held` entries, the newest in front of `next`.
static LsRunState state_of(int32_t held, int32_t next)
{
    LsRunState state = {.window = {.held = held, .next = next}};
    for (int32_t i = 0; i < held; i++) {
        int32_t place = (next - held + i + LS_SPIKE_WINDOW_MAX) % LS_SPIKE_WINDOW_MAX;
        state.window.loss[place] = 1.0f / (float)(i + 3);
        state.window.gradient_norm[place] = 1e-30f * (float)(i + 1);
    }
    return state;
}

static void an_empty_state_leaves_no_trace(void **unused)
{
    (void)unused;
    LsRunState empty = {.control = {.step = 7}}, read = {0};
    char text[LS_SHA256_TEXT], nothing[LS_SHA256_TEXT];
    ls_sha256_finish(ls_sha256_create(), nothing);
    sha_of(&empty, text);
    assert_string_equal(text, nothing);
    json_t *json = json_object();
    ls_guard_state_json(&empty, json);
    assert_int_equal(json_object_size(json), 0);
    assert_null(ls_guard_state_parse(json, &read));
    assert_int_equal(read.window.held + (int)read.guard.held + (int)read.guard.rollbacks, 0);
    json_decref(json);
}

// The same entries at another place of the ring are the same state.
static void a_window_comes_back_wherever_it_lay(void **unused)
{
    (void)unused;
    static const int32_t held[] = {1, 8, 127, 128};
    for (size_t h = 0; h < sizeof held / sizeof *held; h++)
        for (int32_t next = 0; next < LS_SPIKE_WINDOW_MAX; next += 31) {
            LsRunState state = state_of(held[h], next), read = {0};
            char before[LS_SHA256_TEXT], after[LS_SHA256_TEXT];
            json_t *json = json_object();
            ls_guard_state_json(&state, json);
            char *text = json_dumps(json, 0); // as a file has it
            json_decref(json);
            json = json_loads(text, 0, NULL);
            assert_null(ls_guard_state_parse(json, &read));
            assert_int_equal(ls_guard_state_diff(&state, &read, stderr), 0);
            sha_of(&state, before);
            sha_of(&read, after);
            assert_string_equal(before, after);
            read.window.gradient_norm[held[h] / 2] *= 1.0000002f;
            sha_of(&read, after);
            assert_string_not_equal(before, after);
            FILE *sink = fopen("/dev/null", "w");
            assert_int_equal(ls_guard_state_diff(&state, &read, sink), 1);
            fclose(sink);
            free(text);
            json_decref(json);
        }
}

static void what_is_no_state_is_refused(void **unused)
{
    (void)unused;
    static const char *const wrong[] = {
        "{\"window_loss\": [1.0]}",                                     // without norms
        "{\"window_loss\": [1.0], \"window_gradient_norm\": [1.0, 2]}", // not one for each
        "{\"window_loss\": [0.1], \"window_gradient_norm\": [1.0]}",    // no float
        "{\"window_loss\": [\"1\"], \"window_gradient_norm\": [1.0]}",
        "{\"window_loss\": 1.0, \"window_gradient_norm\": 1.0}",
        "{\"window_loss\": [1e300], \"window_gradient_norm\": [1.0]}",
        "{\"findings\": [3, -1]}",
        "{\"findings\": [3.5]}",
        "{\"findings\": 3}",
        "{\"rollbacks\": -1}",
        "{\"rollbacks\": \"1\"}",
    };
    for (size_t i = 0; i < sizeof wrong / sizeof *wrong; i++) {
        LsRunState state = {0};
        json_t *json = json_loads(wrong[i], 0, NULL);
        assert_non_null(json);
        assert_non_null(ls_guard_state_parse(json, &state));
        json_decref(json);
    }
    json_t *json = json_object(), *list = json_array();
    for (int i = 0; i <= LS_SPIKE_WINDOW_MAX; i++)
        json_array_append_new(list, json_real(1));
    json_object_set(json, "window_loss", list);
    json_object_set_new(json, "window_gradient_norm", list);
    LsRunState state = {0};
    assert_non_null(ls_guard_state_parse(json, &state));
    json_decref(json);
}

static void a_history_counts_within_its_span(void **unused)
{
    (void)unused;
    LsRunState state = {0}, read = {0};
    LsGuardHistory *guard = &state.guard;
    assert_int_equal(ls_guard_history_add(guard, 5, 10), 1);
    assert_int_equal(ls_guard_history_add(guard, 14, 10), 2);
    assert_int_equal(ls_guard_history_add(guard, 15, 10), 2); // 5 is ten steps ago
    assert_int_equal(guard->step[0], 14);
    guard->rollbacks = 3;
    json_t *json = json_object();
    ls_guard_state_json(&state, json);
    assert_null(ls_guard_state_parse(json, &read));
    assert_int_equal(ls_guard_state_diff(&state, &read, stderr), 0);
    assert_memory_equal(&read.guard, guard, sizeof *guard);
    json_decref(json);
    for (int64_t step = 100; step < 300; step++)
        ls_guard_history_add(guard, step, 1000);
    assert_int_equal(guard->held, LS_GUARD_FINDINGS_MAX);
    assert_int_equal(guard->step[0], 200);
    assert_int_equal(guard->step[LS_GUARD_FINDINGS_MAX - 1], 299);
}

static void a_rollback_goes_to_a_multiple(void **unused)
{
    (void)unused;
    static const int64_t steps[] = {0, 10, 17, 20, 23, 30};
    static const struct {
        size_t count;
        int64_t limit, every, target;
    } cases[] = {
        {6, 31, 10, 30},
        {6, 30, 10, 20}, // of the bad step itself there is none that is good
        {5, 24, 10, 20}, // and not 23, which a stop has left
        {6, 10, 10, 0},
        {6, 1, 10, 0},
        {6, 0, 10, -1},
        {0, 5, 10, -1},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++)
        assert_int_equal(
            ls_checkpoint_before(steps, cases[i].count, cases[i].limit, cases[i].every), cases[i].target);
    // A run that began with what was there, at no multiple, goes back to that.
    assert_int_equal(ls_checkpoint_before(steps + 2, 1, 19, 10), 17);
    assert_int_equal(ls_checkpoint_before(steps + 2, 1, 17, 10), -1);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(an_empty_state_leaves_no_trace),
        cmocka_unit_test(a_window_comes_back_wherever_it_lay),
        cmocka_unit_test(what_is_no_state_is_refused),
        cmocka_unit_test(a_history_counts_within_its_span),
        cmocka_unit_test(a_rollback_goes_to_a_multiple),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
