// The transform in the data set's schema: JSON, so that whoever predicts needs the schema only.
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "base/text.h"
#include "transform.h"

static const char *const role_names[] = {[LS_ROLE_INFER] = "",
    [LS_ROLE_LABEL] = "label",
    [LS_ROLE_NUMERIC] = "numeric",
    [LS_ROLE_CATEGORICAL] = "categorical",
    [LS_ROLE_IGNORE] = "ignore"};
static const char *const policy_names[] = {
    [LS_MISSING_ERROR] = "error", [LS_MISSING_DROP] = "drop", [LS_MISSING_FILL] = "fill"};
enum {
    ROLES = sizeof role_names / sizeof *role_names,
    POLICIES = sizeof policy_names / sizeof *policy_names
};

const char *ls_missing_policy_name(LsMissingPolicy policy)
{
    return policy_names[policy];
}

// ---- Writing ----

// NULL when memory is out.
static json_t *texts_json(const LsTextList *list)
{
    json_t *array = json_array();
    for (size_t i = 0; array && i < list->count; i++) {
        if (json_array_append_new(array, json_string(list->text[i])) != 0) {
            json_decref(array);
            array = NULL;
        }
    }
    return array;
}

// Adds what the role needs; the first failure is remembered by the return value.
static int add_learnt(const LsTransformColumn *column, json_t *object)
{
    int failed = json_object_set_new(object, "first_feature", json_integer((json_int_t)column->first)) |
                 json_object_set_new(object, "features", json_integer((json_int_t)column->features));
    if (column->role == LS_ROLE_NUMERIC)
        return failed | json_object_set_new(object, "mean", json_real(column->mean)) |
               json_object_set_new(object, "deviation", json_real(column->deviation)) |
               json_object_set_new(object, "fill", json_real(column->mean)) |
               json_object_set_new(object, "minimum", json_real(column->minimum)) |
               json_object_set_new(object, "maximum", json_real(column->maximum));
    return failed | json_object_set_new(object, "categories", texts_json(&column->categories)) |
           json_object_set_new(object, "missing_category", json_boolean(column->missing_category)) |
           json_object_set_new(object, "unseen", json_integer((json_int_t)column->unseen));
}

static json_t *column_json(const LsTransformColumn *column)
{
    json_t *object = json_pack("{s:s, s:s, s:I}", "name", column->name, "role", role_names[column->role],
        "missing", (json_int_t)column->missing);
    bool learnt = column->role == LS_ROLE_NUMERIC || column->role == LS_ROLE_CATEGORICAL;
    if (object && learnt && add_learnt(column, object) != 0) {
        json_decref(object);
        return NULL;
    }
    return object;
}

json_t *ls_transform_json(const LsTransform *transform)
{
    json_t *columns = json_array();
    int failed = columns == NULL;
    for (size_t c = 0; c < transform->columns && !failed; c++)
        failed = json_array_append_new(columns, column_json(&transform->column[c]));
    char delimiter[2] = {transform->format.delimiter, '\0'};
    json_t *object = json_pack("{s:s, s:b, s:{s:s, s:o}}", "delimiter", delimiter, "header",
        transform->format.header, "missing", "policy", policy_names[transform->missing], "texts",
        texts_json(&transform->missing_texts));
    failed = failed || object == NULL || json_object_set(object, "columns", columns) != 0;
    if (!failed && !transform->regression)
        failed = json_object_set_new(
            object, "classes", texts_json(&transform->column[transform->label].categories));
    json_decref(columns);
    if (failed) {
        json_decref(object);
        return NULL;
    }
    return object;
}

// ---- Reading ----

static LsStatus damaged(const char *what)
{
    return LS_FAIL(LS_BAD_DATA, "the stored preprocessing is damaged (%s); import the data again", what);
}

// The position of `text` among the names, or `count`.
static size_t find_name(const char *const *names, size_t count, const char *text)
{
    size_t i = 0;
    while (i < count && (!text || strcmp(names[i], text) != 0))
        i++;
    return i;
}

static LsStatus read_texts(const json_t *array, bool sorted, const char *what, LsTextList *out)
{
    if (!json_is_array(array))
        return damaged(what);
    for (size_t i = 0; i < json_array_size(array); i++) {
        const char *text = json_string_value(json_array_get(array, i));
        if (!text || (sorted && i > 0 && strcmp(out->text[i - 1], text) >= 0))
            return damaged(what);
        LS_TRY(ls_text_list_add(out, text));
    }
    return LS_OK;
}

