// Preprocessing: roles, statistics and categories come from the training rows alone, and survive the schema.
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <float.h>
#include <math.h>

#include "dataset_fixture.h"
#include "transform.h"

// The rows of `text`; the first `train` of them are the training split, the others test.
typedef struct Learnt {
    LsCsvTable table;
    LsTransform transform;
    uint8_t split[64];
    size_t dropped;
} Learnt;

static LsStatus learn(const char *text, size_t train, const LsImportOptions *options, Learnt *out)
{
    *out = (Learnt){0};
    LsCsv *csv;
    LS_TRY(ls_csv_open_memory(text, strlen(text), "memory", ',', &csv));
    LsStatus status = ls_csv_table_add(&out->table, csv, options->header);
    ls_csv_close(csv);
    LS_TRY(status);
    LS_TRY(ls_transform_prepare(options, &out->table, &out->transform));
    LS_TRY(ls_transform_screen(&out->transform, &out->table, &out->dropped));
    for (size_t r = 0; r < out->table.rows; r++)
        out->split[r] = r < train ? LS_TRAIN : LS_TEST;
    if (!options->regression)
        LS_TRY(ls_transform_learn_classes(&out->transform, &out->table));
    return ls_transform_learn(&out->transform, &out->table, out->split);
}

static void release(Learnt *learnt)
{
    ls_transform_free(&learnt->transform);
    ls_csv_table_free(&learnt->table);
}

static LsImportOptions labelled(const char *label)
{
    LsImportOptions options;
    ls_import_defaults(&options);
    options.label = label;
    return options;
}

// Learning must fail with this sentence.
static void refuse(
    const char *text, size_t train, const LsImportOptions *options, LsStatus status, const char *part)
{
    Learnt learnt;
    assert_fails(learn(text, train, options, &learnt), status, part);
    release(&learnt);
}

static LsStatus apply(const Learnt *learnt, size_t row, float *x, size_t *unseen)
{
    size_t source[16];
    for (size_t c = 0; c < learnt->transform.columns; c++)
        source[c] = c;
    return ls_transform_row(&learnt->transform, &learnt->table, source, row, x, unseen);
}

static void test_numbers(void **state)
{
    (void)state;
    static const struct {
        const char *text;
        LsNumber kind;
        double value;
    } cases[] = {{"1", LS_NUMBER_FINITE, 1}, {"-0.5e3", LS_NUMBER_FINITE, -500}, {"+7.", LS_NUMBER_FINITE, 7},
        {".25", LS_NUMBER_FINITE, 0.25}, {"  3\t", LS_NUMBER_FINITE, 3}, {"0.1", LS_NUMBER_FINITE, 0.1},
        {"1e-400", LS_NUMBER_FINITE, 0}, {"1e999", LS_NUMBER_NOT_FINITE, 0}, {"NaN", LS_NUMBER_NOT_FINITE, 0},
        {"-nan", LS_NUMBER_NOT_FINITE, 0}, {"inf", LS_NUMBER_NOT_FINITE, 0},
        {"-Infinity", LS_NUMBER_NOT_FINITE, 0}, {"", LS_NUMBER_NONE, 0}, {" ", LS_NUMBER_NONE, 0},
        {"0x10", LS_NUMBER_NONE, 0}, {"1,5", LS_NUMBER_NONE, 0}, {"1 2", LS_NUMBER_NONE, 0},
        {"12a", LS_NUMBER_NONE, 0}, {"nan(1)", LS_NUMBER_NONE, 0}, {"--1", LS_NUMBER_NONE, 0},
        {"e5", LS_NUMBER_NONE, 0}, {"1_000", LS_NUMBER_NONE, 0}};
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        double value = 0;
        assert_int_equal(ls_number_parse(cases[i].text, &value), cases[i].kind);
        if (cases[i].kind == LS_NUMBER_FINITE)
            assert_true(value == cases[i].value);
    }
}

