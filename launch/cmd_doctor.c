// lockstep doctor: what a run would find on this machine.
#include "command.h"

#include <sched.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <sys/statvfs.h>
#include <sys/utsname.h>
#include <unistd.h>

#include "base/cores.h"
#include "base/json.h"
#include "data/dataset.h"
#include "device/device.h"

typedef enum Verdict { FINE, WARNING, FAILURE, VERDICTS } Verdict;

typedef struct Report {
    json_t *checks; // array of {check, verdict, found, advice}
    bool failed, short_of_memory;
} Report;

static const char *const verdict_names[VERDICTS] = {
    [FINE] = "ok", [WARNING] = "warning", [FAILURE] = "failed"};

// Adds a check. advice: what to do about it, NULL where there is nothing to do.
__attribute__((format(printf, 5, 6))) static void add(
    Report *report, const char *check, Verdict verdict, const char *advice, const char *format, ...)
{
    char found[1024];
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(found, sizeof found, format, arguments);
    va_end(arguments);
    json_t *entry = json_pack("{s:s, s:s, s:s#, s:s?}", "check", check, "verdict", verdict_names[verdict],
        "found", found, (int)strlen(found), "advice", advice);
    if (json_array_append_new(report->checks, entry) != 0)
        report->short_of_memory = true;
    report->failed |= verdict == FAILURE;
}

// ---- Checks ---------------------------------------------------------------------------------------------

// The value of a "name : value" line of /proc/cpuinfo.
static void read_cpu_name(char *name, size_t size)
{
    char line[512];
    snprintf(name, size, "unknown");
    FILE *file = fopen("/proc/cpuinfo", "r");
    while (file && fgets(line, sizeof line, file)) {
        char *colon = strchr(line, ':');
        if (strncmp(line, "model name", 10) == 0 && colon && colon[1] == ' ') {
            snprintf(name, size, "%.*s", (int)strcspn(colon + 2, "\n"), colon + 2);
            break;
        }
    }
    if (file)
        fclose(file);
}

static void check_cpu(Report *report)
{
    char name[128];
    struct utsname system;
    read_cpu_name(name, sizeof name);
    if (uname(&system) != 0)
        strcpy(system.release, "unknown");
    add(report, "cpu", FINE, NULL, "%s; Linux %s", name, system.release);
}

static const char *precision_name(const LsDevice *device)
{
    static const char *const names[] = {[LS_F32] = "fp32", [LS_BF16] = "bf16", [LS_F16] = "fp16"};
    return names[ls_device_compute_type(device)];
}

// How fast the device multiplies, and what mfu takes for its peak.
static void check_products(
    Report *report, LsDevice *device, const char *where, const char *note, const char *advice)
{
    double peak, measured;
    bool sheet;
    LsStatus status = ls_device_peak(device, &peak, &sheet);
    if (status == LS_OK && sheet)
        status = ls_device_measure_peak(device, &measured);
    if (status != LS_OK)
        add(report, "products", FAILURE, advice, "%s", ls_status_message());
    else if (sheet)
        add(report, "products", FINE, NULL,
            "%.2f TFLOP/s measured on %s in %s%s; mfu is of its data sheet's %.2f", measured / 1e12, where,
            precision_name(device), note, peak / 1e12);
    else
        add(report, "products", FINE, NULL, "%.2f TFLOP/s measured on %s in %s%s; mfu is of that",
            peak / 1e12, where, precision_name(device), note);
}

// Opens a device and measures it. `check` names it; `advice` is what to do where it cannot be had.
static void check_device(
    Report *report, const LsDeviceOptions *options, const char *check, const char *where, const char *advice)
{
    LsDevice *device = NULL;
    char fingerprint[512];
    if (ls_device_open(options, &device) != LS_OK) {
        add(report, check, FAILURE, advice, "%s", ls_status_message());
        return;
    }
    ls_device_fingerprint(device, fingerprint, sizeof fingerprint);
    add(report, check, FINE, NULL, "%s", fingerprint);
    bool chosen = options->precision == LS_PRECISION_AUTO;
    check_products(report, device, where, chosen ? " (what runtime.precision: auto is here)" : "", advice);
    ls_device_close(device);
}

