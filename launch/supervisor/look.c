#include "look.h"

#include <errno.h>
#include <fcntl.h>
#include <netdb.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/file.h"

enum { TEXT_MAX = 1 << 20, PROBE_MILLISECONDS = 2000, PROBES_AT_ONCE = 256 };

static const double LOOK_SECONDS = 30; // a discovery script may ask a cloud
static const char ssh_port[] = "22";

// ---- The child's part -----------------------------------------------------------------------------------

static LsStatus discover(const char *command, LsHosts *out)
{
    static char text[TEXT_MAX];
    FILE *output = popen(command, "re");
    if (!output)
        return LS_FAIL(LS_UNAVAILABLE, "cannot run --discover %s: %s", command, strerror(errno));
    size_t size = fread(text, 1, sizeof text - 1, output);
    text[size] = '\0';
    int code = pclose(output);
    if (code != 0)
        return LS_FAIL(LS_UNAVAILABLE, "--discover %s ended with code %d", command,
            WIFEXITED(code) ? WEXITSTATUS(code) : 128 + WTERMSIG(code));
    return ls_hosts_read_discovery(text, "the output of --discover", out);
}

static LsStatus list_hosts(const LsLookOptions *o, LsHosts *out)
{
    char *text;
    size_t size;
    if (o->discover)
        return discover(o->discover, out);
    LS_TRY(ls_file_read(o->hostfile, TEXT_MAX, &text, &size));
    LsStatus status = ls_hosts_read_hostfile(text, o->hostfile, out);
    free(text);
    return status;
}

