// Each thread takes the next source, so that large images hold nobody up. Which thread decodes an image
// decides nothing but where it lies in the store.
#include "image_pool.h"

#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/file.h"
#include "pixels.h"

enum { MESSAGE_SIZE = 2048 };

typedef struct Pool {
    const LsImageSources *sources;
    const LsImageForm *form;
    LsImageStore *store;
    LsImageResult *results;
    bool again; // only what lies elsewhere
    atomic_size_t next;
    atomic_bool stopping;
    pthread_mutex_t lock; // of the two below
    LsStatus status;      // the first failure
    char message[MESSAGE_SIZE];
} Pool;

// What one thread has.
typedef struct Scratch {
    LsImageBytes bytes;
    uint8_t *image;  // of the form
    LsPixels pixels; // its values, where it is kept encoded
} Scratch;

static LsStatus read_open(int fd, const LsImageSource *source, LsImageBytes *bytes, uint64_t *size)
{
    struct stat information;
    *size = source->size;
    if (*size == UINT64_MAX) {
        if (fstat(fd, &information) != 0)
            return ls_file_fail("examine", source->file);
        if (!S_ISREG(information.st_mode))
            return LS_FAIL(LS_IO, "%s is no regular file any more", source->file);
        *size = (uint64_t)information.st_size;
    }
    // A larger one is refused for its size, of which the hash of its beginning is enough.
    size_t taken = *size > LS_IMAGE_FILE_MAX ? LS_IMAGE_FILE_MAX : *size;
    LS_TRY(ls_image_bytes_reserve(bytes, taken + 1, source->name)); // an empty file has memory as well
    bytes->size = taken;
    return ls_file_read_at(fd, source->file, bytes->data, taken, source->offset);
}

LsStatus ls_image_source_read(const LsImageSource *source, LsImageBytes *bytes, uint64_t *size)
{
    int fd = open(source->file, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
    if (fd < 0)
        return ls_file_fail("open", source->file);
    LsStatus status = read_open(fd, source, bytes, size);
    close(fd);
    return status;
}

size_t ls_image_record_bytes(const LsImageForm *form)
{
    const LsPixels *pixels = NULL;
    return form->encoded ? form->channels * sizeof pixels->count[0]
                         : form->height * form->width * form->channels;
}

// What the store keeps of the image that was decoded.
static const uint8_t *record_of(const LsImageForm *form, Scratch *scratch)
{
    if (!form->encoded)
        return scratch->image;
    scratch->pixels = (LsPixels){.channels = form->channels};
    ls_pixels_add(&scratch->pixels, scratch->image, form->height * form->width);
    return (const uint8_t *)scratch->pixels.count;
}

// Whether the image is in the store, or is left alone.
static LsStatus find_known(const Pool *pool, size_t i, LsHash128 hash, bool *known)
{
    LsImageResult *result = &pool->results[i];
    if (!pool->again) {
        result->hash = hash;
        result->known = *known = ls_image_store_find(pool->store, hash, &result->place);
        return LS_OK;
    }
    *known = false;
    if (!ls_hash128_equal(hash, result->hash))
        return LS_FAIL(
            LS_IO, "%s was changed while it was imported; import again", pool->sources->source[i].name);
    return LS_OK;
}

// An image that cannot be read, for the reason of the last failure, is left out.
static LsStatus note_corrupt(const Pool *pool, LsImageResult *result, LsStatus status)
{
    if (pool->again)
        return status;
    result->corrupt = strdup(ls_status_message());
    return result->corrupt == NULL ? LS_FAIL(LS_INTERNAL, "data import: out of memory") : LS_OK;
}

static LsStatus do_source(const Pool *pool, size_t i, Scratch *scratch)
{
    const LsImageSource *source = &pool->sources->source[i];
    LsImageResult *result = &pool->results[i];
    bool known;
    if (pool->again && !(result->place & LS_IMAGE_ELSEWHERE))
        return LS_OK;
    if (source->dangling)
        return note_corrupt(pool, result, LS_FAIL(LS_BAD_DATA, "%s is a link to nothing", source->name));
    LS_TRY(ls_image_source_read(source, &scratch->bytes, &result->bytes));
    LS_TRY(find_known(pool, i, ls_hash128(scratch->bytes.data, scratch->bytes.size), &known));
    if (known)
        return LS_OK;
    LsStatus status =
        ls_image_make(scratch->bytes.data, result->bytes, source->name, pool->form, scratch->image);
    if (status == LS_OK)
        return ls_image_store_add(pool->store, result->hash, record_of(pool->form, scratch), &result->place);
    return status == LS_BAD_DATA ? note_corrupt(pool, result, status) : status;
}

static void note_failure(Pool *pool, LsStatus status)
{
    pthread_mutex_lock(&pool->lock);
    if (pool->status == LS_OK) {
        pool->status = status;
        snprintf(pool->message, sizeof pool->message, "%s", ls_status_message());
    }
    pthread_mutex_unlock(&pool->lock);
    atomic_store(&pool->stopping, true);
}

static void *work(void *argument)
{
    Pool *pool = argument;
    Scratch scratch = {.image = malloc(pool->form->height * pool->form->width * pool->form->channels)};
    LsStatus status =
        scratch.image == NULL ? LS_FAIL(LS_INTERNAL, "data import: no memory for an image") : LS_OK;
    while (status == LS_OK && !atomic_load(&pool->stopping)) {
        size_t i = atomic_fetch_add(&pool->next, 1);
        if (i >= pool->sources->count)
            break;
        status = do_source(pool, i, &scratch);
    }
    if (status != LS_OK)
        note_failure(pool, status);
    free(scratch.bytes.data);
    free(scratch.image);
    return NULL;
}

// Signals are for the threads of the program: a handler never runs on a thread of this one.
static LsStatus run_threads(Pool *pool, int threads)
{
    pthread_t *thread = calloc((size_t)threads, sizeof *thread);
    if (thread == NULL)
        return LS_FAIL(LS_INTERNAL, "data import: out of memory");
    sigset_t all, before;
    sigfillset(&all);
    pthread_sigmask(SIG_BLOCK, &all, &before);
    int started = 0, error = 0;
    while (started < threads && error == 0) {
        error = pthread_create(&thread[started], NULL, work, pool);
        started += error == 0;
    }
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    for (int t = 0; t < started; t++)
        pthread_join(thread[t], NULL);
    free(thread);
    if (started == 0)
        return LS_FAIL(LS_INTERNAL, "data import: cannot start a thread: %s", strerror(error));
    return LS_OK;
}

LsStatus ls_image_pool_decode(const LsImageSources *sources, const LsImageForm *form, int threads,
    LsImageStore *store, bool again, LsImageResult *results)
{
    Pool pool = {.sources = sources, .form = form, .store = store, .results = results, .again = again};
    pthread_mutex_init(&pool.lock, NULL);
    LsStatus status = run_threads(&pool, threads);
    pthread_mutex_destroy(&pool.lock);
    LS_TRY(status);
    return pool.status == LS_OK ? LS_OK : ls_status_adopt(pool.status, pool.message);
}
