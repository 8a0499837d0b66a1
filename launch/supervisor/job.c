#include "job.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <unistd.h>
#include <wordexp.h>

#include "supervisor/scratch.h"
#include "train/pulse.h"

// ---- The command line -----------------------------------------------------------------------------------

typedef struct Words {
    size_t count, capacity;
    char **word; // owned, the texts too; NULL-terminated
    bool failed;
} Words;

static void add(Words *words, const char *text)
{
    if (words->count + 2 > words->capacity) {
        size_t capacity = words->capacity ? 2 * words->capacity : 64;
        char **grown = realloc(words->word, capacity * sizeof *grown);
        words->failed = words->failed || !grown;
        if (!grown)
            return;
        words->word = grown;
        words->capacity = capacity;
    }
    char *copy = strdup(text);
    words->failed = words->failed || !copy;
    words->word[words->count] = copy;
    words->count += copy != NULL;
    words->word[words->count] = NULL;
}

static void add_all(Words *words, const char *const *texts)
{
    for (; *texts; texts++)
        add(words, *texts);
}

static void free_words(Words *words)
{
    for (size_t i = 0; i < words->count; i++)
        free(words->word[i]);
    free(words->word);
}

static LsStatus add_extra(Words *words, const char *extra)
{
    wordexp_t split;
    if (!extra)
        return LS_OK;
    if (wordexp(extra, &split, WRDE_NOCMD | WRDE_UNDEF) != 0)
        return LS_FAIL(LS_USAGE, "--mpi-args %s: cannot be taken apart as a shell would", extra);
    for (size_t i = 0; i < split.we_wordc; i++)
        add(words, split.we_wordv[i]);
    wordfree(&split);
    return LS_OK;
}

// Every option that the user gave by the environment, and what ls_job_start adds; by name, since values do
// not belong on a command line.
static void add_environment(Words *words)
{
    static const char *const ours[] = {
        "LOCKSTEP_SUPERVISOR", "LOCKSTEP_SECRET", "LOCKSTEP_INCARNATION", "LOCKSTEP_SCRATCH", NULL};
    for (size_t i = 0; ours[i]; i++)
        add_all(words, (const char *const[]){"-x", ours[i], NULL});
    for (char **variable = environ; *variable; variable++) {
        char name[128];
        size_t length = strcspn(*variable, "=");
        if (strncmp(*variable, "LOCKSTEP_", 9) != 0 || length >= sizeof name)
            continue;
        snprintf(name, sizeof name, "%.*s", (int)length, *variable);
        bool known = false;
        for (size_t i = 0; ours[i]; i++)
            known = known || strcmp(ours[i], name) == 0;
        if (!known)
            add_all(words, (const char *const[]){"-x", name, NULL});
    }
}

// Open MPI's own variables may stem from a job that this process is part of; they are for its ranks alone.
static void add_mpirun(Words *words, const LsJobOptions *o, const char *scratch, const char *hostfile)
{
    char number[32], host[64];
    snprintf(number, sizeof number, "%d", o->ranks);
    // The launcher asks processes to end and waits for a second before it kills them; by then there is
    // nothing to wait for.
    add_all(words, (const char *const[]){"mpirun", "-np", number, "--mca", "odls_base_sigkill_timeout", "0",
                       "--mca", "orte_tmpdir_base", scratch, NULL});
    if (*hostfile) {
        add_all(words, (const char *const[]){"--hostfile", hostfile, NULL});
    } else if (!o->allocated) {
        snprintf(host, sizeof host, "localhost:%d", o->ranks);
        add_all(words, (const char *const[]){"--host", host, NULL});
    }
    if (o->ranks > sysconf(_SC_NPROCESSORS_ONLN) && !o->hosts && !o->allocated)
        add_all(words, (const char *const[]){"--oversubscribe", "--bind-to", "none", NULL});
    add_environment(words);
}

static void add_srun(Words *words, const LsJobOptions *o)
{
    char number[32];
    snprintf(number, sizeof number, "%d", o->ranks);
    add_all(words, (const char *const[]){"srun", "-n", number, "--mpi=pmix", "--kill-on-bad-exit=1", NULL});
    if (o->hosts) // SLURM_HOSTFILE has a host for each task
        add(words, "--distribution=arbitrary");
}

static LsStatus build_command(const LsJobOptions *o, const char *scratch, const char *hostfile, Words *words)
{
    if (o->launcher == LS_LAUNCHER_SRUN)
        add_srun(words, o);
    else
        add_mpirun(words, o, scratch, hostfile);
    LS_TRY(add_extra(words, o->extra));
    add(words, o->program);
    for (char *const *argument = o->arguments; *argument; argument++)
        add(words, *argument);
    if (o->resume)
        add_all(words, (const char *const[]){"--resume", o->resume, NULL});
    return words->failed ? LS_FAIL(LS_INTERNAL, "out of memory starting the job") : LS_OK;
}

static LsStatus write_hostfile(const LsJobOptions *o, const char *scratch, char path[LS_PATH_MAX])
{
    path[0] = '\0';
    if (!o->hosts)
        return LS_OK;
    LS_TRY(ls_path_join(path, scratch, "hosts"));
    FILE *file = fopen(path, "we");
    if (!file)
        return LS_FAIL(LS_IO, "cannot write %s: %s", path, strerror(errno));
    int left = o->ranks;
    for (size_t i = 0; i < o->hosts->count; i++) {
        const LsHost *host = &o->hosts->host[i];
        if (!ls_host_usable(host, 0, o->now) || host->slots == 0)
            continue;
        if (o->launcher == LS_LAUNCHER_MPIRUN)
            fprintf(file, "%s slots=%d\n", host->name, host->slots);
        for (int n = 0; o->launcher == LS_LAUNCHER_SRUN && n < host->slots && left > 0; n++, left--)
            fprintf(file, "%s\n", host->name);
    }
    return fclose(file) == 0 ? LS_OK : LS_FAIL(LS_IO, "cannot write %s: %s", path, strerror(errno));
}

