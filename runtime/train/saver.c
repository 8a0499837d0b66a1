// The thread that writes. See saver.h.
#include "saver.h"

#include <errno.h>
#include <pthread.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "base/thread.h"
#include "verified.h"

enum {
    MESSAGE_MAX = 1024,
    BACKLOG_MAX = 3, // checkpoints by which the removal of old ones may be late
};

typedef struct Slot {
    LsSaver *saver;
    LsSlotState state;
    LsSave *save;
    int64_t best;
    bool abandoned;           // asked for
    uint64_t number;          // of the save, in the order of beginning
    const LsCopyPiece *piece; // NULL: nothing to copy
    atomic_size_t taken, copied;
} Slot;

struct LsSaver {
    LsSaverOptions options;
    size_t slots;
    Slot slot[LS_SAVES_MAX];
    pthread_t thread;
    bool started;
    pthread_mutex_t lock;   // of what follows, and of the slots' states
    pthread_cond_t work;    // for the thread
    pthread_cond_t changed; // for the main thread
    uint64_t changes, seen, begun;
    bool ending;
    bool tidying;
    bool tidy;      // old checkpoints are to be removed
    size_t backlog; // checkpoints since they were
    int64_t best;   // of the newest checkpoint
    LsHurry hurry;
    LsVerified verified;
    LsStatus failed;
    char message[MESSAGE_MAX];
};

// ---- What the thread does -------------------------------------------------------------------------------

static void set_state(Slot *slot, LsSlotState state)
{
    LsSaver *saver = slot->saver;
    pthread_mutex_lock(&saver->lock);
    slot->state = state;
    saver->changes++;
    pthread_cond_broadcast(&saver->changed);
    pthread_mutex_unlock(&saver->lock);
}

static void set_failed(LsSaver *saver, LsStatus status)
{
    pthread_mutex_lock(&saver->lock);
    if (saver->failed == LS_OK) {
        saver->failed = status;
        snprintf(saver->message, sizeof saver->message, "%s", ls_status_message());
    }
    saver->changes++;
    pthread_cond_broadcast(&saver->changed);
    pthread_mutex_unlock(&saver->lock);
}

// Copies a piece that nobody has taken; false when none is left.
static bool copy_piece(Slot *slot)
{
    size_t pieces = slot->saver->options.pieces, taken = atomic_fetch_add(&slot->taken, 1);
    if (taken >= pieces)
        return false;
    const LsCopyPiece *piece = &slot->piece[taken];
    memcpy(piece->to, piece->from, piece->elements * sizeof *piece->to);
    if (atomic_fetch_add(&slot->copied, 1) + 1 == pieces) {
        pthread_mutex_lock(&slot->saver->lock);
        pthread_cond_broadcast(&slot->saver->changed);
        pthread_cond_signal(&slot->saver->work);
        pthread_mutex_unlock(&slot->saver->lock);
    }
    return true;
}

static bool is_copied(const Slot *slot)
{
    return !slot->piece || atomic_load(&slot->copied) >= slot->saver->options.pieces;
}

static bool has_pieces_left(const Slot *slot)
{
    return slot->state == LS_SLOT_READY && slot->piece &&
           atomic_load(&slot->taken) < slot->saver->options.pieces;
}

static void write_slot(Slot *slot)
{
    LsStatus status = ls_save_write(slot->save);
    LsSaver *saver = slot->saver;
    bool left = status == LS_STOPPED;
    if (status != LS_OK && !left)
        set_failed(saver, status);
    set_state(slot, status == LS_OK ? LS_SLOT_WRITTEN : left ? LS_SLOT_ABANDONED : LS_SLOT_FAILED);
}

static void put_slot(Slot *slot)
{
    LsSaver *saver = slot->saver;
    // Metrics are on disk through the step before its checkpoint is.
    LsStatus status = ls_metrics_sync(saver->options.metrics);
    if (status == LS_OK)
        status = ls_save_put(slot->save);
    if (status != LS_OK) {
        set_failed(saver, status);
        set_state(slot, LS_SLOT_FAILED);
        return;
    }
    pthread_mutex_lock(&saver->lock);
    saver->best = slot->best;
    saver->tidy = true;
    saver->backlog++;
    pthread_mutex_unlock(&saver->lock);
    set_state(slot, LS_SLOT_PUT);
}

