// Tokenizers: training by hand, every text there and back, files of four formats, and damaged ones.
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <pthread.h>

#include "dataset_fixture.h"
#include "tokenizer_table.h"

static const char *write_file(const char *name, const void *data, size_t size)
{
    const char *path = in_directory(name);
    assert_ok(ls_file_replace(path, data, size));
    return path;
}

static LsTokenizer *train_on(const char *text, size_t vocabulary)
{
    LsTokenizer *tokenizer = NULL;
    const char *path = write_file("text", text, strlen(text));
    assert_ok(ls_tokenizer_train(&path, 1, vocabulary, &tokenizer));
    return tokenizer;
}

static void assert_tokens(
    const LsTokenizer *tokenizer, const char *text, const uint32_t *expected, size_t count)
{
    uint32_t *tokens = NULL;
    size_t made = 0;
    assert_ok(ls_tokenizer_encode(tokenizer, text, strlen(text), &tokens, &made));
    assert_int_equal(made, count);
    assert_memory_equal(tokens, expected, count * sizeof *expected);
    free(tokens);
}

static void assert_round_trip(const LsTokenizer *tokenizer, const char *text, size_t bytes)
{
    uint32_t *tokens = NULL;
    size_t count = 0, place = 0;
    assert_ok(ls_tokenizer_encode(tokenizer, text, bytes, &tokens, &count));
    for (size_t i = 0; i < count; i++) {
        const char *part;
        size_t length;
        assert_ok(ls_tokenizer_decode(tokenizer, tokens[i], &part, &length));
        assert_true(length > 0 && length <= bytes - place && memcmp(text + place, part, length) == 0);
        place += length;
    }
    assert_int_equal(place, bytes);
    free(tokens);
}

// "aab" three times and "ab" twice, each behind a line end of its own, which is a piece: (a, b) comes 5
// times, then (a, ab) 3 times; no other pair comes twice within a piece.
static void test_training_by_hand(void **state)
{
    (void)state;
    LsTokenizer *tokenizer = train_on("aab\naab\naab\nab\nab", 300);
    assert_int_equal(ls_tokenizer_vocabulary(tokenizer), 259);
    assert_int_equal(ls_tokenizer_end_of_text(tokenizer), 258);
    assert_int_equal(tokenizer->merge_count, 2);
    assert_true(tokenizer->merges[0] == ((uint64_t)'a' << 32 | 'b'));
    assert_true(tokenizer->merges[1] == ((uint64_t)'a' << 32 | 256));
    assert_tokens(tokenizer, "aab", (uint32_t[]){257}, 1);
    assert_tokens(tokenizer, "aaab b", (uint32_t[]){'a', 257, ' ', 'b'}, 4);
    assert_tokens(tokenizer, "<|endoftext|>",
        (uint32_t[]){'<', '|', 'e', 'n', 'd', 'o', 'f', 't', 'e', 'x', 't', '|', '>'}, 13);
    ls_tokenizer_free(tokenizer);
}

// (b, c) and (a, b) both come twice: the lower ids win.
static void test_ties(void **state)
{
    (void)state;
    LsTokenizer *tokenizer = train_on("abc\nabc\n", 258);
    assert_int_equal(tokenizer->merge_count, 1);
    assert_true(tokenizer->merges[0] == ((uint64_t)'a' << 32 | 'b'));
    ls_tokenizer_free(tokenizer);
}

// A text that is larger than a part that is read at once, with a separator line that is not learnt.
static void test_training_is_deterministic(void **state)
{
    (void)state;
    enum { ROOM = 6 << 20 };
    static char text[ROOM + 100];
    size_t size = 0;
    for (unsigned i = 1; size < ROOM; i = i * 1103515245u + 12345u)
        size += (size_t)sprintf(text + size, (i >> 20) % 50 == 0 ? "\n<|endoftext|>\n" : "%x ", i >> 16);
    LsTokenizer *first = train_on(text, 1000), *second = train_on(text, 1000);
    assert_int_equal(ls_tokenizer_vocabulary(first), 1000);
    json_t *a = ls_tokenizer_json(first), *b = ls_tokenizer_json(second);
    assert_true(json_equal(a, b));
    assert_int_equal(ls_tokenizer_find(first, "<|", 2), LS_NO_TOKEN);
    assert_round_trip(first, text, size);
    json_decref(a);
    json_decref(b);
    ls_tokenizer_free(first);
    ls_tokenizer_free(second);
}

