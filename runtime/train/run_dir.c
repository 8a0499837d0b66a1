#include "train/run_dir.h"

#include <ctype.h>
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/random.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

enum { RUN_ID_LIMIT = 64, HOST_MAX = 256, SHARED_TRIES = 20, LOCK_TRIES = 10 };

// What rank 0 tells the others of its claim.
typedef struct Claim {
    char path[LS_PATH_MAX];
    char run_id[33];
    char token[33]; // what the file attempts/NNNNNN/token holds
    char host[HOST_MAX];
    int32_t attempt;
} Claim;

// ls_file_fail with LS_IO for everything: what a run writes is never a missing input.
static LsStatus fail_io(const char *action, const char *path)
{
    return LS_FAIL(LS_IO, "cannot %s %s: %s", action, path, strerror(errno));
}

static LsStatus random_text(char text[33])
{
    uint8_t bytes[16];
    if (getrandom(bytes, sizeof bytes, 0) != (ssize_t)sizeof bytes)
        return LS_FAIL(LS_INTERNAL, "cannot draw random bytes for a run id: %s", strerror(errno));
    for (size_t i = 0; i < sizeof bytes; i++)
        snprintf(text + 2 * i, 3, "%02x", bytes[i]);
    return LS_OK;
}

static bool is_run_id(const char *text)
{
    return strlen(text) == 32 && strspn(text, "0123456789abcdef") == 32;
}

// ---- The lock -------------------------------------------------------------------------------------------

// Says who holds the lock, as far as its text tells.
static LsStatus fail_in_use(int fd, const char *path)
{
    char text[HOST_MAX + 64] = "", host[HOST_MAX] = "";
    long long process = 0;
    int attempt = 0;
    ssize_t got = pread(fd, text, sizeof text - 1, 0);
    text[got > 0 ? got : 0] = '\0';
    if (sscanf(text, "%lld %255s %d", &process, host, &attempt) != 3)
        return LS_FAIL(
            LS_IO, "%s is in use by another process; wait for it or choose another run directory", path);
    for (char *c = host; *c; c++)
        if (!isgraph((unsigned char)*c))
            *c = '?';
    return LS_FAIL(LS_IO,
        "%s is in use by process %lld on host %s (attempt %d); stop it or choose another run directory", path,
        process, host, attempt);
}

static LsStatus take_lock(LsRunDir *run)
{
    char path[LS_PATH_MAX];
    LS_TRY(ls_path_join(path, run->path, "lock"));
    int fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0666);
    if (fd < 0)
        return fail_io("open", path);
    // `lockstep status` holds the lock for an instant to see whether anybody does.
    for (int i = 0; i < LOCK_TRIES && flock(fd, LOCK_EX | LOCK_NB) != 0 && errno == EWOULDBLOCK; i++)
        nanosleep(&(struct timespec){.tv_nsec = 20 * 1000 * 1000}, NULL);
    if (flock(fd, LOCK_EX | LOCK_NB) != 0) {
        LsStatus status = errno == EWOULDBLOCK ? fail_in_use(fd, run->path) : fail_io("lock", path);
        close(fd);
        return status;
    }
    run->lock = fd;
    return LS_OK;
}

static LsStatus sign_lock(const LsRunDir *run, const char *host)
{
    char path[LS_PATH_MAX], text[HOST_MAX + 64];
    LS_TRY(ls_path_join(path, run->path, "lock"));
    int size = snprintf(text, sizeof text, "%lld %.255s %d\n", (long long)getpid(), host, run->attempt);
    if (ftruncate(run->lock, 0) != 0)
        return fail_io("empty", path);
    return ls_file_write_at(run->lock, path, text, (size_t)size, 0);
}

bool ls_run_dir_held(const char *run_dir, char *by, size_t size)
{
    char path[LS_PATH_MAX];
    by[0] = '\0';
    int fd = ls_path_join(path, run_dir, "lock") == LS_OK ? open(path, O_RDONLY | O_CLOEXEC) : -1;
    if (fd < 0)
        return false;
    bool held = flock(fd, LOCK_SH | LOCK_NB) != 0 && errno == EWOULDBLOCK;
    char text[HOST_MAX + 64] = "", host[HOST_MAX] = "";
    long long process = 0;
    if (held && pread(fd, text, sizeof text - 1, 0) > 0 && sscanf(text, "%lld %255s", &process, host) == 2) {
        for (char *c = host; *c; c++)
            *c = isgraph((unsigned char)*c) ? *c : '?';
        snprintf(by, size, "process %lld on %s", process, host);
    }
    close(fd);
    return held;
}

