// Links by name, by figures and as fitted to measured times.
#include "predict/links.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <string.h>

#include <cmocka.h>

#include "near.h"

// Decimal figures times 1e-6 and 1e9 are not exact in binary; a few roundings are all that there is.
static const double ROUNDING = 1e-12;

static void expect(LsLink link, double gbits, double latency, double message)
{
    assert_near(link.bandwidth / (gbits * 1e9 / 8), 1, ROUNDING);
    assert_near(link.latency, latency * 1e-6, ROUNDING);
    assert_near(link.message, message * 1e-6, ROUNDING);
}

static void reads_figures(void **state)
{
    (void)state;
    LsLink link;
    assert_int_equal(ls_link_read("100", &link), LS_OK);
    expect(link, 100, 0, 0);
    assert_int_equal(ls_link_read("12.5:30", &link), LS_OK);
    expect(link, 12.5, 30, 0);
    assert_int_equal(ls_link_read("400:5:0.25", &link), LS_OK);
    expect(link, 400, 5, 0.25);
}

static void reads_presets(void **state)
{
    (void)state;
    LsLink slow, fast;
    assert_int_equal(ls_link_read("ethernet-25", &slow), LS_OK);
    assert_int_equal(ls_link_read("ethernet-3200", &fast), LS_OK);
    assert_near(fast.bandwidth / slow.bandwidth, 128, 128 * ROUNDING);
    assert_true(fast.bandwidth < 3200e9 / 8); // never more than the line carries
    assert_int_equal(ls_link_read("nvlink4", &fast), LS_OK);
    assert_true(fast.bandwidth > 360e9 && fast.bandwidth < 450e9);
    assert_int_equal(ls_link_read("pcie5", &slow), LS_OK);
    assert_true(slow.bandwidth < 63e9);
}

static void refuses_what_is_no_link(void **state)
{
    (void)state;
    static const char *const bad[] = {"", "nvlink", "nvlink9", "ethernet-", "ethernet-24", "ethernet-3201",
        "infiniband-x", "0", "-5", "100:", "100:-1", "100:5:1:2", "100GB", "inf", "nan"};
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        LsLink link;
        assert_int_equal(ls_link_read(bad[i], &link), LS_USAGE);
        assert_non_null(strstr(ls_status_message(), bad[i]));
    }
}

static void fits_a_line(void **state)
{
    (void)state;
    double bytes[8], seconds[8];
    for (int i = 0; i < 8; i++) {
        bytes[i] = pow(8, i + 2);
        seconds[i] = 7e-6 + bytes[i] / 9e9;
    }
    LsLink link;
    assert_int_equal(ls_link_fit(bytes, seconds, 8, &link), LS_OK);
    // A determinant of sums over six powers of ten loses some digits.
    assert_near(link.latency, 7e-6, 1e-12);
    assert_near(link.bandwidth / 9e9, 1, 1e-9);
}

static void fits_without_latency_where_a_line_would_have_less_than_none(void **state)
{
    (void)state;
    const double bytes[] = {1e3, 1e6, 2e6}, seconds[] = {0.9e-6, 1e-3, 2.2e-3};
    LsLink link;
    assert_int_equal(ls_link_fit(bytes, seconds, 3, &link), LS_OK);
    assert_true(link.latency == 0);
    assert_true(link.bandwidth > 0.85e9 && link.bandwidth < 1.15e9);
}

static void refuses_times_that_no_link_has(void **state)
{
    (void)state;
    LsLink link;
    const double same[] = {1e6, 1e6}, sizes[] = {1e3, 1e6}, times[] = {1e-3, 1e-3}, falling[] = {2e-3, 1e-3};
    const double none[] = {0, 1e-3};
    assert_int_equal(ls_link_fit(sizes, times, 1, &link), LS_BAD_DATA);
    assert_int_equal(ls_link_fit(same, times, 2, &link), LS_BAD_DATA);
    assert_int_equal(ls_link_fit(sizes, falling, 2, &link), LS_BAD_DATA);
    assert_int_equal(ls_link_fit(sizes, none, 2, &link), LS_BAD_DATA);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(reads_figures),
        cmocka_unit_test(reads_presets),
        cmocka_unit_test(refuses_what_is_no_link),
        cmocka_unit_test(fits_a_line),
        cmocka_unit_test(fits_without_latency_where_a_line_would_have_less_than_none),
        cmocka_unit_test(refuses_times_that_no_link_has),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