static void remove_slot(Slot *slot)
{
    // What cannot be removed now is removed by a later attempt.
    (void)ls_save_discard(slot->save);
    set_state(slot, LS_SLOT_FREE);
}

// The oldest slot in that state; called with the lock.
static Slot *find_slot(LsSaver *saver, LsSlotState state)
{
    Slot *found = NULL;
    for (size_t i = 0; i < saver->slots; i++) {
        Slot *slot = &saver->slot[i];
        if (slot->state == state && (!found || slot->number < found->number))
            found = slot;
    }
    return found;
}

static Slot *find_to_copy(LsSaver *saver)
{
    for (size_t i = 0; i < saver->slots; i++)
        if (has_pieces_left(&saver->slot[i]))
            return &saver->slot[i];
    return NULL;
}

// What cannot wait for a write or a check to end: training waits for copies, and a checkpoint that all ranks
// have written should be one.
static bool do_urgent(LsSaver *saver)
{
    pthread_mutex_lock(&saver->lock);
    Slot *copy = find_to_copy(saver), *finished = copy ? NULL : find_slot(saver, LS_SLOT_GATHERED);
    if (finished)
        finished->state = LS_SLOT_PUTTING;
    pthread_mutex_unlock(&saver->lock);
    if (copy)
        while (copy_piece(copy))
            ;
    if (finished)
        put_slot(finished);
    return copy || finished;
}

// Between portions of a write.
static LsStatus pause_write(void *context)
{
    Slot *slot = context;
    LsSaver *saver = slot->saver;
    while (do_urgent(saver))
        ;
    pthread_mutex_lock(&saver->lock);
    bool leave = saver->ending || slot->abandoned;
    pthread_mutex_unlock(&saver->lock);
    return leave ? LS_FAIL(LS_STOPPED, "the save is abandoned") : LS_OK;
}

// Whether so many checkpoints have come that old ones are removed before another is written; called with the
// lock.
static bool is_late(const LsSaver *saver)
{
    return saver->backlog >= BACKLOG_MAX;
}

// Between portions of a check.
static bool pause_check(void *context)
{
    LsSaver *saver = context;
    while (do_urgent(saver))
        ;
    pthread_mutex_lock(&saver->lock);
    bool wanted = find_slot(saver, LS_SLOT_READY) || find_slot(saver, LS_SLOT_ABANDONED);
    bool hurries = saver->hurry == LS_HURRY_END || (saver->hurry == LS_HURRY_SLOT && !is_late(saver));
    bool leave = saver->ending || (hurries && wanted);
    pthread_mutex_unlock(&saver->lock);
    return !leave;
}

static LsVerdict check(void *context, int64_t step)
{
    LsSaver *saver = context;
    return ls_verified_check(&saver->verified, saver->options.form->run.path, step, pause_check, saver);
}

static void tidy(LsSaver *saver)
{
    const LsSaverOptions *options = &saver->options;
    bool complete = true;
    pthread_mutex_lock(&saver->lock);
    saver->tidy = false; // a checkpoint that comes meanwhile asks for it again
    saver->tidying = true;
    size_t backlog = saver->backlog;
    int64_t best = saver->best;
    pthread_mutex_unlock(&saver->lock);
    LsStatus status = ls_checkpoint_retain(&options->form->run,
        &(LsRetention){.keep_last = options->keep_last,
            .keep_every = options->keep_every,
            .best_step = best,
            .check = check,
            .context = saver},
        &complete);
    if (status != LS_OK)
        set_failed(saver, status);
    pthread_mutex_lock(&saver->lock);
    saver->tidying = false;
    saver->tidy |= !complete;
    saver->backlog -= complete ? backlog : 0;
    saver->changes++;
    pthread_cond_broadcast(&saver->changed);
    pthread_mutex_unlock(&saver->lock);
}

// Takes the next thing to do, NULL in *slot: old checkpoints. False: nothing now. Called with the lock.
static bool take_work(LsSaver *saver, Slot **slot)
{
    *slot = NULL;
    if (saver->tidy && is_late(saver) && saver->hurry != LS_HURRY_END)
        return true;
    *slot = find_slot(saver, LS_SLOT_READY);
    if (*slot && is_copied(*slot)) {
        (*slot)->state = LS_SLOT_WRITING;
        return true;
    }
    *slot = find_slot(saver, LS_SLOT_ABANDONED);
    if (*slot && (*slot)->abandoned)
        *slot = NULL; // not yet given free by all ranks
    return *slot || saver->tidy;
}