static void check_hard_text(const LsTokenizer *tokenizer)
{
    static const char hard[] =
        "\0 \t\r\n  x \xc2\x85 \xc2\xa0\xe1\xa0\x8e \xe2\x80\x83\xe3\x80\x80 don't DON'T 's 'll"
        "\xf0\x9f\x91\xa9\xe2\x80\x8d\xf0\x9f\x92\xbb e\xcc\x81 \xef\xbf\xbf \xf4\x8f\xbf\xbf"
        "\xd9\xa3\xd9\xa4 \xe4\xb8\xad\xe6\x96\x87   ";
    assert_round_trip(tokenizer, hard, sizeof hard - 1);
    assert_round_trip(tokenizer, "", 0);
    for (int i = 0; i < 256; i++) { // bytes that are no UTF-8 alone have tokens nevertheless
        const char *bytes;
        size_t count;
        assert_ok(ls_tokenizer_decode(tokenizer, tokenizer->byte_token[i], &bytes, &count));
        assert_true(count == 1 && (uint8_t)*bytes == i);
    }
    const char *bytes;
    size_t count = 1, vocabulary = ls_tokenizer_vocabulary(tokenizer);
    assert_ok(ls_tokenizer_decode(tokenizer, ls_tokenizer_end_of_text(tokenizer), &bytes, &count));
    assert_int_equal(count, 0);
    assert_fails(ls_tokenizer_decode(tokenizer, (uint32_t)vocabulary, &bytes, &count), LS_BAD_DATA, "beyond");
}

static void test_round_trips(void **state)
{
    (void)state;
    LsTokenizer *bytes = NULL, *trained = train_on("the theme of the thesis, don't e\xcc\x81 e\xcc\x81", 280);
    assert_ok(ls_tokenizer_bytes(&bytes));
    assert_int_equal(ls_tokenizer_vocabulary(bytes), 257);
    assert_int_equal(ls_tokenizer_end_of_text(bytes), 256);
    check_hard_text(bytes);
    check_hard_text(trained);
    ls_tokenizer_free(bytes);
    ls_tokenizer_free(trained);
}

// One piece of a million letters: a method that is quadratic in it would run for hours.
static void test_long_piece(void **state)
{
    (void)state;
    enum { BYTES = 1 << 20 };
    LsTokenizer *tokenizer = train_on("aaaaaaaa aaaaaaaa", 270);
    char *text = malloc(BYTES);
    memset(text, 'a', BYTES);
    assert_round_trip(tokenizer, text, BYTES);
    free(text);
    ls_tokenizer_free(tokenizer);
}

static void test_invalid_utf8(void **state)
{
    (void)state;
    static const char *const bad[] = {"12345678\x80", "12345678\xc0\xaf", "12345678\xe0\x9f\xbf",
        "12345678\xed\xa0\x80", "12345678\xf4\x90\x80\x80", "12345678\xf5\x80\x80\x80", "12345678\xe2\x82",
        "12345678\xff"};
    LsTokenizer *tokenizer = NULL;
    uint32_t *tokens = NULL;
    size_t count = 0;
    assert_ok(ls_tokenizer_bytes(&tokenizer));
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++)
        assert_fails(ls_tokenizer_encode(tokenizer, bad[i], strlen(bad[i]), &tokens, &count), LS_BAD_DATA,
            "offset 8:");
    ls_tokenizer_free(tokenizer);
    const char *path = write_file("bad", "ok\nok\xff", 6), *empty = write_file("empty", "", 0);
    assert_fails(ls_tokenizer_train(&path, 1, 300, &tokenizer), LS_BAD_DATA, "bad: offset 5:");
    assert_fails(ls_tokenizer_train(&empty, 1, 300, &tokenizer), LS_BAD_DATA, "empty");
    path = in_directory("missing");
    assert_fails(ls_tokenizer_train(&path, 1, 300, &tokenizer), LS_NO_INPUT, "missing");
}

// ---- Files ----

static void assert_same_encoding(const LsTokenizer *a, const LsTokenizer *b, const char *text)
{
    uint32_t *first = NULL, *second = NULL;
    size_t first_count = 0, second_count = 0;
    assert_ok(ls_tokenizer_encode(a, text, strlen(text), &first, &first_count));
    assert_ok(ls_tokenizer_encode(b, text, strlen(text), &second, &second_count));
    assert_int_equal(first_count, second_count);
    assert_memory_equal(first, second, first_count * sizeof *first);
    free(first);
    free(second);
}

