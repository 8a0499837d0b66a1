// The state beside the tensors, as JSON, as bytes to hash and as text. One table has every member.
#include <inttypes.h>
#include <math.h>
#include <string.h>

#include "guard_state.h"
#include "manifest.h"

typedef enum FieldKind { FIELD_I64, FIELD_U64, FIELD_I32, FIELD_BOOL, FIELD_F32, FIELD_F64 } FieldKind;

typedef struct Field {
    const char *name;
    size_t offset; // in LsRunState
    FieldKind kind;
} Field;

// The order is that of the checkpoint hash: new members go to the end.
static const Field fields[] = {
    {"step", offsetof(LsRunState, control.step), FIELD_I64},
    {"updates", offsetof(LsRunState, control.updates), FIELD_I64},
    {"loss", offsetof(LsRunState, control.loss), FIELD_F32},
    {"gradient_norm", offsetof(LsRunState, control.gradient_norm), FIELD_F32},
    {"learning_rate", offsetof(LsRunState, control.learning_rate), FIELD_F32},
    {"gradient_factor", offsetof(LsRunState, control.gradient_factor), FIELD_F32},
    {"bias_correction1", offsetof(LsRunState, control.bias_correction1), FIELD_F32},
    {"bias_correction2", offsetof(LsRunState, control.bias_correction2), FIELD_F32},
    {"loss_scale", offsetof(LsRunState, control.loss_scale), FIELD_F32},
    {"good_steps", offsetof(LsRunState, control.good_steps), FIELD_I32},
    {"skip", offsetof(LsRunState, control.skip), FIELD_I32},
    {"skipped_in_row", offsetof(LsRunState, control.skipped_in_row), FIELD_I32},
    {"cursor", offsetof(LsRunState, cursor), FIELD_U64},
    {"best_known", offsetof(LsRunState, best.known), FIELD_BOOL},
    {"best_value", offsetof(LsRunState, best.value), FIELD_F64},
    {"best_step", offsetof(LsRunState, best.step), FIELD_I64},
    {"best_stale", offsetof(LsRunState, best.stale), FIELD_I64},
};

// Not in the table, since most checkpoints do not have it.
static const char evaluation_due[] = "evaluation_due";

enum { FIELDS = sizeof fields / sizeof *fields, VALUE_TEXT = 40 };

// Whoever adds a member adds a row above; a checkpoint that forgets state resumes another run. Window and
// history of the guard are in guard_state.c.
_Static_assert(sizeof(LsStepControl) == 2 * 8 + 7 * 4 + 3 * 4 && sizeof(LsBestMetric) == 4 * 8,
    "the table of fields has every member");

static bool is_real(const Field *field)
{
    return field->kind == FIELD_F32 || field->kind == FIELD_F64;
}

static double read_real(const LsRunState *state, const Field *field)
{
    const char *at = (const char *)state + field->offset;
    float single;
    double value;
    if (field->kind == FIELD_F64) {
        memcpy(&value, at, sizeof value);
        return value;
    }
    memcpy(&single, at, sizeof single);
    return (double)single;
}

// Integers and truth values; an unsigned one of above 2^63 - 1 does not occur (a stream position).
static int64_t read_integer(const LsRunState *state, const Field *field)
{
    const char *at = (const char *)state + field->offset;
    int64_t wide = 0;
    int32_t narrow;
    bool truth;
    switch (field->kind) {
    case FIELD_I32:
        memcpy(&narrow, at, sizeof narrow);
        return narrow;
    case FIELD_BOOL:
        memcpy(&truth, at, sizeof truth);
        return truth;
    default:
        memcpy(&wide, at, sizeof wide);
        return wide;
    }
}

// JSON has no infinity and no NaN; they become strings, since a skipped step's norm is one of them.
static json_t *real_json(double value)
{
    if (isnan(value))
        return json_string("nan");
    if (isinf(value))
        return json_string(value > 0 ? "inf" : "-inf");
    return json_real(value);
}

static bool parse_real(const json_t *json, double *out)
{
    if (json_is_number(json)) {
        *out = json_number_value(json);
        return true;
    }
    const char *text = json_string_value(json);
    if (text == NULL)
        return false;
    bool known = true;
    if (strcmp(text, "inf") == 0)
        *out = (double)INFINITY;
    else if (strcmp(text, "-inf") == 0)
        *out = -(double)INFINITY;
    else if (strcmp(text, "nan") == 0)
        *out = (double)NAN;
    else
        known = false;
    return known;
}

json_t *ls_state_json(const LsRunState *state)
{
    json_t *json = json_object();
    for (size_t i = 0; i < FIELDS; i++) {
        const Field *field = &fields[i];
        json_t *value;
        if (is_real(field))
            value = real_json(read_real(state, field));
        else if (field->kind == FIELD_BOOL)
            value = json_boolean(read_integer(state, field) != 0);
        else
            value = json_integer(read_integer(state, field));
        json_object_set_new(json, field->name, value);
    }
    if (state->evaluation_due)
        json_object_set_new(json, evaluation_due, json_true());
    ls_guard_state_json(state, json);
    return json;
}

