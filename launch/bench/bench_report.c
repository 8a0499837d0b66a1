// What a benchmark reports: where and with what it ran, and then its own numbers.
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/log.h"
#include "base/memory.h"
#include "bench.h"
#include "sweeper.h"

static json_t *processor_name(void)
{
    char line[512];
    json_t *name = NULL;
    FILE *file = fopen("/proc/cpuinfo", "r");
    while (file && !name && fgets(line, sizeof line, file)) {
        char *colon = strchr(line, ':');
        line[strcspn(line, "\n")] = '\0';
        if (strncmp(line, "model name", 10) == 0 && colon && colon[1] == ' ')
            name = json_string(colon + 2);
    }
    if (file)
        fclose(file);
    return name ? name : json_string("unknown");
}

static json_t *describe_machine(LsComm *comm, LsDevice *device)
{
    char fingerprint[512] = "", gpus[512];
    if (device)
        ls_device_fingerprint(device, fingerprint, sizeof fingerprint);
    ls_device_gpus(gpus, sizeof gpus, NULL);
    json_t *machine = json_pack("{s:o, s:i, s:s, s:s}", "processor", processor_name(), "cores",
        (int)sysconf(_SC_NPROCESSORS_ONLN), "gpus", gpus, "mpi", ls_comm_library_version());
    if (device)
        json_object_set_new(machine, "device", json_string(fingerprint));
    if (*ls_comm_nccl_version())
        json_object_set_new(machine, "nccl", json_string(ls_comm_nccl_version()));
    if (comm) {
        json_object_set_new(machine, "host", json_string(ls_comm_host(comm)));
        json_object_set_new(machine, "ranks", json_integer(ls_comm_size(comm)));
        json_object_set_new(machine, "ranks_of_host", json_integer(ls_comm_local_size(comm)));
    }
    return machine;
}

static json_t *describe_command(const LsInvocation *invocation)
{
    json_t *words = json_array();
    char word[128];
    snprintf(word, sizeof word, "lockstep %s", invocation->command->name);
    json_array_append_new(words, json_string(word));
    for (int i = 1; i < invocation->argc; i++)
        json_array_append_new(words, json_string(invocation->argv[i]));
    return words;
}

json_t *ls_bench_report(const LsInvocation *invocation, LsDevice *device)
{
    char now[32];
    ls_clock_utc(now, sizeof now);
    const char *name = strchr(invocation->command->name, ' ') + 1;
    return json_pack("{s:s, s:s, s:s, s:o, s:o}", "benchmark", name, "version", LOCKSTEP_VERSION, "time", now,
        "command", describe_command(invocation), "machine", describe_machine(invocation->comm, device));
}

LsStatus ls_bench_report_write(json_t *report, const char *path)
{
    if (!report)
        return LS_FAIL(LS_INTERNAL, "no memory for the report");
    LsStatus status = path ? ls_json_write(path, report) : LS_OK;
    json_decref(report);
    return status;
}

LsStatus ls_bench_folder(const char *place, char folder[LS_PATH_MAX])
{
    char name[LS_PATH_MAX];
    if (!place)
        place = getenv("TMPDIR");
    LS_TRY(ls_path_join(name, place && *place ? place : "/tmp", "lockstep-bench-XXXXXX"));
    if (!mkdtemp(name))
        return ls_file_fail("create", name);
    memcpy(folder, name, sizeof name);
    ls_sweeper_start(folder);
    return LS_OK;
}

void ls_bench_folder_remove(const char *folder)
{
    char message[2048];
    snprintf(message, sizeof message, "%s", ls_status_message());
    if (ls_directory_remove(folder) != LS_OK)
        ls_warn("%s", ls_status_message());
    ls_sweeper_end();
    ls_status_adopt(LS_OK, message);
}

LsStatus ls_bench_size(const char *option, const char *text, size_t *out)
{
    static const char units[] = "KMG";
    char *end;
    errno = 0;
    unsigned long long number = strtoull(text, &end, 10);
    const char *unit = *end ? strchr(units, *end) : NULL;
    size_t scale = unit ? (size_t)1 << (10 * (size_t)(unit - units + 1)) : 1;
    bool whole =
        end != text && text[0] >= '0' && text[0] <= '9' && (*end == '\0' || (unit && end[1] == '\0'));
    if (errno || !whole || number == 0 || !ls_size_multiply((size_t)number, scale, out))
        return LS_FAIL(
            LS_USAGE, "%s %s: expected a size in bytes above 0, such as 4096, 4K, 25M or 1G", option, text);
    return LS_OK;
}