static void test_roles(void **state)
{
    (void)state;
    static const char text[] = "id,n,c,m,k,y\n"
                               "7,1,red,1,0,a\n"
                               "8,2.5,blue,x,1,b\n"
                               "9,-1e2,red,2,1,a\n"
                               "9,oops,9,3,1,a\n"; // a test row: has no say in roles
    LsImportOptions options = labelled("y");
    options.ignore = "id";
    options.categorical = "k";
    Learnt learnt;
    assert_ok(learn(text, 3, &options, &learnt));
    static const LsColumnRole roles[] = {LS_ROLE_IGNORE, LS_ROLE_NUMERIC, LS_ROLE_CATEGORICAL,
        LS_ROLE_CATEGORICAL, LS_ROLE_CATEGORICAL, LS_ROLE_LABEL};
    static const size_t first[] = {0, 0, 1, 3, 6, 8}, features[] = {0, 1, 2, 3, 2, 0};
    for (size_t c = 0; c < 6; c++) {
        assert_int_equal(learnt.transform.column[c].role, roles[c]);
        assert_int_equal(learnt.transform.column[c].first, first[c]);
        assert_int_equal(learnt.transform.column[c].features, features[c]);
    }
    assert_int_equal(learnt.transform.features, 8);
    float x[8];
    assert_fails(apply(&learnt, 3, x, NULL), LS_BAD_DATA, "memory:5: column \"n\": \"oops\" is not a number");
    release(&learnt);
}

static void test_option_mistakes(void **state)
{
    (void)state;
    static const char text[] = "alpha,beta,\"ga,mma\",delta\n1,2,3,a\n4,5,6,b\n";
    LsImportOptions options = labelled("delta");
    Learnt learnt;
    options.ignore = "alpha,\"ga,mma\""; // names with commas are quoted as in CSV
    assert_ok(learn(text, 2, &options, &learnt));
    assert_int_equal(learnt.transform.column[2].role, LS_ROLE_IGNORE);
    release(&learnt);

    options.ignore = "bata";
    refuse(text, 2, &options, LS_CONFIG,
        "ignore: memory has no column \"bata\"; the nearest of its 4 names: \"beta\", \"delta\", \"alpha\"");
    options.ignore = "alpha,";
    refuse(text, 2, &options, LS_CONFIG, "no column \"\"");
    options.ignore = "\"alpha";
    refuse(text, 2, &options, LS_CONFIG, "ignore:1: the quote of field 1");
    options.ignore = "alpha";
    options.numeric = "beta,alpha";
    refuse(text, 2, &options, LS_CONFIG, "column \"alpha\" has a role already");
    options.numeric = "delta";
    refuse(text, 2, &options, LS_CONFIG, "column \"delta\" has a role already");
    options.numeric = NULL;
    options.ignore = "alpha,beta,\"ga,mma\"";
    refuse(text, 2, &options, LS_BAD_DATA, "no column is left");
    options = labelled(NULL);
    refuse(text, 2, &options, LS_CONFIG, "label");
    options = labelled("delt");
    refuse(text, 2, &options, LS_CONFIG,
        "label: memory has no column \"delt\"; the nearest of its 4 names: \"delta\"");
}

// The test rows are far away and would move every statistic.
static void test_statistics_of_training_rows(void **state)
{
    (void)state;
    static const char text[] = "v,c,k,y\n0.1,p,5,a\n0.2,q,5,b\n0.4,p,5,a\n1e6,z,6,b\n-3,q,5,a\n";
    LsImportOptions options = labelled("y");
    Learnt learnt;
    assert_ok(learn(text, 3, &options, &learnt));
    const LsTransformColumn *v = &learnt.transform.column[0], *c = &learnt.transform.column[1],
                            *k = &learnt.transform.column[2];
    double mean = (0.1 + 0.2 + 0.4) / 3;
    double variance =
        ((0.1 - mean) * (0.1 - mean) + (0.2 - mean) * (0.2 - mean) + (0.4 - mean) * (0.4 - mean)) / 3;
    assert_true(v->mean == mean);
    // The compiler may contract a product and a sum here and not there: a last place of each of three terms.
    assert_true(fabs(v->deviation - sqrt(variance)) <= 4 * DBL_EPSILON * v->deviation);
    assert_true(v->minimum == 0.1 && v->maximum == 0.4);
    assert_int_equal(c->categories.count, 2);
    assert_true(k->mean == 5 && k->deviation == 1); // constant in training

    float x[4];
    size_t unseen[4] = {0};
    assert_ok(apply(&learnt, 0, x, unseen));
    assert_true(x[0] == (float)((0.1 - v->mean) / v->deviation));
    assert_true(x[1] == 1 && x[2] == 0 && x[3] == 0);
    assert_ok(apply(&learnt, 3, x, unseen));
    assert_true(x[0] == (float)((1e6 - v->mean) / v->deviation));
    assert_true(x[1] == 0 && x[2] == 0 && x[3] == 1); // z is unseen; 6 is one off the constant
    assert_int_equal(unseen[1], 1);
    assert_int_equal(unseen[0] + unseen[2] + unseen[3], 0);
    release(&learnt);
}