// ---- Attempts -------------------------------------------------------------------------------------------

// The highest number in attempts/, 0 if there is none. Sets errno and returns -1 when it cannot be read.
static int newest_attempt(const char *run_dir)
{
    char path[LS_PATH_MAX];
    if (ls_path_join(path, run_dir, "attempts") != LS_OK)
        return errno = ENAMETOOLONG, -1;
    DIR *directory = opendir(path);
    if (directory == NULL)
        return -1;
    int newest = 0;
    struct dirent *entry;
    while ((entry = readdir(directory)) != NULL) {
        size_t length = strlen(entry->d_name);
        if (length < 6 || length > 9 || strspn(entry->d_name, "0123456789") != length)
            continue;
        int number = atoi(entry->d_name);
        newest = number > newest ? number : newest;
    }
    closedir(directory);
    return newest;
}

static LsStatus attempt_path(char path[LS_PATH_MAX], const LsRunDir *run, const char *name)
{
    char place[64];
    snprintf(place, sizeof place, "attempts/%06d%s%s", run->attempt, *name ? "/" : "", name);
    return ls_path_join(path, run->path, place);
}

// Reads attempts/run_id. *found is false when there is none, which is a new run.
static LsStatus read_run_id(const LsRunDir *run, char run_id[33], bool *found)
{
    char path[LS_PATH_MAX], *text;
    size_t size;
    LS_TRY(ls_path_join(path, run->path, "attempts/run_id"));
    LsStatus status = ls_file_read(path, RUN_ID_LIMIT, &text, &size);
    *found = status == LS_OK;
    if (status == LS_NO_INPUT)
        return LS_OK;
    LS_TRY(status);
    text[strcspn(text, "\n")] = '\0';
    bool valid = is_run_id(text);
    if (valid)
        memcpy(run_id, text, 33);
    free(text);
    return valid ? LS_OK : LS_FAIL(LS_IO, "%s is damaged; choose another run directory", path);
}

static LsStatus write_run_id(const LsRunDir *run)
{
    char path[LS_PATH_MAX], text[34];
    LS_TRY(ls_path_join(path, run->path, "attempts/run_id"));
    int size = snprintf(text, sizeof text, "%s\n", run->run_id);
    return ls_file_replace(path, text, (size_t)size);
}

// mkdir decides between two attempts that a broken lock let in: whoever makes the directory owns its number.
static LsStatus make_attempt(LsRunDir *run)
{
    char path[LS_PATH_MAX];
    for (;;) {
        int newest = newest_attempt(run->path);
        if (newest < 0)
            return fail_io("list the attempts of", run->path);
        run->attempt = newest + 1;
        LS_TRY(attempt_path(path, run, ""));
        if (mkdir(path, 0777) == 0)
            return LS_OK;
        if (errno != EEXIST)
            return fail_io("create", path);
    }
}

// Makes the folders, the run id if there is none, and the attempt.
static LsStatus begin_attempt(LsRunDir *run)
{
    static const char *const folders[] = {"attempts", "checkpoints", "log"};
    char path[LS_PATH_MAX];
    for (size_t i = 0; i < sizeof folders / sizeof *folders; i++) {
        LS_TRY(ls_path_join(path, run->path, folders[i]));
        LS_TRY(ls_directory_create(path));
    }
    bool found;
    LS_TRY(read_run_id(run, run->run_id, &found));
    if (!found) {
        LS_TRY(random_text(run->run_id));
        LS_TRY(write_run_id(run));
    }
    LS_TRY(make_attempt(run));
    return ls_directory_sync(run->path);
}

// Whether ls_file_begin has made this name: "….tmp-" and 16 hexadecimal digits.
static bool is_temporary(const char *name)
{
    size_t length = strlen(name);
    return length > 21 && strncmp(name + length - 21, ".tmp-", 5) == 0 &&
           strspn(name + length - 16, "0123456789abcdef") == 16;
}

// Removes what a killed attempt was about to put into place. What cannot be removed harms nobody.
static void remove_temporaries(const LsRunDir *run, const char *folder)
{
    char path[LS_PATH_MAX];
    DIR *directory = NULL;
    if (ls_path_join(path, run->path, folder) == LS_OK)
        directory = opendir(path);
    struct dirent *entry;
    while (directory != NULL && (entry = readdir(directory)) != NULL)
        if (is_temporary(entry->d_name))
            unlinkat(dirfd(directory), entry->d_name, 0);
    if (directory != NULL)
        closedir(directory);
}

