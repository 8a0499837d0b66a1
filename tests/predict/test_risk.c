// Order statistics of stragglers, and goodput under failures: against closed forms and against a simulation
// of them.
#include "predict/risk.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <string.h>

#include <cmocka.h>

#include "base/rng.h"
#include "near.h"

// The integral has 20,000 steps of at most 0.003 units, whose squares count.
static const double INTEGRAL = 1e-5;

static LsJitter jitter(const char *text)
{
    LsJitter read = {0};
    assert_int_equal(ls_jitter_read(text, &read), LS_OK);
    return read;
}

static void slowest_of_an_exponential_is_a_harmonic_number(void **state)
{
    (void)state;
    double harmonic = 0;
    for (uint64_t ranks = 1; ranks <= 32768; ranks++) {
        harmonic += 1.0 / (double)ranks;
        if ((ranks & (ranks - 1)) == 0)
            assert_near(ls_jitter_slowest(jitter("exponential:0.02"), ranks), 1 + 0.02 * harmonic, INTEGRAL);
    }
}

static void slowest_of_a_normal_has_known_means(void **state)
{
    (void)state;
    // Expected largest of n standard normal numbers (Harter 1961): 1/sqrt(pi), 1.5/sqrt(pi), tables.
    static const struct {
        uint64_t ranks;
        double mean;
    } known[] = {{1, 0}, {2, 0.5641896}, {3, 0.8462844}, {8, 1.4236003}, {100, 2.5075936}};
    for (size_t i = 0; i < sizeof known / sizeof *known; i++)
        assert_near(
            ls_jitter_slowest(jitter("normal:0.1"), known[i].ranks), 1 + 0.1 * known[i].mean, INTEGRAL);
}

static void lognormal_has_mean_one_and_grows(void **state)
{
    (void)state;
    assert_near(ls_jitter_slowest(jitter("lognormal:0.2"), 1), 1, INTEGRAL);
    // Small deviations are nearly normal: what is left is of second order.
    assert_near(ls_jitter_slowest(jitter("lognormal:0.001"), 8), 1 + 0.001 * 1.4236003, INTEGRAL);
    double before = 1;
    for (uint64_t ranks = 2; ranks <= 65536; ranks *= 2) {
        double now = ls_jitter_slowest(jitter("lognormal:0.2"), ranks);
        assert_true(now > before);
        before = now;
    }
    assert_true(ls_jitter_slowest(jitter("none"), 4096) == 1);
}

static void refuses_other_distributions(void **state)
{
    (void)state;
    static const char *const bad[] = {"", "normal", "normal:", "normal:0", "normal:-1", "normal:x",
        "norm:0.1", "uniform:1", "none:1", "normal:11"};
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        LsJitter read;
        assert_int_equal(ls_jitter_read(bad[i], &read), LS_USAGE);
    }
}

// Uniform in (0, 1].
static double draw(uint64_t index)
{
    return ((double)ls_rng_u32(ls_rng_key(7, LS_RNG_AUGMENT), index, 0) + 1) * 0x1p-32;
}

// Plays segments of training, each repeated from its start until no failure falls into it; restarts fail too.
static double play(double interval, double save, double restart, double mtbf, size_t segments)
{
    double time = 0;
    uint64_t draws = 0;
    for (size_t done = 0; done < segments; done++) {
        double failure;
        while ((failure = -mtbf * log(draw(draws++))) < interval + save) {
            time += failure;
            while ((failure = -mtbf * log(draw(draws++))) < restart)
                time += failure;
            time += restart;
        }
        time += interval + save;
    }
    return (double)segments * interval / time;
}

static void goodput_is_what_a_played_run_has(void **state)
{
    (void)state;
    LsRisk risk = {.node_failures = 1.0 / 400000, .save = 20, .restart = 90, .interval = 300};
    // At most half of the segments fail once; over 200,000 of them the mean time is known to about 0.3 %.
    const uint32_t nodes[] = {8, 64, 512};
    for (size_t i = 0; i < 3; i++) {
        double played = play(300, 20, 90, 400000.0 / nodes[i], 200000);
        assert_near(ls_goodput(&risk, nodes[i]).on_demand / played, 1, 0.01);
    }
}

static void best_interval_is_best(void **state)
{
    (void)state;
    LsRisk risk = {.node_failures = 1.0 / 2e6, .save = 10, .restart = 60};
    for (uint32_t nodes = 8; nodes <= 4096; nodes *= 8) {
        risk.interval = 0;
        LsGoodput best = ls_goodput(&risk, nodes);
        double young = sqrt(2 * risk.save * 2e6 / nodes);
        assert_true(best.interval > 0.8 * young && best.interval < 1.2 * young);
        for (double factor = 0.5; factor <= 2; factor *= 4) {
            risk.interval = best.interval * factor;
            assert_true(ls_goodput(&risk, nodes).on_demand < best.on_demand);
        }
    }
}

static void without_failures_only_saves_cost(void **state)
{
    (void)state;
    LsRisk risk = {.save = 10, .restart = 60};
    assert_true(ls_goodput(&risk, 4096).on_demand == 1);
    assert_true(isinf(ls_goodput(&risk, 4096).interval));
    risk.interval = 90;
    assert_near(ls_goodput(&risk, 4096).on_demand, 0.9, 1e-15);
    risk.preemptions = 1.0 / 3600;
    LsGoodput spot = ls_goodput(&risk, 9); // every 400 s one, for 70 s
    assert_true(spot.on_demand == 0.9);
    assert_near(spot.spot, 0.9 / 1.175, 1e-12);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(slowest_of_an_exponential_is_a_harmonic_number),
        cmocka_unit_test(slowest_of_a_normal_has_known_means),
        cmocka_unit_test(lognormal_has_mean_one_and_grows),
        cmocka_unit_test(refuses_other_distributions),
        cmocka_unit_test(goodput_is_what_a_played_run_has),
        cmocka_unit_test(best_interval_is_best),
        cmocka_unit_test(without_failures_only_saves_cost),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