static void test_formats(void **state)
{
    (void)state;
    static const char text[] =
        "the theme of the thesis: there, then, \xc3\xa9t\xc3\xa9 \xc3\xa9t\xc3\xa9\n\n the end";
    static const char *const names[][2] = {{"lockstep", "ours.json"}, {"gpt2", "folder"},
        {"huggingface", "other-folder"}, {"tiktoken", "ranks.tiktoken"}};
    LsTokenizer *tokenizer = train_on(text, 300), *again = NULL, *third = NULL;
    for (size_t i = 0; i < sizeof names / sizeof names[0]; i++) {
        const char *path = in_directory(names[i][1]);
        assert_ok(ls_tokenizer_write(tokenizer, names[i][0], path));
        assert_ok(ls_tokenizer_open(path, &again));
        assert_int_equal(ls_tokenizer_vocabulary(again), ls_tokenizer_vocabulary(tokenizer));
        assert_int_equal(ls_tokenizer_end_of_text(again), ls_tokenizer_end_of_text(tokenizer));
        assert_same_encoding(tokenizer, again, text);
        // Merges by id, whose list is found again.
        assert_ok(ls_tokenizer_write(again, "gpt2", in_directory("second")));
        assert_ok(ls_tokenizer_open(in_directory("second"), &third));
        assert_int_equal(third->merge_count, tokenizer->merge_count);
        assert_memory_equal(third->merges, tokenizer->merges, tokenizer->merge_count * sizeof *third->merges);
        ls_tokenizer_free(third);
        ls_tokenizer_free(again);
    }
    assert_fails(ls_tokenizer_write(tokenizer, "other", in_directory("x")), LS_USAGE, "other");
    ls_tokenizer_free(tokenizer);
}

// A vocabulary of 256 bytes in GPT-2's alphabet and `more` as JSON text.
static void write_vocabulary(const char *name, const char *more)
{
    char *text = NULL;
    size_t size = 0;
    FILE *out = open_memstream(&text, &size);
    for (int i = 0; i < 256; i++) {
        char letter[4];
        ls_alphabet_write(&(uint8_t){(uint8_t)i}, 1, letter);
        json_t *key = json_string(letter);
        char *quoted = json_dumps(key, JSON_ENCODE_ANY);
        fprintf(out, "%s%s: %d", i == 0 ? "{" : ", ", quoted, i);
        free(quoted);
        json_decref(key);
    }
    fprintf(out, "%s}", more);
    fclose(out);
    write_file(name, text, size);
    free(text);
}

static void expect_damage(const char *name, const char *text, const char *part)
{
    LsTokenizer *tokenizer = NULL;
    assert_fails(ls_tokenizer_open(write_file(name, text, strlen(text)), &tokenizer), LS_BAD_DATA, part);
}

static void test_merges_files(void **state)
{
    (void)state;
    LsTokenizer *tokenizer = NULL;
    const char *path = write_file("merges.txt", "#version: 0.2\r\na b\r\n# #\r\n", 25);
    assert_fails(ls_tokenizer_open(path, &tokenizer), LS_NO_INPUT, "vocab.json");
    write_vocabulary("vocab.json", ", \"<|endoftext|>\": 256, \"ab\": 258, \"##\": 257");
    assert_ok(ls_tokenizer_open(path, &tokenizer));
    assert_int_equal(ls_tokenizer_end_of_text(tokenizer), 256);
    assert_tokens(tokenizer, "cab", (uint32_t[]){'c', 258}, 2);
    assert_tokens(tokenizer, "##", (uint32_t[]){257}, 1);
    ls_tokenizer_free(tokenizer);
    expect_damage("merges.txt", "a b\nab\n", "line 2: a merge is");
    expect_damage("merges.txt", "a b c\n", "line 1: a merge is");
    expect_damage("merges.txt", "a b\na zz\n", "line 2: a part");
    expect_damage("merges.txt", "a c\n", "line 1: the two tokens");
    expect_damage("merges.txt", "a b\na b\n", "merge 1 is there twice");
    write_vocabulary("vocab.json", ", \"ab\": 258");
    expect_damage("merges.txt", "a b\n", "ids are not");
    write_vocabulary("vocab.json", ", \"a b\": 256");
    expect_damage("merges.txt", "a b\n", "alphabet");
    write_file("vocab.json", "{\"a\": 0, \"b\": 1, \"ab\": 2}", 25);
    expect_damage("merges.txt", "a b\n", "byte 0 has no token");
}