// Summing 0.1 ten thousand times rounds; a constant column is constant all the same.
static void test_constant_column(void **state)
{
    (void)state;
    char text[1024] = "v,y\n";
    for (int r = 0; r < 60; r++)
        strcat(text, r % 2 ? "0.1,a\n" : "0.1,b\n");
    LsImportOptions options = labelled("y");
    Learnt learnt;
    assert_ok(learn(text, 60, &options, &learnt));
    assert_true(learnt.transform.column[0].mean == 0.1 && learnt.transform.column[0].deviation == 1);
    float x;
    assert_ok(apply(&learnt, 0, &x, NULL));
    assert_true(x == 0);
    release(&learnt);
}

static void test_not_finite(void **state)
{
    (void)state;
    LsImportOptions options = labelled("y");
    refuse("v,y\n1,a\nNaN,b\n", 2, &options, LS_BAD_DATA,
        "memory:3: column \"v\": \"NaN\" is not a finite number");
    refuse("v,y\n1,a\n-inf,b\n", 2, &options, LS_BAD_DATA, "\"-inf\" is not a finite number");
    refuse("v,y\n1,a\n1e999,b\n", 2, &options, LS_BAD_DATA, "\"1e999\" is not a finite number");
    refuse("v,y\n1e300,a\n-1e300,b\n", 2, &options, LS_BAD_DATA, "too far for its deviation");
    options.numeric = "v";
    refuse("v,y\n1,a\nred,b\n", 2, &options, LS_BAD_DATA, "memory:3: column \"v\": \"red\" is not a number");
    Learnt learnt;
    float x;
    assert_ok(learn("v,y\n1,a\n2,b\n1e60,a\nnan,b\n", 2, &options, &learnt));
    assert_fails(apply(&learnt, 2, &x, NULL), LS_BAD_DATA, "memory:4: column \"v\": \"1e60\" is too far");
    assert_fails(apply(&learnt, 3, &x, NULL), LS_BAD_DATA, "memory:5: column \"v\": \"nan\" is not a finite");
    release(&learnt);
    options.missing = LS_MISSING_FILL;
    options.missing_values = "NaN";
    assert_ok(learn("v,y\n1,a\nNaN,b\n3,b\n", 3, &options, &learnt));
    assert_int_equal(learnt.transform.column[0].missing, 1);
    release(&learnt);
}

static const char holes[] = "v,c,skip,y\n1,p,,a\n,q,x,b\n3, ,x,a\n5,NA,x,b\n?,r,x,a\n";

static void test_missing_error(void **state)
{
    (void)state;
    LsImportOptions options = labelled("y");
    options.ignore = "skip";
    options.missing_values = "NA,?";
    refuse(holes, 4, &options, LS_BAD_DATA, "memory:3: column \"v\": the value is missing; choose a policy");
    refuse("v,y\n1,\n2,b\n", 2, &options, LS_CONFIG, "no column \"skip\"");
    options.ignore = NULL;
    refuse("v,y\n1,\n2,b\n", 2, &options, LS_BAD_DATA, "memory:2: column \"y\": the value is missing");
}

static void test_missing_drop(void **state)
{
    (void)state;
    LsImportOptions options = labelled("y");
    options.ignore = "skip";
    options.missing_values = "NA,?";
    options.missing = LS_MISSING_DROP;
    Learnt learnt;
    // Of five rows one is complete; a hole in an ignored column is none.
    refuse(holes, 1, &options, LS_BAD_DATA, "every row has the label \"a\"");
    options.missing_values = "?";
    assert_ok(learn(holes, 2, &options, &learnt));
    assert_int_equal(learnt.dropped, 3);
    assert_int_equal(learnt.table.rows, 2);
    assert_int_equal(learnt.table.row[1].line, 5);
    assert_string_equal(ls_csv_cell(&learnt.table, 1, 1), "NA"); // a category like any other
    assert_int_equal(learnt.transform.column[0].missing, 2);
    assert_int_equal(learnt.transform.column[1].missing, 1);
    assert_int_equal(learnt.transform.column[2].missing, 0);
    release(&learnt);
    refuse("v,skip,y\n1,,\n,,b\n", 1, &options, LS_BAD_DATA, "every row has a missing value");
}

