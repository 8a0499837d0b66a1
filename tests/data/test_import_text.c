// Text and token shards to data sets: documents, splits, what is unchanged, and bad input.
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "data/import.h"
#include "data/tokenizer.h"
#include "dataset_fixture.h"

enum { END = 256 };

static const char *put(const char *name, const char *text)
{
    const char *path = in_directory(name);
    assert_ok(ls_file_replace(path, text, strlen(text)));
    return path;
}

static LsImportOptions options_for(const char *output)
{
    LsImportOptions options;
    ls_import_defaults(&options);
    options.output = in_directory(output);
    return options;
}

// All tokens of a split; the caller frees.
static int32_t *read_split(const char *path, LsSplit split, size_t *count)
{
    LsDataset *dataset = NULL;
    LsReader *reader = NULL;
    assert_ok(ls_dataset_open(path, &dataset));
    assert_ok(ls_dataset_verify(dataset));
    *count = ls_dataset_info(dataset)->token_counts[split];
    int32_t *tokens = calloc(*count + 1, sizeof *tokens);
    if (*count > 0) {
        assert_ok(ls_dataset_set_window(dataset, 1));
        assert_ok(ls_reader_create(dataset, split, &reader));
        for (uint64_t i = 0; i + 1 < *count; i++)
            assert_ok(ls_reader_read(reader, &i, 1, tokens + i, tokens + i + 1));
        ls_reader_destroy(reader);
    }
    ls_dataset_close(dataset);
    return tokens;
}

// Compares a split of bytes with text in which '|' stands for <|endoftext|>.
static void assert_split(const char *path, LsSplit split, const char *expected)
{
    size_t count;
    int32_t *tokens = read_split(path, split, &count);
    char *text = calloc(count + 1, 1);
    for (size_t i = 0; i < count; i++)
        text[i] = tokens[i] == END ? '|' : (char)tokens[i];
    assert_string_equal(text, expected);
    free(text);
    free(tokens);
}

static void import_text(const char *const *inputs, size_t count, const LsImportOptions *options)
{
    bool unchanged = true;
    assert_ok(ls_import_text(inputs, count, options, &unchanged));
    assert_false(unchanged);
}

static void test_documents(void **state)
{
    (void)state;
    LsImportOptions options = options_for("out.h5");
    const char *inputs[] = {
        put("b.txt",
            "<|endoftext|>\none\n<|endoftext|>\r\n<|endoftext|>\ntwo <|endoftext|> lines\n<|endoftext|>"),
        put("a.txt", "three")};
    import_text(inputs, 2, &options);
    assert_split(options.output, LS_TRAIN, "one\n|two <|endoftext|> lines\n|three|");
    options.separator = "";
    options.output = in_directory("empty-lines.h5");
    inputs[0] = put("c.txt", "\n\none\nstill\n\n\n\ntwo\n\n");
    import_text(inputs, 2, &options);
    assert_split(options.output, LS_TRAIN, "one\nstill\n|two\n|three|");
}

static void test_directories(void **state)
{
    (void)state;
    LsImportOptions options = options_for("out2.h5");
    assert_ok(ls_directory_create(in_directory("tree/b")));
    assert_ok(ls_directory_create(in_directory("tree/empty")));
    put("tree/z.txt", "last");
    put("tree/b/x.txt", "second");
    put("tree/a.txt", "first");
    put("tree/.hidden", "hidden");
    import_text((const char *[]){in_directory("tree")}, 1, &options);
    assert_split(options.output, LS_TRAIN, "first|second|last|");
    bool unchanged;
    assert_fails(ls_import_text((const char *[]){in_directory("tree/empty")}, 1, &options, &unchanged),
        LS_BAD_DATA, "no files");
}

static void test_splits(void **state)
{
    (void)state;
    LsImportOptions options = options_for("split.h5");
    const char *input = put("split.txt", "0123456\n<|endoftext|>\nabcdefgh\n<|endoftext|>\n");
    options.validation = 0.25; // of 19 tokens
    import_text(&input, 1, &options);
    assert_split(options.output, LS_TRAIN, "0123456\n|abcde");
    assert_split(options.output, LS_VALIDATION, "fgh\n|");
    options.by_document = true;
    options.validation = 0.5;
    int first = 0;
    for (options.seed = 0; options.seed < 8; options.seed++) { // either document, by the seed
        import_text(&input, 1, &options);
        size_t count;
        free(read_split(options.output, LS_VALIDATION, &count));
        assert_true(count == 9 || count == 10);
        first += count == 9;
        assert_split(options.output, LS_TRAIN, count == 9 ? "abcdefgh\n|" : "0123456\n|");
    }
    assert_true(first > 0 && first < 8);
}

