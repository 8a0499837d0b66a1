// The guard's part of the state beside the tensors: a member is there only when it says something, so that a
// run without guards has the manifest and the hash that it always had.
#include "guard_state.h"

#include <inttypes.h>
#include <math.h>
#include <string.h>

// Entry i of a ring, the oldest is 0.
static float entry(const LsSpikeWindow *window, const float *ring, int32_t i)
{
    int32_t place = window->next - window->held + i;
    return ring[(place + LS_SPIKE_WINDOW_MAX) % LS_SPIKE_WINDOW_MAX];
}

static json_t *ring_json(const LsSpikeWindow *window, const float *ring)
{
    json_t *list = json_array();
    for (int32_t i = 0; i < window->held; i++)
        json_array_append_new(list, json_real((double)entry(window, ring, i)));
    return list;
}

void ls_guard_state_json(const LsRunState *state, json_t *json)
{
    const LsSpikeWindow *window = &state->window;
    const LsGuardHistory *guard = &state->guard;
    if (window->held > 0) {
        json_object_set_new(json, "window_loss", ring_json(window, window->loss));
        json_object_set_new(json, "window_gradient_norm", ring_json(window, window->gradient_norm));
    }
    if (guard->rollbacks > 0)
        json_object_set_new(json, "rollbacks", json_integer(guard->rollbacks));
    if (guard->held > 0) {
        json_t *list = json_array();
        for (int64_t i = 0; i < guard->held; i++)
            json_array_append_new(list, json_integer(guard->step[i]));
        json_object_set_new(json, "findings", list);
    }
}

static bool parse_ring(const json_t *list, float ring[LS_SPIKE_WINDOW_MAX], int32_t *held)
{
    size_t count = json_array_size(list), i;
    const json_t *item = NULL;
    if (list && (!json_is_array(list) || count > LS_SPIKE_WINDOW_MAX))
        return false;
    json_array_foreach(list, i, item)
    {
        double value = json_number_value(item);
        ring[i] = (float)value;
        if (!json_is_number(item) || !isfinite(ring[i]) || (double)ring[i] != value)
            return false;
    }
    *held = (int32_t)count;
    return true;
}

static bool parse_window(const json_t *json, LsSpikeWindow *window)
{
    int32_t norms = 0;
    if (!parse_ring(json_object_get(json, "window_loss"), window->loss, &window->held) ||
        !parse_ring(json_object_get(json, "window_gradient_norm"), window->gradient_norm, &norms))
        return false;
    window->next = window->held % LS_SPIKE_WINDOW_MAX;
    return norms == window->held;
}

static bool parse_findings(const json_t *json, LsGuardHistory *guard)
{
    const json_t *list = json_object_get(json, "findings"), *item = NULL;
    size_t count = json_array_size(list), i;
    if (list && (!json_is_array(list) || count > LS_GUARD_FINDINGS_MAX))
        return false;
    json_array_foreach(list, i, item)
    {
        guard->step[i] = (int64_t)json_integer_value(item);
        if (!json_is_integer(item) || guard->step[i] < 0)
            return false;
    }
    guard->held = (int64_t)count;
    return true;
}

static bool parse_rollbacks(const json_t *json, LsGuardHistory *guard)
{
    const json_t *count = json_object_get(json, "rollbacks");
    guard->rollbacks = (int64_t)json_integer_value(count);
    return !count || (json_is_integer(count) && guard->rollbacks >= 0);
}

const char *ls_guard_state_parse(const json_t *json, LsRunState *state)
{
    if (!parse_window(json, &state->window))
        return "window_loss or window_gradient_norm";
    if (!parse_findings(json, &state->guard))
        return "findings";
    return parse_rollbacks(json, &state->guard) ? NULL : "rollbacks";
}

static void hash_number(LsSha256 *sha, uint64_t number)
{
    uint8_t bytes[8];
    for (int b = 0; b < 8; b++)
        bytes[b] = (uint8_t)(number >> (8 * b));
    ls_sha256_update(sha, bytes, sizeof bytes);
}

static void hash_ring(LsSha256 *sha, const LsSpikeWindow *window, const float *ring)
{
    for (int32_t i = 0; i < window->held; i++) {
        float value = entry(window, ring, i);
        uint32_t bits;
        memcpy(&bits, &value, sizeof bits);
        hash_number(sha, bits);
    }
}

// Every number that is in the manifest, in its order.
void ls_guard_state_hash(const LsRunState *state, LsSha256 *sha)
{
    const LsGuardHistory *guard = &state->guard;
    hash_ring(sha, &state->window, state->window.loss);
    hash_ring(sha, &state->window, state->window.gradient_norm);
    if (guard->rollbacks > 0)
        hash_number(sha, (uint64_t)guard->rollbacks);
    for (int64_t i = 0; i < guard->held; i++)
        hash_number(sha, (uint64_t)guard->step[i]);
}

void ls_guard_state_print(const LsRunState *state, FILE *out)
{
    if (state->window.held > 0)
        fprintf(out, "  %-18s %d good steps\n", "window", state->window.held);
    if (state->guard.rollbacks > 0)
        fprintf(out, "  %-18s %" PRId64 "\n", "rollbacks", state->guard.rollbacks);
    if (state->guard.held > 0)
        fprintf(out, "  %-18s %" PRId64 ", the newest at step %" PRId64 "\n", "findings", state->guard.held,
            state->guard.step[state->guard.held - 1]);
}

static bool same_window(const LsSpikeWindow *a, const LsSpikeWindow *b)
{
    bool same = a->held == b->held;
    for (int32_t i = 0; same && i < a->held; i++) // all of them are finite, and no loss or norm is -0
        same = entry(a, a->loss, i) == entry(b, b->loss, i) &&
               entry(a, a->gradient_norm, i) == entry(b, b->gradient_norm, i);
    return same;
}

size_t ls_guard_state_diff(const LsRunState *a, const LsRunState *b, FILE *out)
{
    bool window = !same_window(&a->window, &b->window);
    bool rollbacks = a->guard.rollbacks != b->guard.rollbacks;
    bool findings = a->guard.held != b->guard.held ||
                    memcmp(a->guard.step, b->guard.step, (size_t)a->guard.held * sizeof *a->guard.step) != 0;
    if (window)
        fprintf(
            out, "state %-40s %d good steps != %d, or others\n", "window", a->window.held, b->window.held);
    if (rollbacks)
        fprintf(out, "state %-40s %" PRId64 " != %" PRId64 "\n", "rollbacks", a->guard.rollbacks,
            b->guard.rollbacks);
    if (findings)
        fprintf(out, "state %-40s %" PRId64 " != %" PRId64 ", or others\n", "findings", a->guard.held,
            b->guard.held);
    return (size_t)window + (size_t)rollbacks + (size_t)findings;
}

int64_t ls_guard_history_add(LsGuardHistory *guard, int64_t step, int64_t span)
{
    int64_t kept = 0;
    for (int64_t i = 0; i < guard->held; i++)
        if (guard->step[i] > step - span)
            guard->step[kept++] = guard->step[i];
    if (kept == LS_GUARD_FINDINGS_MAX) {
        memmove(guard->step, guard->step + 1, (size_t)(kept - 1) * sizeof *guard->step);
        kept--;
    }
    guard->step[kept++] = step;
    memset(guard->step + kept, 0, (size_t)(LS_GUARD_FINDINGS_MAX - kept) * sizeof *guard->step);
    guard->held = kept;
    return kept;
}
