// Peaks of matrix products by NVIDIA's data sheets: at boost clock, dense (the sheets' larger numbers count
// products with half of the numbers zero), and summed in FP32, which halves the rate of FP16 on GeForce
// cards.
//
// Sources: NVIDIA's data sheets of A100, A30, A10, A40, L4, L40, L40S, H100, H200, "HGX Platform" (B200: an
// eighth of eight) and "GB200 NVL72" (a 72nd); "H100 Tensor Core GPU Architecture" for PCIe and SXM; for
// workstations and GeForce the tables of "Ampere GA102 GPU Architecture", "Ada GPU Architecture" and "RTX
// Blackwell GPU Architecture". An A800 is an A100 with slower links, a GH200 has an H100 of SXM.
#include "cuda.h"

#include <string.h>

typedef struct GpuPeak {
    const char *name;        // as the driver spells it, whole: slices of a GPU and laptops' have others
    double half, tf32, fp32; // TFLOP/s; half: BF16 and FP16
} GpuPeak;

static const GpuPeak peaks[] = {
    {"NVIDIA A100-SXM4-40GB", 312, 156, 19.5},
    {"NVIDIA A100-SXM4-80GB", 312, 156, 19.5},
    {"NVIDIA A100-PCIE-40GB", 312, 156, 19.5},
    {"NVIDIA A100 80GB PCIe", 312, 156, 19.5},
    {"NVIDIA A800-SXM4-80GB", 312, 156, 19.5},
    {"NVIDIA A800 80GB PCIe", 312, 156, 19.5},
    {"NVIDIA A30", 165, 82, 10.3},
    {"NVIDIA A10", 125, 62.5, 31.2},
    {"NVIDIA A40", 149.7, 74.8, 37.4},
    {"NVIDIA RTX A6000", 154.8, 77.4, 38.7},
    {"NVIDIA L4", 121, 60, 30.3},
    {"NVIDIA L40", 181.05, 90.5, 90.5},
    {"NVIDIA L40S", 362.05, 183, 91.6},
    {"NVIDIA RTX 6000 Ada Generation", 364.2, 182.1, 91.1},
    {"NVIDIA H100 80GB HBM3", 989.4, 494.7, 66.9}, // SXM
    {"NVIDIA H100 PCIe", 756, 378, 51.2},
    {"NVIDIA H100 NVL", 835.5, 417.5, 60},
    {"NVIDIA GH200 480GB", 989.4, 494.7, 66.9},
    {"NVIDIA GH200 120GB", 989.4, 494.7, 66.9},
    {"NVIDIA H200", 989.4, 494.7, 66.9}, // SXM
    {"NVIDIA H200 NVL", 835.5, 417.5, 60},
    {"NVIDIA B200", 2250, 1125, 75},
    {"NVIDIA GB200", 2500, 1250, 80},
    {"NVIDIA GeForce RTX 3090", 71, 35.6, 35.6},
    {"NVIDIA GeForce RTX 4090", 165.2, 82.6, 82.6},
    {"NVIDIA GeForce RTX 5090", 209.5, 104.8, 104.8},
};

double ls_cuda_peak_of(const char *name, LsPrecision precision, bool tf32)
{
    for (size_t i = 0; i < sizeof peaks / sizeof *peaks; i++)
        if (strcmp(peaks[i].name, name) == 0)
            return 1e12 * (precision != LS_PRECISION_FP32 ? peaks[i].half
                              : tf32                      ? peaks[i].tf32
                                                          : peaks[i].fp32);
    return 0;
}

double ls_cuda_peak(const LsDevice *device)
{
    const LsCudaDevice *cuda = ls_cuda(device);
    return ls_cuda_peak_of(cuda->properties.name, device->precision, cuda->tf32);
}