static void test_damaged_files(void **state)
{
    (void)state;
    LsTokenizer *tokenizer = NULL;
    assert_fails(ls_tokenizer_open(in_directory("none.json"), &tokenizer), LS_NO_INPUT, "none.json");
    expect_damage("t", "", "empty");
    expect_damage("t", "{\"format\": 1", "line 1");
    expect_damage("t", "{\"a\": 1}", "no tokenizer");
    expect_damage("t", "{\"format\": 2, \"kind\": \"bytes\"}", "format");
    expect_damage("t", "{\"format\": 1, \"kind\": \"bpe\"}", "no tokens");
    expect_damage("t", "{\"format\": 1, \"kind\": \"bpe\", \"tokens\": [\"a\", \"a\"]}", "twice");
    expect_damage("t", "{\"format\": 1, \"kind\": \"bpe\", \"tokens\": [null, null]}", "twice");
    expect_damage("t", "{\"format\": 1, \"kind\": \"bpe\", \"tokens\": [\"a\"]}", "byte 0 has no token");
    expect_damage("t", "{\"format\": 1, \"kind\": \"bpe\", \"tokens\": [7]}", "token 0");
    expect_damage("t", "YQ== 0\nYg== 2\n", "no token 1");
    expect_damage("t", "YQ== 0\nYg== 0\n", "line 2: the token's number is there twice");
    expect_damage("t", "YQ== 0\nY!== 1\n", "line 2: the token is not in base64");
    expect_damage("t", "YQ== 0\nYg==\n", "line 2: a line has");
    expect_damage("t", "YQ== 0\nYg== 99999999999\n", "line 2: a line has");
    expect_damage("t", "YQ== 0\nYQ== 1\n", "line 2: the token is there twice");
    LsTokenizer *trained = train_on("ab ab", 258);
    json_t *json = ls_tokenizer_json(trained);
    json_array_set_new(json_object_get(json, "merges"), 1, json_integer(258));
    assert_fails(ls_tokenizer_parse(json, "here", &tokenizer), LS_BAD_DATA, "here: merge 0");
    json_array_set_new(json_object_get(json, "merges"), 1, json_integer('c'));
    assert_fails(ls_tokenizer_parse(json, "here", &tokenizer), LS_BAD_DATA, "here: the two tokens");
    json_array_remove(json_object_get(json, "merges"), 1);
    assert_fails(ls_tokenizer_parse(json, "here", &tokenizer), LS_BAD_DATA, "here: the merges");
    json_decref(json);
    ls_tokenizer_free(trained);
}

// ---- Threads ----

typedef struct Job {
    const LsTokenizer *tokenizer;
    const char *text;
    size_t bytes, count;
    uint32_t *tokens;
} Job;

static void *encode_again(void *argument)
{
    Job *job = argument;
    for (int i = 0; i < 20; i++) {
        free(job->tokens);
        if (ls_tokenizer_encode(job->tokenizer, job->text, job->bytes, &job->tokens, &job->count) != LS_OK)
            return NULL;
    }
    return job;
}

static void test_threads(void **state)
{
    (void)state;
    enum { THREADS = 4, BYTES = 20000 };
    static char text[BYTES + 10];
    size_t bytes = 0;
    for (unsigned i = 0; bytes < BYTES; i++)
        bytes += (size_t)sprintf(text + bytes, "%u ", i * i);
    LsTokenizer *tokenizer = train_on(text, 400);
    pthread_t thread[THREADS];
    Job job[THREADS];
    for (int i = 0; i < THREADS; i++) {
        job[i] = (Job){.tokenizer = tokenizer, .text = text, .bytes = bytes};
        assert_int_equal(pthread_create(&thread[i], NULL, encode_again, &job[i]), 0);
    }
    for (int i = 0; i < THREADS; i++) {
        void *done = NULL;
        pthread_join(thread[i], &done);
        assert_non_null(done);
        assert_int_equal(job[i].count, job[0].count);
        assert_memory_equal(job[i].tokens, job[0].tokens, job[0].count * sizeof *job[0].tokens);
    }
    for (int i = 0; i < THREADS; i++)
        free(job[i].tokens);
    ls_tokenizer_free(tokenizer);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_training_by_hand),
        cmocka_unit_test(test_ties),
        cmocka_unit_test(test_training_is_deterministic),
        cmocka_unit_test(test_round_trips),
        cmocka_unit_test(test_long_piece),
        cmocka_unit_test(test_invalid_utf8),
        cmocka_unit_test(test_formats),
        cmocka_unit_test(test_merges_files),
        cmocka_unit_test(test_damaged_files),
        cmocka_unit_test(test_threads),
    };
    return cmocka_run_group_tests(tests, make_directory, remove_directory);
}
