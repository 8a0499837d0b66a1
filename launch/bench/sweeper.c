#include "sweeper.h"

#include <errno.h>
#include <fcntl.h>
#include <spawn.h>
#include <stdbool.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

enum { PROGRAMS_MAX = 256 };

// The sweeper reads lines of numbers, the newest of which says what runs. At the end of file nobody holds the
// other end any more. A launcher passes the signal on to its ranks, which may write for a moment longer.
static const char script[] = "while read -r line; do running=$line; done\n"
                             "[ -z \"$running\" ] || kill $running\n"
                             "rm -rf -- \"$1\" || { sleep 3; rm -rf -- \"$1\"; }\n"
                             "[ -z \"$running\" ] || { sleep 3; rm -rf -- \"$1\"; }\n";

static int line = -1; // to the sweeper
static pid_t sweeper;
static pid_t running[PROGRAMS_MAX];
static size_t count;

// In a session of its own, so that neither a terminal nor a launcher's signal ends it, with nothing open that
// a launcher would wait for.
static int spawn(const char *folder, int input)
{
    char *const words[] = {"sh", "-c", (char *)script, "lockstep-sweeper", (char *)folder, NULL};
    posix_spawn_file_actions_t actions;
    posix_spawnattr_t attributes;
    posix_spawn_file_actions_init(&actions);
    posix_spawn_file_actions_adddup2(&actions, input, STDIN_FILENO);
    posix_spawn_file_actions_addopen(&actions, STDOUT_FILENO, "/dev/null", O_WRONLY, 0);
    posix_spawn_file_actions_addopen(&actions, STDERR_FILENO, "/dev/null", O_WRONLY, 0);
    posix_spawnattr_init(&attributes);
    posix_spawnattr_setflags(&attributes, POSIX_SPAWN_SETSID);
    int code = posix_spawn(&sweeper, "/bin/sh", &actions, &attributes, words, environ);
    posix_spawnattr_destroy(&attributes);
    posix_spawn_file_actions_destroy(&actions);
    return code;
}

void ls_sweeper_start(const char *folder)
{
    int ends[2];
    if (line >= 0 || socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, ends) != 0)
        return;
    if (spawn(folder, ends[1]) == 0)
        line = ends[0];
    else
        close(ends[0]);
    close(ends[1]);
}

static void tell(void)
{
    char text[PROGRAMS_MAX * 12 + 2] = "";
    size_t used = 0;
    for (size_t i = 0; i < count; i++)
        used += (size_t)snprintf(text + used, sizeof text - used, "%d ", (int)running[i]);
    text[used++] = '\n';
    if (line >= 0)
        (void)send(line, text, used, MSG_NOSIGNAL);
}

void ls_sweeper_add(pid_t process)
{
    if (count == PROGRAMS_MAX)
        return;
    running[count++] = process;
    tell();
}

void ls_sweeper_forget(pid_t process)
{
    for (size_t i = 0; i < count; i++)
        if (running[i] == process)
            running[i--] = running[--count];
    tell();
}

void ls_sweeper_end(void)
{
    if (line < 0)
        return;
    close(line);
    line = -1;
    count = 0;
    while (waitpid(sweeper, NULL, 0) < 0 && errno == EINTR)
        continue;
}