// ---- The process ----------------------------------------------------------------------------------------

static void set_environment(const LsJobOptions *o, const char *scratch, const char *hostfile)
{
    char secret[2 * LS_PULSE_KEY + 1], number[32];
    for (size_t i = 0; i < LS_PULSE_KEY; i++)
        snprintf(secret + 2 * i, 3, "%02x", o->key[i]);
    snprintf(number, sizeof number, "%u", o->incarnation);
    setenv("LOCKSTEP_SUPERVISOR", o->supervisor, 1);
    setenv("LOCKSTEP_SECRET", secret, 1);
    setenv("LOCKSTEP_INCARNATION", number, 1);
    setenv("LOCKSTEP_SCRATCH", scratch, 1);
    if (o->hosts && o->launcher == LS_LAUNCHER_SRUN)
        setenv("SLURM_HOSTFILE", hostfile, 1);
}

// In the child: becomes the launcher. What fails is told by exit code 127, as a shell does.
static _Noreturn void become(char **command, const LsJobOptions *o, const char *scratch, const char *hostfile,
    int errors, pid_t parent)
{
    sigset_t none;
    sigemptyset(&none);
    sigprocmask(SIG_SETMASK, &none, NULL);
    signal(SIGPIPE, SIG_DFL);
    setpgid(0, 0);
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    if (getppid() != parent)
        _exit(127);
    // A launcher in the background that reads from a terminal would be stopped.
    int nothing = open("/dev/null", O_RDONLY);
    if (nothing >= 0)
        dup2(nothing, STDIN_FILENO);
    dup2(errors, STDERR_FILENO);
    set_environment(o, scratch, hostfile);
    execvp(command[0], command);
    dprintf(STDERR_FILENO, "lockstep: cannot start %s: %s\n", command[0], strerror(errno));
    _exit(127);
}

static LsStatus spawn(char **command, const LsJobOptions *o, const char *hostfile, LsJob *job)
{
    int errors[2];
    if (pipe2(errors, O_CLOEXEC) != 0)
        return LS_FAIL(LS_INTERNAL, "cannot make a pipe: %s", strerror(errno));
    fcntl(errors[0], F_SETFL, O_NONBLOCK);
    fflush(NULL);
    pid_t parent = getpid(), child = fork();
    if (child == 0)
        become(command, o, job->scratch, hostfile, errors[1], parent);
    close(errors[1]);
    if (child < 0) {
        close(errors[0]);
        return LS_FAIL(LS_INTERNAL, "cannot start a process: %s", strerror(errno));
    }
    setpgid(child, child); // whichever of the two comes first
    job->pid = child;
    job->errors = errors[0];
    return LS_OK;
}

LsStatus ls_job_start(const LsJobOptions *options, LsJob *out)
{
    static LsJob job; // for its size
    char hostfile[LS_PATH_MAX];
    Words words = {0};
    job = (LsJob){.errors = -1, .scratch_lock = -1};
    LS_TRY(ls_scratch_create(job.scratch, &job.scratch_lock));
    LsStatus status = write_hostfile(options, job.scratch, hostfile);
    if (status == LS_OK)
        status = build_command(options, job.scratch, hostfile, &words);
    if (status == LS_OK)
        status = spawn(words.word, options, hostfile, &job);
    free_words(&words);
    if (status != LS_OK) {
        ls_scratch_leave(job.scratch, job.scratch_lock);
        return status;
    }
    *out = job;
    return LS_OK;
}

void ls_job_signal(const LsJob *job, int number)
{
    if (job->pid > 0)
        kill(job->pid, number);
}

void ls_job_kill(const LsJob *job)
{
    if (job->pid > 0)
        kill(-job->pid, SIGKILL);
}

// ---- What it prints -------------------------------------------------------------------------------------

static void pass_on(LsJob *job, bool whole)
{
    static const char mark[] = "lockstep: ";
    // The first one is the cause; what others say later follows from it.
    bool failure = strncmp(job->line, mark, strlen(mark)) == 0 && job->sentence[0] == '\0';
    if (failure)
        snprintf(job->sentence, sizeof job->sentence, "%s", job->line + strlen(mark));
    else if (job->used > 0 || whole)
        fprintf(stderr, "%s%s", job->line, whole ? "\n" : "");
    job->used = 0;
    job->line[0] = '\0';
}

static void take(LsJob *job, const char *text, size_t size)
{
    for (size_t i = 0; i < size; i++) {
        if (text[i] == '\n') {
            pass_on(job, true);
            continue;
        }
        if (job->used + 1 == sizeof job->line)
            pass_on(job, false);
        job->line[job->used++] = text[i];
        job->line[job->used] = '\0';
    }
}

void ls_job_read(LsJob *job)
{
    char text[8192];
    if (job->errors < 0)
        return;
    for (;;) {
        ssize_t got = read(job->errors, text, sizeof text);
        if (got < 0 && errno == EINTR)
            continue;
        if (got == 0) {
            close(job->errors);
            job->errors = -1;
        }
        if (got <= 0)
            return;
        take(job, text, (size_t)got);
    }
}

void ls_job_end(LsJob *job)
{
    ls_job_read(job);
    if (job->used > 0)
        pass_on(job, true);
    if (job->errors >= 0)
        close(job->errors);
    job->errors = -1;
    job->pid = 0;
    ls_scratch_leave(job->scratch, job->scratch_lock);
    job->scratch_lock = -1;
}
