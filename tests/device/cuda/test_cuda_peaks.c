// Peaks by data sheet, looked up by a GPU's name.
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "cuda.h"

// What the data sheets say, in TFLOP/s.
static void known_gpus(void **unused)
{
    (void)unused;
    static const struct {
        const char *name;
        LsPrecision precision;
        bool tf32;
        double expected;
    } cases[] = {
        {"NVIDIA H200", LS_PRECISION_BF16, false, 989.4},
        {"NVIDIA H200", LS_PRECISION_FP16, true, 989.4},
        {"NVIDIA H200", LS_PRECISION_FP32, true, 494.7},
        {"NVIDIA H200", LS_PRECISION_FP32, false, 66.9},
        {"NVIDIA H100 80GB HBM3", LS_PRECISION_BF16, false, 989.4},
        {"NVIDIA H100 PCIe", LS_PRECISION_BF16, false, 756},
        {"NVIDIA H100 NVL", LS_PRECISION_BF16, false, 835.5},
        {"NVIDIA B200", LS_PRECISION_BF16, false, 2250},
        {"NVIDIA A100-SXM4-40GB", LS_PRECISION_BF16, false, 312},
        {"NVIDIA A100 80GB PCIe", LS_PRECISION_FP32, true, 156},
        {"NVIDIA L40S", LS_PRECISION_FP16, false, 362.05},
        {"NVIDIA GeForce RTX 4090", LS_PRECISION_FP16, false, 165.2},
        {"NVIDIA GeForce RTX 5090", LS_PRECISION_BF16, false, 209.5},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        double peak = ls_cuda_peak_of(cases[i].name, cases[i].precision, cases[i].tf32);
        if (peak != 1e12 * cases[i].expected)
            fail_msg("%s: %g, not %g TFLOP/s", cases[i].name, peak / 1e12, cases[i].expected);
    }
}

// A slice of a GPU, a laptop's and a GPU of another year are no GPU of the table.
static void others_are_unknown(void **unused)
{
    (void)unused;
    static const char *const names[] = {"", "NVIDIA", "Emulated GPU", "NVIDIA H100 80GB HBM3 MIG 1g.10gb",
        "NVIDIA GeForce RTX 4090 Laptop GPU", "NVIDIA GeForce RTX 4090 D", "NVIDIA H2000", "nvidia h200"};
    for (size_t i = 0; i < sizeof names / sizeof *names; i++)
        assert_true(ls_cuda_peak_of(names[i], LS_PRECISION_BF16, false) == 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(known_gpus),
        cmocka_unit_test(others_are_unknown),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