static void check_processor(Report *report)
{
    const LsDeviceOptions options = {
        .kind = LS_DEVICE_CPU, .precision = LS_PRECISION_AUTO, .threads = 1, .isa = LS_ISA_AUTO};
    check_device(report, &options, "device", "one core", "set runtime.device=ref");
}

static void check_cores(Report *report)
{
    cpu_set_t set;
    int usable = sched_getaffinity(0, sizeof set, &set) == 0 ? CPU_COUNT(&set) : 0;
    long online = sysconf(_SC_NPROCESSORS_ONLN);
    double limit = ls_cores_limit();
    if (limit > 0)
        add(report, "cores", limit < usable ? WARNING : FINE,
            limit < usable ? "start at most as many ranks as the limit allows" : NULL,
            "%ld online, %d usable by this process, limited to %.2f by the control group", online, usable,
            limit);
    else
        add(report, "cores", FINE, NULL, "%ld online, %d usable by this process", online, usable);
}

static bool find_program(const char *name, char *path, size_t size)
{
    const char *directories = getenv("PATH");
    while (directories && *directories) {
        size_t length = strcspn(directories, ":");
        snprintf(path, size, "%.*s/%s", (int)length, directories, name);
        if (access(path, X_OK) == 0)
            return true;
        directories += length + (directories[length] == ':');
    }
    return false;
}

static void check_mpi(Report *report, const LsInvocation *invocation)
{
    char path[LS_PATH_MAX];
    bool mpirun = find_program("mpirun", path, sizeof path);
    add(report, "mpi", mpirun ? FINE : WARNING, mpirun ? NULL : "install openmpi-bin to start several ranks",
        "%s; launcher %s", ls_comm_library_version(), mpirun ? path : "not found");
    if (invocation->comm)
        add(report, "ranks", FINE, NULL, "started as %d ranks (%s), %d of them on %s",
            ls_comm_size(invocation->comm), ls_comm_name(invocation->comm),
            ls_comm_local_size(invocation->comm), ls_comm_host(invocation->comm));
}

// Free and total size of a file system.
static void check_space(Report *report, const char *check, const char *path, double least, const char *advice)
{
    struct statvfs fs;
    if (statvfs(path, &fs) != 0) {
        add(report, check, WARNING, advice, "%s: not there", path);
        return;
    }
    double unit = (double)fs.f_frsize / (1 << 20), available = (double)fs.f_bavail * unit;
    bool enough = available >= least && !(fs.f_flag & ST_RDONLY);
    add(report, check, enough ? FINE : WARNING, enough ? NULL : advice, "%s: %.0f MiB free of %.0f%s", path,
        available, (double)fs.f_blocks * unit, fs.f_flag & ST_RDONLY ? ", read-only" : "");
}

// The GPU that this process would take is opened where there is one, or where the configuration wants one.
static void check_gpu(Report *report, const LsConfig *config, int local_rank)
{
    char gpus[512], libraries[320];
    int usable;
    ls_device_gpus(gpus, sizeof gpus, &usable);
    ls_device_gpu_libraries(libraries, sizeof libraries);
    bool missed = usable == 0 && *libraries; // a build for GPUs on a machine without
    const char *nccl = ls_comm_nccl_version();
    add(report, "gpu", missed ? WARNING : FINE,
        missed ? "runs use the processor: runtime.device auto is cpu" : NULL, "%s%s%s%s%s", gpus,
        *libraries ? "; " : "", libraries, *nccl ? ", NCCL " : "", nccl);
    if (usable == 0 && config->runtime.device != LS_DEVICE_CUDA)
        return;
    const LsDeviceOptions options = {.kind = LS_DEVICE_CUDA,
        .precision = config->runtime.precision,
        .threads = 1,
        .local_rank = local_rank,
        .tf32 = config->runtime.tf32};
    check_device(report, &options, "cuda", "this GPU", "set runtime.device=cpu");
}