static void test_missing_fill(void **state)
{
    (void)state;
    LsImportOptions options = labelled("y");
    options.ignore = "skip";
    options.missing_values = "NA,?";
    options.missing = LS_MISSING_FILL;
    Learnt learnt;
    float x[4];
    size_t unseen[4] = {0};
    assert_ok(learn(holes, 4, &options, &learnt));
    assert_int_equal(learnt.dropped, 0);
    assert_int_equal(learnt.transform.features, 4); // v, p, q, missing
    assert_true(learnt.transform.column[0].mean == 3);
    assert_ok(apply(&learnt, 1, x, unseen));
    assert_true(x[0] == 0 && x[1] == 0 && x[2] == 1 && x[3] == 0);
    assert_ok(apply(&learnt, 2, x, unseen));
    assert_true(x[0] == 0 && x[1] == 0 && x[2] == 0 && x[3] == 1);
    assert_int_equal(unseen[1], 0);
    assert_ok(apply(&learnt, 4, x, unseen));
    assert_true(x[0] == 0 && x[1] == 0 && x[2] == 0 && x[3] == 0);
    assert_int_equal(unseen[1], 1);
    release(&learnt);
    // Training rows without holes teach no category of missing values.
    assert_ok(learn("v,c,skip,y\n1,p,,a\n2,q,,b\n,,,a\n", 2, &options, &learnt));
    assert_int_equal(learnt.transform.features, 3);
    assert_ok(apply(&learnt, 2, x, NULL));
    assert_true(x[1] == 0 && x[2] == 0);
    release(&learnt);
    refuse("v,skip,y\n1,,\n2,,b\n", 2, &options, LS_BAD_DATA, "memory:2: column \"y\": the label is missing");
    refuse(
        "v,skip,y\n,,a\n,,b\n3,,b\n", 2, &options, LS_BAD_DATA, "column \"v\" has no value in the training");
}

static void test_categories(void **state)
{
    (void)state;
    LsImportOptions options = labelled("y");
    options.categorical = "c";
    Learnt learnt;
    assert_ok(learn("c,y\n10,a\n9,b\n\"b,c\",a\nA,a\na,b\n9,b\n", 6, &options, &learnt));
    const LsTextList *categories = &learnt.transform.column[0].categories;
    static const char *const sorted[] = {"10", "9", "A", "a", "b,c"}; // by bytes
    assert_int_equal(categories->count, 5);
    for (size_t i = 0; i < 5; i++) {
        assert_string_equal(categories->text[i], sorted[i]);
        assert_int_equal(ls_text_list_find(categories, sorted[i]), i);
    }
    assert_int_equal(ls_text_list_find(categories, "B"), 5);
    release(&learnt);
    refuse("c,y\n\xFF,a\n9,b\n", 2, &options, LS_BAD_DATA, "memory:2: column \"c\": the text is not UTF-8");
    refuse("c,y\nx,\xFF\n9,b\n", 2, &options, LS_BAD_DATA, "memory:2: column \"y\": the text is not UTF-8");
}

static void test_too_many_categories(void **state)
{
    (void)state;
    enum { ROWS = LS_CATEGORIES_MAX + 1 };
    LsCsvTable table = {0};
    LsTransform transform;
    LsImportOptions options = labelled("y");
    char *text = malloc(ROWS * 16 + 16);
    uint8_t *split = calloc(ROWS, 1); // LS_TRAIN
    size_t size = (size_t)sprintf(text, "c,y\n");
    for (int r = 0; r < ROWS; r++)
        size += (size_t)sprintf(text + size, "n%d,%d\n", r, r % 2);
    LsCsv *csv;
    assert_ok(ls_csv_open_memory(text, size, "memory", ',', &csv));
    assert_ok(ls_csv_table_add(&table, csv, true));
    ls_csv_close(csv);
    assert_ok(ls_transform_prepare(&options, &table, &transform));
    assert_fails(ls_transform_learn(&transform, &table, split), LS_BAD_DATA,
        "column \"c\" has more than 1024 different texts; ignore it");
    ls_transform_free(&transform);
    split[5] = LS_TEST;
    assert_ok(ls_transform_prepare(&options, &table, &transform));
    assert_ok(ls_transform_learn(&transform, &table, split));
    assert_int_equal(transform.features, LS_CATEGORIES_MAX);
    ls_transform_free(&transform);
    ls_csv_table_free(&table);
    free(split);
    free(text);
}