static LsStatus read_learnt(const json_t *object, LsTransformColumn *column)
{
    if (column->role == LS_ROLE_NUMERIC) {
        const json_t *mean = json_object_get(object, "mean"),
                     *deviation = json_object_get(object, "deviation");
        column->mean = json_number_value(mean);
        column->deviation = json_number_value(deviation);
        column->minimum = json_number_value(json_object_get(object, "minimum"));
        column->maximum = json_number_value(json_object_get(object, "maximum"));
        column->features = 1;
        if (!json_is_number(mean) || !json_is_number(deviation) || column->deviation <= 0)
            return damaged("mean and deviation");
        return LS_OK;
    }
    LS_TRY(read_texts(json_object_get(object, "categories"), true, "categories", &column->categories));
    column->missing_category = json_is_true(json_object_get(object, "missing_category"));
    column->features = column->categories.count + column->missing_category;
    return LS_OK;
}

static LsStatus read_column(const json_t *object, LsTransform *transform)
{
    LsTransformColumn *column = &transform->column[transform->columns];
    const char *name = json_string_value(json_object_get(object, "name"));
    size_t role = find_name(role_names, ROLES, json_string_value(json_object_get(object, "role")));
    if (!name || !*name || role == ROLES || role == LS_ROLE_INFER)
        return damaged("columns");
    column->name = strdup(name);
    if (!column->name)
        return LS_FAIL(LS_INTERNAL, "out of memory");
    size_t number = transform->columns++; // from here on ls_transform_free knows the column
    column->role = (LsColumnRole)role;
    if (role == LS_ROLE_LABEL)
        transform->label = number;
    if (role != LS_ROLE_NUMERIC && role != LS_ROLE_CATEGORICAL)
        return LS_OK;
    LS_TRY(read_learnt(object, column));
    column->first = transform->features;
    transform->features += column->features;
    return LS_OK;
}

static LsStatus read_columns(const json_t *schema, LsTransform *transform)
{
    const json_t *columns = json_object_get(schema, "columns");
    size_t count = json_array_size(columns), labels = 0;
    transform->column = calloc(count + 1, sizeof *transform->column);
    if (!transform->column)
        return LS_FAIL(LS_INTERNAL, "out of memory for %zu columns", count);
    for (size_t c = 0; c < count; c++) {
        LS_TRY(read_column(json_array_get(columns, c), transform));
        labels += transform->column[c].role == LS_ROLE_LABEL;
    }
    if (labels != 1)
        return damaged("label column");
    const json_t *shape = json_object_get(schema, "feature_shape");
    if (json_array_size(shape) != 1 ||
        json_integer_value(json_array_get(shape, 0)) != (json_int_t)transform->features)
        return damaged("number of features");
    return LS_OK;
}

static LsStatus read_schema(const json_t *schema, LsTransform *transform)
{
    const char *delimiter = json_string_value(json_object_get(schema, "delimiter"));
    const json_t *missing = json_object_get(schema, "missing"), *classes = json_object_get(schema, "classes");
    size_t policy = find_name(policy_names, POLICIES, json_string_value(json_object_get(missing, "policy")));
    if (!delimiter || strlen(delimiter) != 1 || policy == POLICIES)
        return damaged("delimiter, missing");
    transform->format.delimiter = delimiter[0];
    transform->format.header = json_is_true(json_object_get(schema, "header"));
    transform->missing = (LsMissingPolicy)policy;
    LS_TRY(read_texts(json_object_get(missing, "texts"), false, "missing", &transform->missing_texts));
    LS_TRY(read_columns(schema, transform));
    transform->regression = classes == NULL;
    return classes ? read_texts(classes, true, "classes", &transform->column[transform->label].categories)
                   : LS_OK;
}

LsStatus ls_transform_from_json(const json_t *schema, LsTransform *out)
{
    LsTransform transform = {0};
    LsStatus status = read_schema(schema, &transform);
    if (status != LS_OK) {
        ls_transform_free(&transform);
        return status;
    }
    *out = transform;
    return LS_OK;
}
