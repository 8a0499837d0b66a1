#include "launcher.h"
#include "sweeper.h"

#include <errno.h>
#include <fcntl.h>
#include <sched.h>
#include <signal.h>
#include <spawn.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

void ls_words_add(LsWords *words, const char *word)
{
    if (words->count < LS_WORDS_MAX)
        words->word[words->count] = word;
    words->count++; // beyond the limit: it shows when they are run
}

void ls_words_format(LsWords *words, const char *format, ...)
{
    va_list arguments;
    size_t left = sizeof words->room - words->used;
    char *place = words->room + words->used;
    va_start(arguments, format);
    int length = vsnprintf(place, left, format, arguments);
    va_end(arguments);
    if (length < 0 || (size_t)length >= left) {
        words->count = LS_WORDS_MAX + 1;
        return;
    }
    words->used += (size_t)length + 1;
    ls_words_add(words, place);
}

// ---- The launcher ---------------------------------------------------------------------------------------

static void add_launcher_word(LsWords *words, const char *word, size_t length, int ranks)
{
    static const char mark[] = "{ranks}";
    const char *place = memmem(word, length, mark, sizeof mark - 1);
    if (!place) {
        ls_words_format(words, "%.*s", (int)length, word);
        return;
    }
    const char *rest = place + sizeof mark - 1;
    ls_words_format(words, "%.*s%d%.*s", (int)(place - word), word, ranks, (int)(word + length - rest), rest);
}

LsStatus ls_words_self(LsWords *words)
{
    static char self[LS_PATH_MAX];
    ssize_t length = readlink("/proc/self/exe", self, sizeof self - 1);
    if (length < 0)
        return ls_file_fail("read", "/proc/self/exe");
    self[length] = '\0';
    ls_words_add(words, self);
    return LS_OK;
}

LsStatus ls_words_launch(LsWords *words, const char *launcher, int ranks)
{
    bool enough = ranks <= sysconf(_SC_NPROCESSORS_ONLN);
    if (!launcher)
        launcher = enough ? "mpirun -np {ranks} --bind-to core"
                          : "mpirun -np {ranks} --oversubscribe --bind-to none";
    for (const char *word = launcher; *word;) {
        size_t length = strcspn(word, " ");
        if (length > 0)
            add_launcher_word(words, word, length, ranks);
        word += length + (word[length] == ' ');
    }
    return ls_words_self(words);
}

// ---- Running --------------------------------------------------------------------------------------------

static LsStatus status_of(int exit_code)
{
    static const int codes[] = {
#define LS_STATUS_CODE(name, code, text) code,
        LS_STATUS_LIST(LS_STATUS_CODE)
#undef LS_STATUS_CODE
    };
    for (size_t i = 1; i < sizeof codes / sizeof *codes; i++)
        if (codes[i] == exit_code)
            return (LsStatus)i;
    return LS_INTERNAL;
}

// What the program said: its line, or the last one of all that there are.
static void find_sentence(const char *path, char *sentence, size_t size)
{
    char line[2048];
    bool own = false;
    FILE *file = fopen(path, "r");
    while (file && !own && fgets(line, sizeof line, file)) {
        line[strcspn(line, "\n")] = '\0';
        own = strncmp(line, "lockstep: ", 10) == 0;
        if (own || *line)
            snprintf(sentence, size, "%s", own ? line + 10 : line);
    }
    if (file)
        fclose(file);
}

// The core'th of the processors that this process may use, and around again.
static void choose_core(const cpu_set_t *all, int core, cpu_set_t *out)
{
    int wanted = core % CPU_COUNT(all);
    CPU_ZERO(out);
    for (int i = 0; i < CPU_SETSIZE; i++)
        if (CPU_ISSET(i, all) && wanted-- == 0)
            CPU_SET(i, out);
}

static int spawn(const LsWords *words, LsChild *child)
{
    posix_spawn_file_actions_t actions;
    posix_spawn_file_actions_init(&actions);
    posix_spawn_file_actions_addopen(&actions, STDIN_FILENO, "/dev/null", O_RDONLY, 0);
    posix_spawn_file_actions_addopen(&actions, STDOUT_FILENO, "/dev/null", O_WRONLY, 0);
    posix_spawn_file_actions_addopen(
        &actions, STDERR_FILENO, child->errors, O_WRONLY | O_CREAT | O_TRUNC, 0666);
    int code =
        posix_spawnp(&child->process, words->word[0], &actions, NULL, (char *const *)words->word, environ);
    posix_spawn_file_actions_destroy(&actions);
    return code;
}

LsStatus ls_words_start(const LsWords *words, const char *folder, const char *name, int core, LsChild *out)
{
    LsChild child = {0};
    cpu_set_t all, one;
    if (words->count > LS_WORDS_MAX)
        return LS_FAIL(LS_USAGE, "the command line for %s is too long", words->word[0]);
    LS_TRY(ls_path_join(child.errors, folder, name));
    // The child inherits it.
    bool bound = core >= 0 && sched_getaffinity(0, sizeof all, &all) == 0;
    if (bound) {
        choose_core(&all, core, &one);
        bound = sched_setaffinity(0, sizeof one, &one) == 0;
    }
    int code = spawn(words, &child);
    if (bound)
        (void)sched_setaffinity(0, sizeof all, &all);
    if (code != 0)
        return LS_FAIL(LS_UNAVAILABLE, "cannot start %s: %s; --launcher names another one", words->word[0],
            strerror(code));
    ls_sweeper_add(child.process);
    *out = child;
    return LS_OK;
}

LsStatus ls_child_wait(LsChild *child, const char *what)
{
    char sentence[2048] = "it said nothing";
    int result;
    while (waitpid(child->process, &result, 0) < 0)
        if (errno != EINTR)
            return LS_FAIL(LS_INTERNAL, "%s: cannot wait for it: %s", what, strerror(errno));
    ls_sweeper_forget(child->process);
    child->process = 0;
    if (WIFEXITED(result) && WEXITSTATUS(result) == 0)
        return LS_OK;
    find_sentence(child->errors, sentence, sizeof sentence);
    if (WIFSIGNALED(result))
        return LS_FAIL(LS_INTERNAL, "%s: ended by signal %d: %s", what, WTERMSIG(result), sentence);
    return LS_FAIL(status_of(WEXITSTATUS(result)), "%s: %s", what, sentence);
}

void ls_child_kill(LsChild *child)
{
    if (child->process <= 0)
        return;
    kill(child->process, SIGKILL);
    waitpid(child->process, NULL, 0);
    ls_sweeper_forget(child->process);
    child->process = 0;
}