static void test_labels(void **state)
{
    (void)state;
    LsImportOptions options = labelled("y");
    Learnt learnt;
    int32_t class;
    float target;
    assert_ok(learn("v,y\n1,no\n2,yes\n3,no\n4,maybe\n", 2, &options, &learnt));
    static const int32_t classes[] = {1, 2, 1, 0}; // maybe, no, yes: of all rows
    for (size_t r = 0; r < 4; r++) {
        assert_ok(ls_transform_class(&learnt.transform, &learnt.table, 1, r, &class));
        assert_int_equal(class, classes[r]);
    }
    assert_fails(ls_transform_class(&learnt.transform, &learnt.table, 0, 2, &class), LS_BAD_DATA,
        "memory:4: column \"v\": \"3\" is none of the 3 classes");
    release(&learnt);
    refuse("v,y\n1,no\n2,no\n", 2, &options, LS_BAD_DATA, "every row has the label \"no\"");

    options.regression = true;
    assert_ok(learn("v,y\n1,0.1\n2,nan\n3,1e39\n4,x\n", 2, &options, &learnt));
    assert_ok(ls_transform_target(&learnt.table, 1, 0, &target));
    assert_true(target == 0.1f); // raw, not standardised
    for (size_t r = 1; r < 4; r++)
        assert_fails(
            ls_transform_target(&learnt.table, 1, r, &target), LS_BAD_DATA, "is not a finite number");
    release(&learnt);
}

static json_t *parsed_again(const json_t *value)
{
    char *text = ls_json_canonical(value);
    json_t *parsed = json_loads(text, 0, NULL);
    free(text);
    return parsed;
}

// Text and back: the same bits for every row.
static void test_schema_round_trip(void **state)
{
    (void)state;
    static const char text[] = "v,c,w,y\n0.1,p,1e-100,a\n0.7,q,3e-100,b\n0.2,,2e-100,a\n,r,7e-101,b\n";
    LsImportOptions options = labelled("y");
    options.missing = LS_MISSING_FILL;
    options.missing_values = "?,\"a,b\"";
    Learnt learnt, back = {0};
    assert_ok(learn(text, 3, &options, &learnt));
    json_t *made = ls_transform_json(&learnt.transform);
    assert_non_null(made);
    json_object_set_new(made, "feature_shape", json_pack("[I]", (json_int_t)learnt.transform.features));
    json_t *schema = parsed_again(made);
    assert_ok(ls_transform_from_json(schema, &back.transform));
    back.table = learnt.table;
    assert_int_equal(back.transform.features, 5);
    assert_int_equal(back.transform.label, 3);
    assert_string_equal(back.transform.missing_texts.text[1], "a,b");
    for (size_t r = 0; r < 4; r++) {
        float expected[5], x[5];
        assert_ok(apply(&learnt, r, expected, NULL));
        assert_ok(apply(&back, r, x, NULL));
        assert_memory_equal(x, expected, sizeof x);
    }
    ls_transform_free(&back.transform);

    static const char *const needed[] = {"columns", "delimiter", "missing", "feature_shape"};
    for (size_t i = 0; i < sizeof needed / sizeof *needed; i++) {
        json_t *damaged = json_deep_copy(schema);
        json_object_del(damaged, needed[i]);
        assert_fails(
            ls_transform_from_json(damaged, &back.transform), LS_BAD_DATA, "preprocessing is damaged");
        json_decref(damaged);
    }
    static const char *const columns[] = {"null", "[]", "[7]", "[{}]", "[{\"name\":\"v\",\"role\":\"\"}]",
        "[{\"name\":\"v\",\"role\":\"ignore\"}]", "[{\"name\":\"v\",\"role\":\"numeric\",\"mean\":0}]",
        "[{\"name\":\"v\",\"role\":\"numeric\",\"mean\":0,\"deviation\":0}]",
        "[{\"name\":\"v\",\"role\":\"categorical\",\"categories\":[\"b\",\"a\"]}]",
        "[{\"name\":\"v\",\"role\":\"label\"},{\"name\":\"w\",\"role\":\"label\"}]",
        "[{\"name\":\"v\",\"role\":\"label\"}]"};
    for (size_t i = 0; i < sizeof columns / sizeof *columns; i++) {
        json_object_set_new(schema, "columns", json_loads(columns[i], JSON_DECODE_ANY, NULL));
        assert_fails(
            ls_transform_from_json(schema, &back.transform), LS_BAD_DATA, "preprocessing is damaged");
    }
    json_decref(schema);
    json_decref(made);
    release(&learnt);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_numbers),
        cmocka_unit_test(test_roles),
        cmocka_unit_test(test_option_mistakes),
        cmocka_unit_test(test_statistics_of_training_rows),
        cmocka_unit_test(test_constant_column),
        cmocka_unit_test(test_not_finite),
        cmocka_unit_test(test_missing_error),
        cmocka_unit_test(test_missing_drop),
        cmocka_unit_test(test_missing_fill),
        cmocka_unit_test(test_categories),
        cmocka_unit_test(test_too_many_categories),
        cmocka_unit_test(test_labels),
        cmocka_unit_test(test_schema_round_trip),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