// Text larger than what is encoded at once gives the tokens of the whole, with and without white space and
// newlines.
static void test_parts(void **state)
{
    (void)state;
    enum { BYTES = 11 << 20 };
    static const char *const words[] = {"word", " ", "\n", "  ", "12", "'s", ",", "\xc3\xa9", "\xe3\x80\x80"};
    char *text = malloc(BYTES + 16);
    size_t size = 0;
    for (uint32_t i = 7; size < BYTES; i = i * 1664525u + 1013904223u) {
        bool dense =
            size > 2 << 20 && size < 8 << 20; // a stretch without white space that is longer than a part
        size += (size_t)sprintf(text + size, "%s", words[dense ? 4 + (i >> 16) % 4 : (i >> 16) % 9]);
    }
    const char *input = put("long.txt", text), *tokenizer_path = in_directory("t.json");
    LsTokenizer *tokenizer = NULL, *stored = NULL;
    assert_ok(ls_tokenizer_train(&input, 1, 300, &tokenizer));
    assert_ok(ls_tokenizer_write(tokenizer, "lockstep", tokenizer_path));
    LsImportOptions options = options_for("long.h5");
    options.tokenizer = tokenizer_path;
    import_text(&input, 1, &options);
    uint32_t *expected = NULL;
    size_t expected_count = 0, count;
    assert_ok(ls_tokenizer_encode(tokenizer, text, size, &expected, &expected_count));
    int32_t *tokens = read_split(options.output, LS_TRAIN, &count);
    assert_int_equal(count, expected_count + 1);
    assert_memory_equal(tokens, expected, expected_count * sizeof *expected);
    assert_int_equal(tokens[expected_count], ls_tokenizer_end_of_text(tokenizer));
    LsDataset *dataset = NULL;
    assert_ok(ls_dataset_open(options.output, &dataset));
    assert_ok(ls_dataset_tokenizer(dataset, &stored));
    assert_int_equal(ls_tokenizer_vocabulary(stored), ls_tokenizer_vocabulary(tokenizer));
    assert_true(ls_dataset_info(dataset)->bytes_per_token[LS_TRAIN] == (double)size / (double)count);
    ls_dataset_close(dataset);
    ls_tokenizer_free(stored);
    ls_tokenizer_free(tokenizer);
    free(tokens);
    free(expected);
    free(text);
}

static void test_unchanged(void **state)
{
    (void)state;
    bool unchanged;
    LsImportOptions options = options_for("again.h5");
    const char *input = put("again.txt", "some text to be imported twice");
    import_text(&input, 1, &options);
    assert_ok(ls_import_text(&input, 1, &options, &unchanged));
    assert_true(unchanged);
    options.force = true;
    import_text(&input, 1, &options);
    options.force = false;
    options.validation = 0.5;
    import_text(&input, 1, &options);
    options.separator = "x";
    import_text(&input, 1, &options);
    options.compress = true;
    import_text(&input, 1, &options);
    assert_ok(ls_import_text(&input, 1, &options, &unchanged));
    assert_true(unchanged);
    const char *leftover = put("again.h5.tmp-0123456789abcdef", "what a killed import left");
    put("again.txt", "some text to be imported again");
    import_text(&input, 1, &options);
    assert_false(ls_file_exists(leftover));
}

static void test_bad_text(void **state)
{
    (void)state;
    bool unchanged;
    LsImportOptions options = options_for("bad.h5");
    size_t before = files_in_directory();
    const char *input = put("bad.txt", "");
    assert_fails(ls_import_text(&input, 1, &options, &unchanged), LS_BAD_DATA, "bad.txt: the file is empty");
    put("bad.txt", "<|endoftext|>\nok\n<|endoftext|>\n\xc3(");
    assert_fails(ls_import_text(&input, 1, &options, &unchanged), LS_BAD_DATA, "bad.txt: offset 31:");
    put("bad.txt", "<|endoftext|>\n");
    assert_fails(ls_import_text(&input, 1, &options, &unchanged), LS_BAD_DATA, "nothing but separators");
    put("bad.txt", "a");
    options.validation = 0.5;
    assert_fails(ls_import_text(&input, 1, &options, &unchanged), LS_BAD_DATA, "too few");
    put("bad.txt", "a long document, but only one");
    options.by_document = true;
    assert_fails(ls_import_text(&input, 1, &options, &unchanged), LS_BAD_DATA, "too few documents");
    options.tokenizer = in_directory("nothing.json");
    assert_fails(ls_import_text(&input, 1, &options, &unchanged), LS_NO_INPUT, "nothing.json");
    input = in_directory("missing.txt");
    assert_fails(ls_import_text(&input, 1, &options, &unchanged), LS_NO_INPUT, "missing.txt");
    input = options.output = put("bad.txt", "x");
    assert_fails(ls_import_text(&input, 1, &options, &unchanged), LS_USAGE, "also an input");
    assert_int_equal(files_in_directory(), before + 1); // bad.txt, and nothing of what failed
}

