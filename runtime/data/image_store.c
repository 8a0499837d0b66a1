// The file is a header and records of one size, whose hash tells a whole one from one that a kill left
// unfinished.
#include "image_store.h"

#include <errno.h>
#include <fcntl.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/file.h"

typedef struct Head {
    char magic[8];
    uint64_t image_bytes;
    LsHash128 kind;
} Head;

typedef struct Record {
    LsHash128 hash;
    uint64_t check; // of the hash above and the image
} Record;

typedef struct Slot {
    LsHash128 hash;
    uint64_t place; // + 1; 0: free
} Slot;

struct LsImageStore {
    char path[LS_PATH_MAX];
    int fd;
    size_t image_bytes;
    atomic_ullong records;
    Slot *slot; // open addressing
    size_t slots, used;
};

// ---- The table ------------------------------------------------------------------------------------------

static Slot *slot_of(const LsImageStore *store, LsHash128 hash)
{
    uint64_t start;
    memcpy(&start, hash.bytes, sizeof start);
    size_t i = start & (store->slots - 1);
    while (store->slot[i].place != 0 && !ls_hash128_equal(store->slot[i].hash, hash))
        i = (i + 1) & (store->slots - 1);
    return &store->slot[i];
}

static LsStatus grow(LsImageStore *store)
{
    Slot *old = store->slot;
    size_t slots = store->slots;
    store->slots = slots ? 2 * slots : 1024;
    store->slot = calloc(store->slots, sizeof *store->slot);
    if (store->slot == NULL) {
        store->slot = old;
        store->slots = slots;
        return LS_FAIL(LS_INTERNAL, "%s: out of memory for %zu images", store->path, store->used);
    }
    for (size_t i = 0; i < slots; i++)
        if (old[i].place != 0)
            *slot_of(store, old[i].hash) = old[i];
    free(old);
    return LS_OK;
}

LsStatus ls_image_store_add_known(LsImageStore *store, LsHash128 hash, uint64_t place)
{
    if (2 * (store->used + 1) > store->slots)
        LS_TRY(grow(store));
    Slot *slot = slot_of(store, hash);
    if (slot->place == 0) {
        *slot = (Slot){.hash = hash, .place = place + 1};
        store->used++;
    }
    return LS_OK;
}

bool ls_image_store_find(const LsImageStore *store, LsHash128 hash, uint64_t *place)
{
    const Slot *slot = store->slots ? slot_of(store, hash) : NULL;
    if (slot == NULL || slot->place == 0)
        return false;
    *place = slot->place - 1;
    return true;
}

// ---- The file -------------------------------------------------------------------------------------------

static size_t record_bytes(const LsImageStore *store)
{
    return sizeof(Record) + store->image_bytes;
}

static uint64_t offset_of(const LsImageStore *store, uint64_t place)
{
    return sizeof(Head) + place * record_bytes(store);
}

// Of a record as it lies in memory, in front of its image.
static uint64_t check_of(const LsImageStore *store, const uint8_t *record)
{
    uint64_t both[2] = {
        ls_hash64(record, sizeof(LsHash128)), ls_hash64(record + sizeof(Record), store->image_bytes)};
    return ls_hash64(both, sizeof both);
}

// Finds the whole records of a file that a killed import has left.
static LsStatus load(LsImageStore *store, uint64_t size)
{
    uint64_t records = (size - sizeof(Head)) / record_bytes(store);
    uint8_t *bytes = malloc(record_bytes(store));
    LsStatus status = bytes == NULL ? LS_FAIL(LS_INTERNAL, "%s: out of memory", store->path) : LS_OK;
    for (uint64_t place = 0; status == LS_OK && place < records; place++) {
        Record record;
        status = ls_file_read_at(store->fd, store->path, bytes, record_bytes(store), offset_of(store, place));
        if (status != LS_OK)
            break;
        memcpy(&record, bytes, sizeof record);
        if (check_of(store, bytes) == record.check)
            status = ls_image_store_add_known(store, record.hash, place);
    }
    free(bytes);
    atomic_init(&store->records, records);
    return status;
}

// Takes over what is there, when it is of this kind.
static LsStatus begin(LsImageStore *store, LsHash128 kind, bool fresh)
{
    Head head = {.magic = "LSIMAGE", .image_bytes = store->image_bytes, .kind = kind}, found;
    struct stat information;
    if (fstat(store->fd, &information) != 0)
        return ls_file_fail("examine", store->path);
    uint64_t size = (uint64_t)information.st_size;
    if (!fresh && size >= sizeof head) {
        LS_TRY(ls_file_read_at(store->fd, store->path, &found, sizeof found, 0));
        if (memcmp(&found, &head, sizeof head) == 0)
            return load(store, size);
    }
    if (ftruncate(store->fd, 0) != 0)
        return ls_file_fail("empty", store->path);
    return ls_file_write_at(store->fd, store->path, &head, sizeof head, 0);
}

LsStatus ls_image_store_open(
    const char *output, LsHash128 kind, size_t image_bytes, bool fresh, LsImageStore **out)
{
    LsImageStore *store = calloc(1, sizeof *store);
    if (store == NULL)
        return LS_FAIL(LS_INTERNAL, "data import: out of memory");
    store->image_bytes = image_bytes;
    if (snprintf(store->path, sizeof store->path, "%s.decoded", output) >= (int)sizeof store->path) {
        free(store);
        return LS_FAIL(LS_CONFIG, "the output's name is too long");
    }
    store->fd = open(store->path, O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0666);
    LsStatus status =
        store->fd < 0 ? LS_FAIL(LS_IO, "cannot create %s: %s", store->path, strerror(errno)) : LS_OK;
    if (status == LS_OK && flock(store->fd, LOCK_EX | LOCK_NB) != 0 && errno == EWOULDBLOCK) {
        status = LS_FAIL(LS_IO, "%s is in use: another import writes %s", store->path, output);
        close(store->fd); // the file is the other one's
        store->fd = -1;
    }
    if (status == LS_OK)
        status = begin(store, kind, fresh);
    if (status != LS_OK) {
        ls_image_store_close(store);
        return status;
    }
    *out = store;
    return LS_OK;
}

void ls_image_store_close(LsImageStore *store)
{
    if (store == NULL)
        return;
    if (store->fd >= 0) {
        unlink(store->path);
        close(store->fd);
    }
    free(store->slot);
    free(store);
}

LsStatus ls_image_store_add(LsImageStore *store, LsHash128 hash, const uint8_t *image, uint64_t *place)
{
    uint8_t *bytes = malloc(record_bytes(store));
    if (bytes == NULL)
        return LS_FAIL(LS_INTERNAL, "%s: out of memory", store->path);
    Record record = {.hash = hash};
    memcpy(bytes, &record, sizeof record);
    memcpy(bytes + sizeof record, image, store->image_bytes);
    record.check = check_of(store, bytes);
    memcpy(bytes, &record, sizeof record);
    *place = atomic_fetch_add(&store->records, 1);
    LsStatus status =
        ls_file_write_at(store->fd, store->path, bytes, record_bytes(store), offset_of(store, *place));
    free(bytes);
    return status;
}

LsStatus ls_image_store_read(const LsImageStore *store, uint64_t place, uint8_t *image)
{
    return ls_file_read_at(
        store->fd, store->path, image, store->image_bytes, offset_of(store, place) + sizeof(Record));
}
