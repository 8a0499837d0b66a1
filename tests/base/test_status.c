// Statuses: exit codes of the contract, messages per thread.
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>

#include "base/memory.h"
#include "base/status.h"

static void test_exit_codes(void **state)
{
    (void)state;
    const struct {
        LsStatus status;
        int code;
    } contract[] = {{LS_OK, 0}, {LS_INTERNAL, 1}, {LS_USAGE, 2}, {LS_BAD_DATA, 65}, {LS_NO_INPUT, 66},
        {LS_UNAVAILABLE, 69}, {LS_UNSUPPORTED, 69}, {LS_DIVERGED, 70}, {LS_IO, 74}, {LS_STOPPED, 75},
        {LS_CHECKPOINT, 76}, {LS_CONFIG, 78}, {LS_HUNG, 124}};
    for (size_t i = 0; i < sizeof contract / sizeof contract[0]; i++) {
        assert_int_equal(ls_status_exit_code(contract[i].status), contract[i].code);
        assert_true(strlen(ls_status_text(contract[i].status)) > 0);
    }
}

static LsStatus fails(void)
{
    return LS_FAIL(LS_BAD_DATA, "%s: row %d", "a.csv", 7);
}

static LsStatus passes_on(void)
{
    LS_TRY(LS_OK); // goes on
    LS_TRY(fails());
    return LS_INTERNAL; // never reached
}

static void test_message(void **state)
{
    (void)state;
    assert_int_equal(passes_on(), LS_BAD_DATA);
    assert_string_equal(ls_status_message(), "a.csv: row 7");
    assert_non_null(strstr(ls_status_origin(), "test_status.c:"));
    // A message may be built from the one before it.
    assert_int_equal(LS_FAIL(LS_IO, "again: %s", ls_status_message()), LS_IO);
    assert_string_equal(ls_status_message(), "again: a.csv: row 7");
}

static void test_long_message_is_cut(void **state)
{
    (void)state;
    char text[5000];
    memset(text, 'x', sizeof text - 1);
    text[sizeof text - 1] = '\0';
    assert_int_equal(LS_FAIL(LS_IO, "%s", text), LS_IO);
    assert_true(strlen(ls_status_message()) > 1000 && strlen(ls_status_message()) < sizeof text - 1);
}

// Whatever an argument holds, a message is one line of text that moves no terminal's cursor.
static void test_message_is_clean(void **state)
{
    (void)state;
    assert_int_equal(LS_FAIL(LS_IO, "a\n\x1b[2J%s\xff|%s|", "\xc2\x9b", "\xe2\x80\xa8größer…"), LS_IO);
    assert_string_equal(ls_status_message(), "a??[2J??|?größer…|");
}

static void *fail_in_thread(void *message)
{
    assert_int_equal(LS_FAIL(LS_IO, "in the thread"), LS_IO);
    strcpy(message, ls_status_message());
    return NULL;
}

static void test_threads_have_their_own(void **state)
{
    (void)state;
    char carried[64];
    pthread_t thread;
    assert_int_equal(LS_FAIL(LS_CONFIG, "outside"), LS_CONFIG);
    assert_int_equal(pthread_create(&thread, NULL, fail_in_thread, carried), 0);
    pthread_join(thread, NULL);
    assert_string_equal(ls_status_message(), "outside");
    assert_int_equal(ls_status_adopt(LS_IO, carried), LS_IO);
    assert_string_equal(ls_status_message(), "in the thread");
}

static void test_sizes(void **state)
{
    (void)state;
    size_t out = 42;
    assert_true(ls_size_multiply(1u << 20, 1u << 20, &out));
    assert_int_equal(out, (size_t)1 << 40);
    assert_false(ls_size_multiply(SIZE_MAX, 2, &out));
    assert_false(ls_size_add(SIZE_MAX, 1, &out));
    assert_int_equal(out, (size_t)1 << 40); // set only on success
    assert_true(ls_size_add(SIZE_MAX - 1, 1, &out));
    assert_int_equal(ls_round_up(1, 64), 64);
    assert_int_equal(ls_round_up(64, 64), 64);
    assert_int_equal(ls_round_up(0, 64), 0);
}

static void test_memory(void **state)
{
    (void)state;
    const size_t sizes[] = {0, 1, 63, 64, 65, 4097};
    for (size_t i = 0; i < sizeof sizes / sizeof sizes[0]; i++) {
        void *memory = NULL;
        assert_int_equal(ls_memory_allocate(sizes[i], &memory), LS_OK);
        assert_int_equal((uintptr_t)memory % LS_ALIGNMENT, 0);
        for (size_t j = 0; j < sizes[i]; j++)
            assert_int_equal(((unsigned char *)memory)[j], 0);
        free(memory);
    }
    void *memory = NULL;
    assert_int_equal(ls_memory_allocate(SIZE_MAX, &memory), LS_INTERNAL);
    assert_null(memory);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_exit_codes),
        cmocka_unit_test(test_message),
        cmocka_unit_test(test_long_message_is_cut),
        cmocka_unit_test(test_message_is_clean),
        cmocka_unit_test(test_threads_have_their_own),
        cmocka_unit_test(test_sizes),
        cmocka_unit_test(test_memory),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