// ---- Output ---------------------------------------------------------------------------------------------

static void print_report(const Report *report)
{
    size_t i;
    json_t *entry;
    json_array_foreach(report->checks, i, entry)
    {
        const char *advice = json_string_value(json_object_get(entry, "advice"));
        printf("%-8s %-9s %s\n", json_string_value(json_object_get(entry, "verdict")),
            json_string_value(json_object_get(entry, "check")),
            json_string_value(json_object_get(entry, "found")));
        if (advice)
            printf("%18s → %s\n", "", advice);
    }
}

static LsStatus print_json(const Report *report)
{
    json_t *object = json_pack(
        "{s:s, s:b, s:O}", "version", LOCKSTEP_VERSION, "ok", !report->failed, "checks", report->checks);
    char *line = object ? ls_json_line(object) : NULL;
    json_decref(object);
    if (!line)
        return LS_FAIL(LS_INTERNAL, "no memory for the report");
    puts(line);
    free(line);
    return LS_OK;
}

static LsStatus examine(const LsInvocation *invocation, const LsConfig *config, bool json)
{
    Report report = {.checks = json_array()};
    check_cpu(&report);
    check_processor(&report);
    check_cores(&report);
    check_mpi(&report, invocation);
    add(&report, "hdf5", FINE, NULL, "%s", ls_dataset_library_version());
    // Open MPI keeps 4 MiB for each rank there, and a container's default is 64 MiB.
    check_space(&report, "shm", "/dev/shm", 64, "give the container more, for example --shm-size=1g");
    check_gpu(&report, config, invocation->comm ? ls_comm_local_rank(invocation->comm) : 0);
    check_space(&report, "disk", ".", 1024, "free some space, or run where there is more");
    LsStatus status = LS_OK;
    if (!report.checks || report.short_of_memory)
        status = LS_FAIL(LS_INTERNAL, "no memory for the report");
    else if (json)
        status = print_json(&report);
    else
        print_report(&report);
    json_decref(report.checks);
    if (status == LS_OK && report.failed)
        status = LS_FAIL(LS_UNAVAILABLE, "this machine cannot train; see the checks that failed");
    return status;
}

static LsStatus run(LsInvocation *invocation)
{
    bool json = false;
    const char *file = NULL;
    LsTextList settings = {0};
    LsConfig config;
    const LsFlag flags[] = {
        {"config", 'c', LS_FLAG_TEXT, &file, "FILE", "Configuration whose runtime section is examined.", 0,
            NULL},
        {"set", 0, LS_FLAG_LIST, &settings, "A.B=V", "Sets one option; may be repeated.", 0, NULL},
        {"json", 0, LS_FLAG_SWITCH, &json, NULL, "Prints a JSON object.", 0, NULL},
    };
    LsStatus status = ls_arguments_read(invocation, LS_FLAG_TABLE(flags), 0, 0);
    if (invocation->helped)
        return LS_OK;
    if (status == LS_OK)
        status = ls_launch_configure(file, &settings, &config);
    if (status == LS_OK && !ls_comm_launched())
        return examine(invocation, &config, json);
    LS_TRY(ls_invocation_join(invocation, status, NULL));
    return ls_invocation_speaks(invocation) ? examine(invocation, &config, json) : LS_OK;
}

const LsCommand ls_command_doctor = {
    .name = "doctor",
    .arguments = "[-c FILE] [--set A.B=V] [--json]",
    .summary = "says what a run would find on this machine",
    .about =
        "Checks processor, libraries, cores, launcher, shared memory, GPU driver and disk. Under mpirun "
        "it also\n"
        "says how many ranks met. Exit code 69 when this machine cannot train, or not on the device that\n"
        "runtime.device asks for.",
    .several_ranks = true,
    .run = run,
};