// ---- Shards ----

static const char *put_shard(
    const char *name, int32_t magic, int32_t version, int32_t count, uint16_t first, size_t there)
{
    const char *path = in_directory(name);
    int32_t header[256] = {magic, version, count};
    FILE *file = fopen(path, "wb");
    fwrite(header, 1, sizeof header, file);
    for (size_t i = 0; i < there; i++)
        fwrite(&(uint16_t){(uint16_t)(first + i)}, 1, 2, file);
    fclose(file);
    return path;
}

static void assert_range(const char *path, LsSplit split, int32_t first, size_t expected)
{
    size_t count;
    int32_t *tokens = read_split(path, split, &count);
    assert_int_equal(count, expected);
    for (size_t i = 0; i < count; i++)
        assert_int_equal(tokens[i], first + (int32_t)i);
    free(tokens);
}

static void test_shards(void **state)
{
    (void)state;
    bool unchanged = true;
    LsImportOptions options = options_for("shards.h5");
    const char *inputs[] = {
        put_shard("a.bin", 20240520, 1, 10000, 0, 10000), put_shard("b.bin", 20240520, 1, 7, 10000, 7)};
    const char *validation[] = {put_shard("v.bin", 20240520, 1, 100, 20000, 100)};
    options.validation = 0.1; // of 10,007 tokens
    assert_ok(ls_import_tokens(inputs, 2, &options, &unchanged));
    assert_false(unchanged);
    assert_range(options.output, LS_TRAIN, 0, 9006);
    assert_range(options.output, LS_VALIDATION, 9006, 1001);
    options.validation_inputs = validation;
    options.validation_count = 1;
    assert_fails(ls_import_tokens(inputs, 2, &options, &unchanged), LS_USAGE, "not both");
    options.validation = 0.0;
    assert_ok(ls_import_tokens(inputs, 2, &options, &unchanged));
    assert_false(unchanged);
    assert_range(options.output, LS_TRAIN, 0, 10007);
    assert_range(options.output, LS_VALIDATION, 20000, 100);
    assert_ok(ls_import_tokens(inputs, 2, &options, &unchanged));
    assert_true(unchanged);
    options.vocabulary = 20099;
    assert_fails(
        ls_import_tokens(inputs, 2, &options, &unchanged), LS_BAD_DATA, "v.bin: offset 1222: token 20099");
    assert_range(options.output, LS_TRAIN, 0, 10007); // the old file is there
}

static void test_bad_shards(void **state)
{
    (void)state;
    bool unchanged;
    LsImportOptions options = options_for("bad-shards.h5");
    const struct {
        const char *path, *part;
    } cases[] = {
        {put_shard("magic.bin", 20240521, 1, 4, 0, 4), "magic.bin: offset 0"},
        {put_shard("version.bin", 20240520, 2, 4, 0, 4), "version.bin: offset 4"},
        {put_shard("more.bin", 20240520, 1, 5, 0, 4), "more.bin: offset 8"},
        {put_shard("less.bin", 20240520, 1, 3, 0, 4), "less.bin: offset 8"},
        {put_shard("negative.bin", 20240520, 1, -1, 0, 4), "negative.bin: offset 8"},
        {put_shard("none.bin", 20240520, 1, 0, 0, 0), "no tokens"},
        {put_shard("single.bin", 20240520, 1, 1, 0, 1), "too few"},
        {put_shard("large.bin", 20240520, 1, 2, 50256, 2), "large.bin: offset 1026: token 50257"},
        {put("short.bin", "short"), "short.bin: 5 bytes"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++)
        assert_fails(ls_import_tokens(&cases[i].path, 1, &options, &unchanged), LS_BAD_DATA, cases[i].part);
    const char *missing = in_directory("no.bin");
    assert_fails(ls_import_tokens(&missing, 1, &options, &unchanged), LS_NO_INPUT, "no.bin");
    assert_false(ls_file_exists(options.output));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_documents),
        cmocka_unit_test(test_directories),
        cmocka_unit_test(test_splits),
        cmocka_unit_test(test_parts),
        cmocka_unit_test(test_unchanged),
        cmocka_unit_test(test_bad_text),
        cmocka_unit_test(test_shards),
        cmocka_unit_test(test_bad_shards),
    };
    return cmocka_run_group_tests(tests, make_directory, remove_directory);
}