// Of the run, and of the attempt before this one, which had the same to do for those before it.
static void remove_leftovers(const LsRunDir *run)
{
    char previous[32];
    snprintf(previous, sizeof previous, "attempts/%06d", run->attempt - 1);
    remove_temporaries(run, ".");
    remove_temporaries(run, "attempts");
    remove_temporaries(run, previous);
}

// ---- The claim ------------------------------------------------------------------------------------------

static LsStatus write_token(const LsRunDir *run, char token[33])
{
    char path[LS_PATH_MAX];
    LS_TRY(random_text(token));
    LS_TRY(attempt_path(path, run, "token"));
    return ls_file_replace(path, token, 32);
}

// Rank 0's part of the claim.
static LsStatus claim_alone(LsRunDir *run, const char *host, char token[33])
{
    LS_TRY(ls_directory_create(run->path));
    LS_TRY(take_lock(run));
    LS_TRY(begin_attempt(run));
    remove_leftovers(run);
    LS_TRY(sign_lock(run, host));
    return write_token(run, token);
}

// Reads the token that rank 0 has just written. A network file system may show it up to a second or two late.
static LsStatus see_token(const LsRunDir *run, const Claim *claim, const char *host)
{
    char path[LS_PATH_MAX], *text;
    size_t size;
    LS_TRY(attempt_path(path, run, "token"));
    for (int i = 0; i < SHARED_TRIES; i++) {
        if (ls_file_read(path, RUN_ID_LIMIT, &text, &size) == LS_OK) {
            bool same = size == 32 && memcmp(text, claim->token, 32) == 0;
            free(text);
            if (same)
                return LS_OK;
        }
        nanosleep(&(struct timespec){.tv_nsec = 100 * 1000 * 1000}, NULL);
    }
    return LS_FAIL(LS_IO,
        "host %s does not see the run directory %s that host %s writes; put it on storage that all hosts "
        "share",
        host, run->path, claim->host);
}

LsStatus ls_run_dir_claim(LsRunDir *run, const char *path, LsComm *comm)
{
    LsRunDir made = {.lock = -1};
    Claim claim = {0};
    LsStatus status = LS_OK;
    bool first = ls_comm_rank(comm) == 0;
    if (strlen(path) >= LS_PATH_MAX)
        status = LS_FAIL(LS_CONFIG, "the run directory's path %.60s… is too long", path);
    if (first && status == LS_OK) {
        memcpy(made.path, path, strlen(path) + 1);
        status = claim_alone(&made, ls_comm_host(comm), claim.token);
        memcpy(claim.path, made.path, sizeof claim.path);
        memcpy(claim.run_id, made.run_id, sizeof claim.run_id);
        snprintf(claim.host, sizeof claim.host, "%.255s", ls_comm_host(comm));
        claim.attempt = made.attempt;
    }
    status = ls_comm_agree(comm, status);
    if (status == LS_OK)
        status = ls_comm_broadcast(comm, &claim, sizeof claim, 0);
    if (status == LS_OK) {
        memcpy(made.path, claim.path, sizeof made.path);
        memcpy(made.run_id, claim.run_id, sizeof made.run_id);
        made.attempt = claim.attempt;
        status = ls_comm_agree(comm, see_token(&made, &claim, ls_comm_host(comm)));
    }
    char token[LS_PATH_MAX];
    if (first && made.attempt > 0 && attempt_path(token, &made, "token") == LS_OK)
        unlink(token); // nobody reads it any more
    if (status != LS_OK) {
        ls_run_dir_release(&made);
        return status;
    }
    *run = made;
    return LS_OK;
}

void ls_run_dir_release(LsRunDir *run)
{
    if (run == NULL || run->lock < 0)
        return;
    close(run->lock);
    run->lock = -1;
}

static LsStatus enter(LsRunDir *run)
{
    bool found;
    LS_TRY(read_run_id(run, run->run_id, &found));
    if (!found)
        return LS_FAIL(LS_NO_INPUT, "%s: there is no such run", run->path);
    LS_TRY(take_lock(run));
    run->attempt = newest_attempt(run->path);
    return run->attempt >= 0 ? LS_OK : fail_io("list the attempts of", run->path);
}

LsStatus ls_run_dir_enter(LsRunDir *run, const char *path)
{
    LsRunDir made = {.lock = -1};
    if (strlen(path) >= LS_PATH_MAX)
        return LS_FAIL(LS_NO_INPUT, "the run directory's path %.60s… is too long", path);
    memcpy(made.path, path, strlen(path) + 1);
    LsStatus status = enter(&made);
    if (status != LS_OK) {
        ls_run_dir_release(&made);
        return status;
    }
    *run = made;
    return LS_OK;
}

