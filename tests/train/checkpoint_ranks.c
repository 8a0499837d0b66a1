// Saves and loads the fixture on as many ranks as it is started with; checkpoint_ranks.sh compares.
//
//   checkpoint_ranks save RUN STEP       saves; prints the checkpoint hash
//   checkpoint_ranks load RUN STEP       loads every rank's shards, compares bits, saves them again in the
//                                        same place and prints the hash before and after
//   checkpoint_ranks fail RUN STEP RANK PART   the rank cannot write in that part: begin, write or commit;
//                                        exits 0 when everybody got LS_IO and no file is left
//   checkpoint_ranks damaged RUN STEP    exits 0 when verifying fails on all ranks with the same sentence
#include <dirent.h>

#include "checkpoint_fixture.h"

static void require_all(const Fixture *fixture, LsStatus status, const char *what)
{
    fixture_require(ls_comm_agree(fixture->comm, status), what);
}

static void print_hash(const Fixture *fixture, const char *path)
{
    char hash[65];
    LsCheckpoint *checkpoint;
    fixture_require(ls_checkpoint_open(path, &checkpoint), "open");
    fixture_require(ls_checkpoint_hash(checkpoint, hash), "hash");
    ls_checkpoint_close(checkpoint);
    if (ls_comm_rank(fixture->comm) == 0)
        printf("%s\n", hash);
}

static void save(Fixture *fixture, int64_t step)
{
    char path[LS_PATH_MAX];
    fixture_fill(fixture, 1);
    require_all(fixture, fixture_save(fixture, step, path), "save");
    print_hash(fixture, path);
}

// The packed shard, as a resume reads it.
static LsStatus read_shards(Fixture *fixture, const LsCheckpoint *checkpoint)
{
    uint32_t ranks = (uint32_t)ls_comm_size(fixture->comm), rank = (uint32_t)ls_comm_rank(fixture->comm);
    for (size_t a = 0; a < FIXTURE_ARRAYS; a++) {
        for (size_t b = 0; b < fixture->buckets.count; b++) {
            LsBlockRange piece = ls_bucket_piece(&fixture->buckets, b, ranks, rank);
            float *to =
                fixture->array[a].shard + ls_shard_offset(&fixture->buckets, b, ranks, rank) * LS_BLOCK;
            LS_TRY(ls_checkpoint_read(
                checkpoint, &fixture->parameters, fixture_groups[a], piece.first, piece.count, to));
        }
    }
    return LS_OK;
}

static void load(Fixture *fixture, int64_t step)
{
    char path[LS_PATH_MAX];
    size_t different = 1;
    LsCheckpoint *checkpoint;
    ls_checkpoint_path(path, fixture->run.path, step);
    require_all(fixture, ls_checkpoint_open(path, &checkpoint), "open");
    fixture_require(ls_checkpoint_verify(checkpoint, fixture->comm), "verify");
    require_all(fixture, fixture_compare(fixture, checkpoint, 1, &different), "compare");
    if (different != 0) {
        fprintf(stderr, "rank %d: %zu numbers differ\n", ls_comm_rank(fixture->comm), different);
        exit(1);
    }
    require_all(fixture, read_shards(fixture, checkpoint), "read");
    ls_checkpoint_close(checkpoint);
    print_hash(fixture, path);
    // What was read is saved again by these ranks in the place of what others wrote.
    require_all(fixture, fixture_save(fixture, step, path), "save");
    print_hash(fixture, path);
}

static size_t count_left(const Fixture *fixture)
{
    char path[LS_PATH_MAX];
    fixture_require(ls_path_join(path, fixture->run.path, "checkpoints"), "path");
    DIR *directory = opendir(path);
    size_t count = 0;
    struct dirent *entry;
    while (directory != NULL && (entry = readdir(directory)) != NULL)
        count += strcmp(entry->d_name, ".") != 0 && strcmp(entry->d_name, "..") != 0;
    closedir(directory);
    return count;
}

static void fail(Fixture *fixture, int64_t step, int failing, const char *part)
{
    char path[LS_PATH_MAX] = "", said[32];
    LsSave *saving;
    bool mine = ls_comm_rank(fixture->comm) == failing;
    fixture_fill(fixture, 1);
    fixture_state(&fixture->state, step);
    if (mine && strcmp(part, "begin") == 0)
        fixture_limit_files(4096);
    LsStatus status = ls_save_begin(&fixture->run, fixture->comm, &fixture->content, &saving);
    if (status == LS_OK) {
        if (mine && strcmp(part, "write") == 0)
            fixture_limit_files(4096);
        LsStatus written = ls_save_write(saving);
        if (mine && strcmp(part, "commit") == 0)
            fixture_limit_files(1024);
        status = ls_save_commit(saving, written, path);
    }
    fixture_limit_files(RLIM_INFINITY);
    snprintf(said, sizeof said, "rank %d: ", failing);
    bool named = ls_comm_size(fixture->comm) == 1 || strncmp(ls_status_message(), said, strlen(said)) == 0;
    ls_comm_barrier(fixture->comm);
    if (status != LS_IO || !named || path[0] != '\0' || count_left(fixture) != 0) {
        fprintf(stderr, "rank %d: status %d, \"%s\", path \"%s\", %zu left\n", ls_comm_rank(fixture->comm),
            (int)status, ls_status_message(), path, count_left(fixture));
        exit(1);
    }
}

static void damaged(Fixture *fixture, int64_t step)
{
    char path[LS_PATH_MAX];
    LsCheckpoint *checkpoint;
    ls_checkpoint_path(path, fixture->run.path, step);
    require_all(fixture, ls_checkpoint_open(path, &checkpoint), "open");
    LsStatus status = ls_checkpoint_verify(checkpoint, fixture->comm);
    bool named = strstr(ls_status_message(), "optimizer/moment1/layers.0.weight, block 7 of 25") != NULL;
    ls_checkpoint_close(checkpoint);
    if (status != LS_CHECKPOINT || !named) {
        fprintf(stderr, "status %d, \"%s\"\n", (int)status, ls_status_message());
        exit(1);
    }
}

int main(int count, char **arguments)
{
    if (count < 4)
        return 2;
    const char *command = arguments[1];
    int64_t step = strtoll(arguments[3], NULL, 10);
    Fixture *fixture = malloc(sizeof *fixture);
    fixture_open(fixture, arguments[2]);
    if (strcmp(command, "save") == 0)
        save(fixture, step);
    else if (strcmp(command, "load") == 0)
        load(fixture, step);
    else if (strcmp(command, "fail") == 0 && count == 6)
        fail(fixture, step, atoi(arguments[4]), arguments[5]);
    else if (strcmp(command, "damaged") == 0)
        damaged(fixture, step);
    else
        return 2;
    fixture_close(fixture);
    free(fixture);
    return 0;
}
