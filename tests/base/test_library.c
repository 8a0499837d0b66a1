// Loading a library at run time: its functions, or a sentence and nothing else.
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <string.h>

#include "base/library.h"

static void functions_are_found(void **unused)
{
    (void)unused;
    static const char *const names[] = {"cos", "sqrt"};
    struct {
        double (*cosine)(double);
        double (*root)(double);
    } functions;
    assert_int_equal(ls_library_load("libm.so.6", names, 2, (void **)&functions), LS_OK);
    assert_true(functions.cosine(0.0) == 1.0);
    assert_true(functions.root(9.0) == 3.0);
}

static void a_missing_library_is_named(void **unused)
{
    (void)unused;
    static const char *const names[] = {"cos"};
    void *function = &function;
    assert_int_equal(ls_library_load("libnowhere.so.7", names, 1, &function), LS_UNAVAILABLE);
    assert_non_null(strstr(ls_status_message(), "libnowhere.so.7"));
    assert_ptr_equal(function, &function);
}

static void a_missing_function_is_named(void **unused)
{
    (void)unused;
    static const char *const names[] = {"cos", "cosine_of_nothing"};
    void *functions[2] = {functions, functions};
    assert_int_equal(ls_library_load("libm.so.6", names, 2, functions), LS_UNAVAILABLE);
    assert_non_null(strstr(ls_status_message(), "cosine_of_nothing"));
    assert_ptr_equal(functions[0], functions);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(functions_are_found),
        cmocka_unit_test(a_missing_library_is_named),
        cmocka_unit_test(a_missing_function_is_named),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