// ---- Superseded attempts --------------------------------------------------------------------------------

LsStatus ls_run_dir_require_current(const LsRunDir *run)
{
    char run_id[33];
    bool found;
    LS_TRY(read_run_id(run, run_id, &found));
    if (!found || strcmp(run_id, run->run_id) != 0)
        return LS_FAIL(LS_IO, "%s: superseded by another run; this one stops here", run->path);
    int newest = newest_attempt(run->path);
    if (newest < 0)
        return fail_io("list the attempts of", run->path);
    if (newest > run->attempt)
        return LS_FAIL(
            LS_IO, "%s: superseded by attempt %d; attempt %d stops here", run->path, newest, run->attempt);
    return LS_OK;
}

int ls_run_dir_newest_attempt(const char *run_dir)
{
    int newest = newest_attempt(run_dir);
    return newest > 0 ? newest : 0;
}

bool ls_run_dir_superseded(const LsRunDir *run)
{
    char run_id[33];
    bool found;
    // Storage that cannot be read now is no proof of a newer attempt; whatever is written next finds out.
    if (read_run_id(run, run_id, &found) != LS_OK)
        return false;
    return !found || strcmp(run_id, run->run_id) != 0 || newest_attempt(run->path) > run->attempt;
}

// ---- Archive --------------------------------------------------------------------------------------------

static LsStatus make_archive(const LsRunDir *run, char path[LS_PATH_MAX])
{
    char name[32];
    LS_TRY(ls_path_join(path, run->path, "archive"));
    LS_TRY(ls_directory_create(path));
    for (int number = 1;; number++) {
        snprintf(name, sizeof name, "archive/%03d", number);
        LS_TRY(ls_path_join(path, run->path, name));
        if (mkdir(path, 0777) == 0)
            return LS_OK;
        if (errno != EEXIST)
            return fail_io("create", path);
    }
}

static LsStatus move_into(const LsRunDir *run, const char *archive, const char *name)
{
    char from[LS_PATH_MAX], to[LS_PATH_MAX];
    LS_TRY(ls_path_join(from, run->path, name));
    LS_TRY(ls_path_join(to, archive, name));
    if (rename(from, to) != 0 && errno != ENOENT)
        return fail_io("move to the archive", from);
    return LS_OK;
}

LsStatus ls_run_dir_archive(LsRunDir *run)
{
    if (run->attempt == 1)
        return LS_OK;
    char archive[LS_PATH_MAX];
    LS_TRY(make_archive(run, archive));
    // Checkpoints go first: should this be interrupted, nothing is resumed from what is left.
    LS_TRY(move_into(run, archive, "checkpoints"));
    DIR *directory = opendir(run->path);
    if (directory == NULL)
        return fail_io("list", run->path);
    LsStatus status = LS_OK;
    struct dirent *entry;
    while (status == LS_OK && (entry = readdir(directory)) != NULL) {
        static const char *const stays[] = {".", "..", "lock", "launch.lock", "archive"};
        bool moves = true;
        for (size_t i = 0; i < sizeof stays / sizeof *stays; i++)
            moves = moves && strcmp(entry->d_name, stays[i]) != 0;
        if (moves)
            status = move_into(run, archive, entry->d_name);
    }
    closedir(directory);
    LS_TRY(status);
    LS_TRY(ls_directory_sync(archive));
    LS_TRY(begin_attempt(run));
    char host[HOST_MAX] = "?";
    gethostname(host, sizeof host - 1);
    return sign_lock(run, host);
}

LsStatus ls_run_dir_write_env(const LsRunDir *run, const json_t *environment)
{
    char path[LS_PATH_MAX];
    LS_TRY(ls_path_join(path, run->path, "env.json"));
    return ls_json_write(path, environment);
}

LsStatus ls_run_dir_write_config(const LsRunDir *run, const LsConfig *config)
{
    char path[LS_PATH_MAX], *text = NULL;
    size_t size = 0;
    LS_TRY(ls_path_join(path, run->path, "config.yaml"));
    FILE *memory = open_memstream(&text, &size);
    if (memory == NULL)
        return LS_FAIL(LS_INTERNAL, "%s: out of memory", path);
    ls_config_write_yaml(config, memory);
    fclose(memory);
    LsStatus status = ls_file_replace(path, text, size);
    free(text);
    return status;
}