static bool has_urgent(LsSaver *saver)
{
    return find_to_copy(saver) || find_slot(saver, LS_SLOT_GATHERED);
}

static void *run(void *argument)
{
    LsSaver *saver = argument;
    ls_thread_unbind();
    pthread_mutex_lock(&saver->lock);
    // What every rank has written becomes a checkpoint, also of a run that ends because of something else.
    while (!saver->ending || find_slot(saver, LS_SLOT_GATHERED)) {
        Slot *slot = NULL;
        bool urgent = has_urgent(saver), found = !urgent && saver->failed == LS_OK && take_work(saver, &slot);
        if (!urgent && !found) {
            pthread_cond_wait(&saver->work, &saver->lock);
            continue;
        }
        pthread_mutex_unlock(&saver->lock);
        if (urgent)
            do_urgent(saver);
        else if (!slot)
            tidy(saver);
        else if (slot->state == LS_SLOT_WRITING)
            write_slot(slot);
        else
            remove_slot(slot);
        pthread_mutex_lock(&saver->lock);
    }
    pthread_mutex_unlock(&saver->lock);
    return NULL;
}

// ---- For the main thread --------------------------------------------------------------------------------

static LsStatus start(LsSaver *saver)
{
    for (size_t i = 0; i < saver->slots; i++) {
        Slot *slot = &saver->slot[i];
        slot->saver = saver;
        LS_TRY(ls_save_create(saver->options.form, &slot->save));
        slot->save->pause = pause_write;
        slot->save->context = slot;
        slot->piece = saver->options.piece[i];
    }
    // Signals that ask the run to stop are the main thread's: they would end what this one waits for.
    sigset_t all, before;
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &before);
    int error = pthread_create(&saver->thread, NULL, run, saver);
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    if (error != 0)
        return LS_FAIL(LS_INTERNAL, "cannot start the thread that writes checkpoints: %s", strerror(error));
    saver->started = true;
    return LS_OK;
}

LsStatus ls_saver_create(const LsSaverOptions *options, LsSaver **out)
{
    LsSaver *saver = NULL;
    LS_TRY(ls_save_allocate(1, sizeof *saver, &saver));
    saver->options = *options;
    saver->slots = options->slots;
    saver->best = -1;
    pthread_condattr_t monotonic;
    pthread_condattr_init(&monotonic);
    pthread_condattr_setclock(&monotonic, CLOCK_MONOTONIC);
    pthread_mutex_init(&saver->lock, NULL);
    pthread_cond_init(&saver->work, NULL);
    pthread_cond_init(&saver->changed, &monotonic);
    pthread_condattr_destroy(&monotonic);
    LsStatus status = start(saver);
    if (status != LS_OK) {
        ls_saver_destroy(saver);
        return status;
    }
    *out = saver;
    return LS_OK;
}

void ls_saver_end(LsSaver *saver)
{
    if (!saver->started)
        return;
    pthread_mutex_lock(&saver->lock);
    saver->ending = true;
    pthread_cond_signal(&saver->work);
    pthread_mutex_unlock(&saver->lock);
    pthread_join(saver->thread, NULL);
    saver->started = false;
}

void ls_saver_destroy(LsSaver *saver)
{
    if (saver == NULL)
        return;
    ls_saver_end(saver);
    for (size_t i = 0; i < saver->slots; i++)
        ls_save_close(saver->slot[i].save);
    pthread_cond_destroy(&saver->changed);
    pthread_cond_destroy(&saver->work);
    pthread_mutex_destroy(&saver->lock);
    free(saver);
}

LsSlotState ls_saver_state(LsSaver *saver, size_t slot)
{
    pthread_mutex_lock(&saver->lock);
    LsSlotState state = saver->slot[slot].state;
    pthread_mutex_unlock(&saver->lock);
    return state;
}

size_t ls_saver_blocks_written(LsSaver *saver, size_t slot)
{
    return atomic_load(&saver->slot[slot].save->written);
}

LsSave *ls_saver_save(LsSaver *saver, size_t slot)
{
    return saver->slot[slot].save;
}

