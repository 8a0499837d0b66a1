#include "base/cores.h"

#include <sched.h>
#include <stdio.h>
#include <string.h>

#include "base/thread.h"

enum { PATH_ROOM = 4096, PATH_MOST = 3000 };

// ---- Control groups -------------------------------------------------------------------------------------

static double stricter(double a, double b)
{
    return a > 0 && (b == 0 || a < b) ? a : b;
}

// "QUOTA PERIOD" in microseconds; "max PERIOD": none.
static double read_limit(const char *folder)
{
    char path[PATH_ROOM];
    double quota = 0, period = 0;
    snprintf(path, sizeof path, "%s/cpu.max", folder);
    FILE *file = fopen(path, "r");
    if (!file)
        return 0;
    bool known = fscanf(file, "%lf %lf", &quota, &period) == 2 && quota > 0 && period > 0;
    fclose(file);
    return known ? quota / period : 0;
}

static double read_number(const char *folder, const char *name)
{
    char path[PATH_ROOM];
    double number = 0;
    snprintf(path, sizeof path, "%s/%s", folder, name);
    FILE *file = fopen(path, "r");
    if (!file)
        return 0;
    if (fscanf(file, "%lf", &number) != 1)
        number = 0;
    fclose(file);
    return number;
}

// Version 1; a quota of -1: none.
static double read_old_limit(const char *folder)
{
    double quota = read_number(folder, "cpu.cfs_quota_us"), period = read_number(folder, "cpu.cfs_period_us");
    return quota > 0 && period > 0 ? quota / period : 0;
}

// Of `group` below `top` and of all between. A container may see its own group as the top, under a path that
// it does not see: then only the top counts.
static double walk_up(const char *top, const char *group, double (*read)(const char *folder))
{
    char folder[PATH_ROOM];
    size_t root = strlen(top);
    double limit = 0;
    snprintf(folder, sizeof folder, "%.*s%.*s", PATH_MOST / 2, top, PATH_MOST / 2, group);
    for (;;) {
        limit = stricter(read(folder), limit);
        char *slash = strrchr(folder, '/');
        if (!slash || slash < folder + root)
            return limit;
        *slash = '\0';
    }
}

// One line of /proc/PID/cgroup: "0::GROUP", or "4:cpu,cpuacct:GROUP" in version 1.
static double limit_of_line(const char *mount, char *line)
{
    char *controllers = strchr(line, ':');
    char *group = controllers ? strchr(controllers + 1, ':') : NULL;
    if (!group)
        return 0;
    *group++ = '\0';
    controllers++;
    group[strcspn(group, "\n")] = '\0';
    if (*controllers == '\0')
        return walk_up(mount, group, read_limit);
    char list[PATH_ROOM], top[PATH_ROOM];
    snprintf(list, sizeof list, ",%.*s,", PATH_MOST, controllers);
    if (!strstr(list, ",cpu,"))
        return 0;
    snprintf(top, sizeof top, "%.*s/cpu", PATH_MOST, mount);
    return walk_up(top, group, read_old_limit);
}

double ls_cores_limit_at(const char *mount, const char *own)
{
    char line[PATH_ROOM];
    double limit = 0;
    FILE *file = fopen(own, "r");
    while (file && fgets(line, sizeof line, file))
        limit = stricter(limit_of_line(mount, line), limit);
    if (file)
        fclose(file);
    return limit;
}

double ls_cores_limit(void)
{
    return ls_cores_limit_at("/sys/fs/cgroup", "/proc/self/cgroup");
}

// ---- Cores ----------------------------------------------------------------------------------------------

// The lowest number among the hardware threads of a processor's core; the processor's own where that is not
// known.
static int core_of(int processor)
{
    char path[128];
    int lowest = processor;
    snprintf(path, sizeof path, "/sys/devices/system/cpu/cpu%d/topology/thread_siblings_list", processor);
    FILE *file = fopen(path, "r");
    if (!file)
        return processor;
    if (fscanf(file, "%d", &lowest) != 1 || lowest < 0 || lowest >= CPU_SETSIZE)
        lowest = processor;
    fclose(file);
    return lowest;
}

// Processors that a thread gets when it asks for all of them. Nothing is changed in the end.
static bool processors_in_reach(cpu_set_t *out)
{
    cpu_set_t own;
    if (sched_getaffinity(0, sizeof own, &own) != 0)
        return false;
    ls_thread_unbind();
    bool known = sched_getaffinity(0, sizeof *out, out) == 0;
    sched_setaffinity(0, sizeof own, &own);
    return known;
}

size_t ls_cores_usable(void)
{
    cpu_set_t all, seen;
    size_t cores = 0;
    double limit = ls_cores_limit();
    CPU_ZERO(&seen);
    if (!processors_in_reach(&all))
        return 1;
    for (int processor = 0; processor < CPU_SETSIZE; processor++) {
        int core = CPU_ISSET(processor, &all) ? core_of(processor) : -1;
        if (core < 0 || CPU_ISSET(core, &seen))
            continue;
        CPU_SET(core, &seen);
        cores++;
    }
    if (limit > 0 && limit < (double)cores)
        cores = (size_t)limit;
    return cores > 0 ? cores : 1;
}