static bool parse_field(const json_t *json, const Field *field, LsRunState *out)
{
    char *at = (char *)out + field->offset;
    if (is_real(field)) {
        double value;
        if (!parse_real(json, &value))
            return false;
        float single = (float)value;
        if (field->kind == FIELD_F64)
            memcpy(at, &value, sizeof value);
        else
            memcpy(at, &single, sizeof single);
        // What was written was a float: a number that is none was not written by us.
        return field->kind == FIELD_F64 || isnan(value) || (double)single == value;
    }
    if (field->kind == FIELD_BOOL) {
        bool truth = json_is_true(json);
        memcpy(at, &truth, sizeof truth);
        return json_is_boolean(json);
    }
    int64_t wide = json_is_integer(json) ? (int64_t)json_integer_value(json) : -1;
    int32_t narrow = (int32_t)wide;
    if (field->kind == FIELD_I32)
        memcpy(at, &narrow, sizeof narrow);
    else
        memcpy(at, &wide, sizeof wide);
    bool signed_ = strcmp(field->name, "best_step") == 0; // -1: none
    if (!json_is_integer(json) || (wide < 0 && !signed_))
        return false;
    return field->kind != FIELD_I32 || wide <= INT32_MAX;
}

LsStatus ls_state_parse(const json_t *json, const char *name, LsRunState *out)
{
    LsRunState state;
    memset(&state, 0, sizeof state);
    for (size_t i = 0; i < FIELDS; i++)
        if (!parse_field(json_object_get(json, fields[i].name), &fields[i], &state))
            return LS_FAIL(LS_CHECKPOINT, "%s: state.%s is missing or not valid", name, fields[i].name);
    const json_t *due = json_object_get(json, evaluation_due);
    if (due && !json_is_boolean(due))
        return LS_FAIL(LS_CHECKPOINT, "%s: state.%s is not valid", name, evaluation_due);
    state.evaluation_due = json_is_true(due);
    const char *wrong = ls_guard_state_parse(json, &state);
    if (wrong)
        return LS_FAIL(LS_CHECKPOINT, "%s: state.%s is not valid", name, wrong);
    *out = state;
    return LS_OK;
}

// The eight bytes of a field in the checkpoint hash. All NaNs are one, since JSON keeps no payload.
static uint64_t field_bits(const LsRunState *state, const Field *field)
{
    if (!is_real(field))
        return (uint64_t)read_integer(state, field);
    double value = read_real(state, field);
    if (field->kind == FIELD_F64) {
        uint64_t bits;
        memcpy(&bits, &value, sizeof bits);
        return isnan(value) ? 0x7ff8000000000000u : bits;
    }
    float single = (float)value;
    uint32_t bits;
    memcpy(&bits, &single, sizeof bits);
    return isnan(single) ? 0x7fc00000u : bits;
}

void ls_state_hash(const LsRunState *state, LsSha256 *sha)
{
    for (size_t i = 0; i < FIELDS; i++) {
        uint64_t bits = field_bits(state, &fields[i]);
        uint8_t bytes[8];
        for (int b = 0; b < 8; b++)
            bytes[b] = (uint8_t)(bits >> (8 * b));
        ls_sha256_update(sha, bytes, sizeof bytes);
    }
    static const uint8_t due[8] = {1};
    if (state->evaluation_due)
        ls_sha256_update(sha, due, sizeof due);
    ls_guard_state_hash(state, sha);
}

static void field_text(const LsRunState *state, const Field *field, char text[VALUE_TEXT])
{
    if (is_real(field))
        snprintf(text, VALUE_TEXT, "%.*g", field->kind == FIELD_F64 ? 17 : 9, read_real(state, field));
    else if (field->kind == FIELD_BOOL)
        snprintf(text, VALUE_TEXT, "%s", read_integer(state, field) ? "yes" : "no");
    else
        snprintf(text, VALUE_TEXT, "%" PRId64, read_integer(state, field));
}

void ls_state_print(const LsRunState *state, FILE *out)
{
    char text[VALUE_TEXT];
    for (size_t i = 0; i < FIELDS; i++) {
        field_text(state, &fields[i], text);
        fprintf(out, "  %-18s %s\n", fields[i].name, text);
    }
    if (state->evaluation_due)
        fprintf(out, "  %-18s yes\n", evaluation_due);
    ls_guard_state_print(state, out);
}

size_t ls_state_diff(const LsRunState *a, const LsRunState *b, FILE *out)
{
    size_t differing = 0;
    char left[VALUE_TEXT], right[VALUE_TEXT];
    for (size_t i = 0; i < FIELDS; i++) {
        if (field_bits(a, &fields[i]) == field_bits(b, &fields[i]))
            continue;
        differing++;
        field_text(a, &fields[i], left);
        field_text(b, &fields[i], right);
        fprintf(out, "state %-40s %s != %s\n", fields[i].name, left, right);
    }
    if (a->evaluation_due != b->evaluation_due) {
        differing++;
        fprintf(out, "state %-40s %s != %s\n", evaluation_due, a->evaluation_due ? "yes" : "no",
            b->evaluation_due ? "yes" : "no");
    }
    return differing + ls_guard_state_diff(a, b, out);
}