// What the thread has to look at.
static void hand_over(LsSaver *saver, size_t slot, LsSlotState state)
{
    pthread_mutex_lock(&saver->lock);
    saver->slot[slot].state = state;
    saver->changes++;
    pthread_cond_signal(&saver->work);
    pthread_mutex_unlock(&saver->lock);
}

LsStatus ls_saver_begin(
    LsSaver *saver, size_t index, const LsRunState *state, const LsStateArray *array, int64_t best)
{
    Slot *slot = &saver->slot[index];
    LS_TRY(ls_save_open(slot->save, state, array));
    slot->best = best;
    slot->abandoned = false;
    slot->number = saver->begun++;
    atomic_store(&slot->copied, 0);
    atomic_store(&slot->taken, 0); // from now on the thread may take pieces, whatever slot it looked for
    hand_over(saver, index, slot->piece ? LS_SLOT_READY : LS_SLOT_BEGUN);
    return LS_OK;
}

void ls_saver_ready(LsSaver *saver, size_t slot)
{
    hand_over(saver, slot, LS_SLOT_READY);
}

void ls_saver_finish_copy(LsSaver *saver, size_t index)
{
    Slot *slot = &saver->slot[index];
    if (is_copied(slot))
        return;
    while (copy_piece(slot))
        ;
    pthread_mutex_lock(&saver->lock);
    while (!is_copied(slot))
        pthread_cond_wait(&saver->changed, &saver->lock);
    pthread_mutex_unlock(&saver->lock);
}

void ls_saver_gathered(LsSaver *saver, size_t slot)
{
    hand_over(saver, slot, saver->options.form->rank == 0 ? LS_SLOT_GATHERED : LS_SLOT_FREE);
}

void ls_saver_release(LsSaver *saver, size_t slot)
{
    hand_over(saver, slot, LS_SLOT_FREE);
}

void ls_saver_abandon(LsSaver *saver, size_t index)
{
    Slot *slot = &saver->slot[index];
    pthread_mutex_lock(&saver->lock);
    slot->abandoned = true;
    if (slot->state == LS_SLOT_BEGUN || slot->state == LS_SLOT_READY || slot->state == LS_SLOT_WRITTEN)
        slot->state = LS_SLOT_ABANDONED;
    while (slot->state == LS_SLOT_WRITING)
        pthread_cond_wait(&saver->changed, &saver->lock);
    if (slot->state != LS_SLOT_FAILED)
        slot->state = saver->options.form->rank == 0 ? LS_SLOT_ABANDONED : LS_SLOT_FREE;
    pthread_mutex_unlock(&saver->lock);
}

void ls_saver_remove(LsSaver *saver, size_t index)
{
    pthread_mutex_lock(&saver->lock);
    saver->slot[index].abandoned = false;
    pthread_cond_signal(&saver->work);
    pthread_mutex_unlock(&saver->lock);
}

void ls_saver_wait(LsSaver *saver, double seconds)
{
    struct timespec end;
    clock_gettime(CLOCK_MONOTONIC, &end);
    int64_t nanoseconds = end.tv_nsec + (int64_t)(seconds * 1e9);
    end.tv_sec += nanoseconds / 1000000000;
    end.tv_nsec = nanoseconds % 1000000000;
    pthread_mutex_lock(&saver->lock);
    while (saver->changes == saver->seen)
        if (pthread_cond_timedwait(&saver->changed, &saver->lock, &end) == ETIMEDOUT)
            break;
    saver->seen = saver->changes;
    pthread_mutex_unlock(&saver->lock);
}

bool ls_saver_tidying(LsSaver *saver)
{
    pthread_mutex_lock(&saver->lock);
    bool tidying = (saver->tidy || saver->tidying) && saver->failed == LS_OK;
    pthread_mutex_unlock(&saver->lock);
    return tidying;
}

void ls_saver_hurry(LsSaver *saver, LsHurry hurry)
{
    pthread_mutex_lock(&saver->lock);
    saver->hurry = hurry;
    pthread_mutex_unlock(&saver->lock);
}

LsStatus ls_saver_failure(LsSaver *saver)
{
    pthread_mutex_lock(&saver->lock);
    LsStatus status = saver->failed;
    if (status != LS_OK)
        ls_status_adopt(status, saver->message);
    pthread_mutex_unlock(&saver->lock);
    return status;
}