// Begins a connection; -1 when it fails at once.
static int begin_connection(const char *host)
{
    struct addrinfo hints = {.ai_socktype = SOCK_STREAM}, *list = NULL;
    const char *at = strrchr(host, '@');
    if (getaddrinfo(at ? at + 1 : host, ssh_port, &hints, &list) != 0)
        return -1;
    int fd = socket(list->ai_family, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    if (fd >= 0 && connect(fd, list->ai_addr, list->ai_addrlen) != 0 && errno != EINPROGRESS) {
        close(fd);
        fd = -1;
    }
    freeaddrinfo(list);
    return fd;
}

// Asks up to PROBES_AT_ONCE hosts at the same time.
static void connect_some(LsHost *host, size_t count)
{
    struct pollfd probe[PROBES_AT_ONCE];
    size_t open = 0;
    for (size_t i = 0; i < count; i++) {
        host[i].here = ls_host_is_local(host[i].name);
        probe[i] =
            (struct pollfd){.fd = host[i].here ? -1 : begin_connection(host[i].name), .events = POLLOUT};
        open += probe[i].fd >= 0;
    }
    double end = ls_clock_seconds() + PROBE_MILLISECONDS * 1e-3;
    while (open > 0 && ls_clock_seconds() < end && poll(probe, count, 100) >= 0)
        for (size_t i = 0; i < count; i++) {
            int error = 0;
            socklen_t size = sizeof error;
            if (probe[i].fd < 0 || !probe[i].revents)
                continue;
            getsockopt(probe[i].fd, SOL_SOCKET, SO_ERROR, &error, &size);
            host[i].here = error == 0;
            close(probe[i].fd);
            probe[i].fd = -1;
            open--;
        }
    for (size_t i = 0; i < count; i++)
        if (probe[i].fd >= 0)
            close(probe[i].fd);
}

static pid_t begin_command(const char *probe, const char *host)
{
    pid_t child = fork();
    if (child == 0) {
        char command[LS_PATH_MAX];
        snprintf(command, sizeof command, "%s \"$0\"", probe);
        alarm(PROBE_MILLISECONDS / 1000 + 1);
        execl("/bin/sh", "sh", "-c", command, host, (char *)NULL);
        _exit(127);
    }
    return child;
}

static void command_some(const char *probe, LsHost *host, size_t count)
{
    pid_t child[PROBES_AT_ONCE];
    for (size_t i = 0; i < count; i++)
        child[i] = ls_host_is_local(host[i].name) ? 0 : begin_command(probe, host[i].name);
    for (size_t i = 0; i < count; i++) {
        int code = 1;
        host[i].here =
            child[i] == 0 || (child[i] > 0 && waitpid(child[i], &code, 0) == child[i] && code == 0);
    }
}

static void probe_hosts(const LsLookOptions *o, LsHosts *hosts)
{
    for (size_t first = 0; first < hosts->count; first += PROBES_AT_ONCE) {
        size_t count = hosts->count - first < PROBES_AT_ONCE ? hosts->count - first : PROBES_AT_ONCE;
        if (o->probe)
            command_some(o->probe, hosts->host + first, count);
        else
            connect_some(hosts->host + first, count);
    }
}

// Prints "ok" and the hosts that answer, or "no" and why.
static _Noreturn void look(const LsLookOptions *o, int output, pid_t parent)
{
    sigset_t none;
    sigemptyset(&none);
    sigprocmask(SIG_SETMASK, &none, NULL);
    setpgid(0, 0);
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    if (getppid() != parent)
        _exit(1);
    LsHosts hosts = {0};
    LsStatus status = list_hosts(o, &hosts);
    if (status == LS_OK)
        probe_hosts(o, &hosts);
    FILE *file = fdopen(output, "w");
    if (!file)
        _exit(1);
    fprintf(file, status == LS_OK ? "ok\n" : "no %d %s\n", (int)status, ls_status_message());
    for (size_t i = 0; i < hosts.count; i++)
        if (hosts.host[i].here)
            fprintf(file, "%s:%d\n", hosts.host[i].name, hosts.host[i].slots);
    fclose(file);
    _exit(0);
}

// ---- The supervisor's part ------------------------------------------------------------------------------

LsStatus ls_look_start(const LsLookOptions *options, LsLook *out, double now)
{
    int ends[2];
    if (pipe2(ends, O_CLOEXEC) != 0)
        return LS_FAIL(LS_INTERNAL, "cannot make a pipe: %s", strerror(errno));
    fcntl(ends[0], F_SETFL, O_NONBLOCK);
    fflush(NULL);
    pid_t parent = getpid(), child = fork();
    if (child == 0)
        look(options, ends[1], parent);
    close(ends[1]);
    if (child < 0) {
        close(ends[0]);
        return LS_FAIL(LS_INTERNAL, "cannot start a process: %s", strerror(errno));
    }
    setpgid(child, child);
    *out = (LsLook){.pid = child, .output = ends[0], .started = now};
    return LS_OK;
}

void ls_look_cancel(LsLook *l)
{
    if (l->pid <= 0)
        return;
    kill(-l->pid, SIGKILL);
    waitpid(l->pid, NULL, 0);
    close(l->output);
    free(l->text);
    *l = (LsLook){0};
}

static LsStatus read_answer(char *text, LsHosts *out)
{
    int status = LS_INTERNAL;
    if (strncmp(text, "ok\n", 3) == 0)
        return ls_hosts_read_discovery(text + 3, "the look at the hosts", out);
    text[strcspn(text, "\n")] = '\0';
    const char *sentence = sscanf(text, "no %d", &status) == 1 ? strchr(text + 3, ' ') : NULL;
    return ls_status_adopt((LsStatus)status, sentence ? sentence + 1 : "the look at the hosts failed");
}

// The end of what the child prints, an error, or more than it may.
static bool read_all(LsLook *l)
{
    for (;;) {
        char *grown = realloc(l->text, l->size + 4096 + 1);
        if (!grown)
            return true;
        l->text = grown;
        ssize_t got = read(l->output, l->text + l->size, 4096);
        if (got > 0)
            l->size += (size_t)got;
        l->text[l->size] = '\0';
        if (got < 0 && errno == EINTR)
            continue;
        if (got <= 0 || l->size > TEXT_MAX)
            return !(got < 0 && errno == EAGAIN);
    }
}

bool ls_look_poll(LsLook *l, double now, LsStatus *status, LsHosts *out)
{
    if (l->pid <= 0)
        return false;
    bool over = read_all(l), late = now - l->started > LOOK_SECONDS;
    if (!over && !late)
        return false;
    if (over)
        *status = l->text ? read_answer(l->text, out) : LS_FAIL(LS_INTERNAL, "out of memory listing hosts");
    else
        *status = LS_FAIL(
            LS_UNAVAILABLE, "the hosts are not known after %g s: --discover or --probe hangs", LOOK_SECONDS);
    ls_look_cancel(l);
    return true;
}
