#include "reducer_progress.h"

#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "base/memory.h"
#include "base/thread.h"

enum {
    YIELDS = 50, // looks at a bucket that offer the processor to others, before the first pause
    FIRST_PAUSE = 20000,
    LAST_PAUSE = 1000000, // nanoseconds
    STACK = 2 << 20,      // tree_add keeps sums on it
    SENTENCE = 1024
};

// A bucket's additions. Only the rank's thread gives, only who holds it changes what it is then.
enum { IDLE, GIVEN, HELD, ADDED, FAILED };

struct LsReducerProgress {
    LsReducerProgressWork work;
    atomic_uchar *bucket; // [work.buckets]

    pthread_mutex_t lock; // of what follows
    pthread_cond_t news;
    size_t given;  // buckets of this step
    uint64_t step; // rises with every bucket 0
    bool stop;
    LsStatus failure; // the first
    char sentence[SENTENCE];

    bool started;
    pthread_t thread;
};

// ---- One bucket -----------------------------------------------------------------------------------------

static bool hold(LsReducerProgress *p, size_t b)
{
    unsigned char given = GIVEN;
    return atomic_compare_exchange_strong_explicit(
        &p->bucket[b], &given, HELD, memory_order_acquire, memory_order_relaxed);
}

static void let_go(LsReducerProgress *p, size_t b, unsigned char as)
{
    atomic_store_explicit(&p->bucket[b], as, memory_order_release);
}

static unsigned char state_of(LsReducerProgress *p, size_t b)
{
    return atomic_load_explicit(&p->bucket[b], memory_order_acquire);
}

static void keep_failure(LsReducerProgress *p, LsStatus status)
{
    pthread_mutex_lock(&p->lock);
    if (p->failure == LS_OK) {
        p->failure = status;
        snprintf(p->sentence, sizeof p->sentence, "%s", ls_status_message());
    }
    pthread_mutex_unlock(&p->lock);
}

// Looking comes after taking hold: what is looked at belongs to the step in which it was given, which cannot
// end while it is held.
static void advance(LsReducerProgress *p, size_t b)
{
    if (!hold(p, b))
        return;
    if (!p->work.is_ready(p->work.context, b)) {
        let_go(p, b, GIVEN);
        return;
    }
    LsStatus status = p->work.add(p->work.context, b);
    if (status != LS_OK)
        keep_failure(p, status);
    let_go(p, b, status == LS_OK ? ADDED : FAILED);
}

// ---- The thread -----------------------------------------------------------------------------------------

// With the lock held. Whatever is new ends the pause.
static void pause_after(LsReducerProgress *p, unsigned looks)
{
    if (looks < YIELDS) {
        pthread_mutex_unlock(&p->lock);
        sched_yield();
        pthread_mutex_lock(&p->lock);
        return;
    }
    unsigned doublings = looks - YIELDS < 16 ? looks - YIELDS : 16;
    long nanoseconds = (long)FIRST_PAUSE << doublings;
    struct timespec until;
    clock_gettime(CLOCK_MONOTONIC, &until);
    until.tv_nsec += nanoseconds < LAST_PAUSE ? nanoseconds : LAST_PAUSE;
    if (until.tv_nsec >= 1000000000) {
        until.tv_nsec -= 1000000000;
        until.tv_sec++;
    }
    pthread_cond_timedwait(&p->news, &p->lock, &until);
}

// Everybody's parts become final in the buckets' order, so what comes after one that is not ready is not
// ready either. A bucket that is missed here, because a step has passed meanwhile, the rank's thread adds.
static void *run(void *context)
{
    LsReducerProgress *p = context;
    size_t next = 0;
    uint64_t step = 0;
    unsigned looks = 0;
    ls_thread_unbind();
    pthread_mutex_lock(&p->lock);
    while (!p->stop) {
        if (step != p->step)
            next = looks = 0;
        step = p->step;
        if (next == p->given) {
            pthread_cond_wait(&p->news, &p->lock);
            continue;
        }
        pthread_mutex_unlock(&p->lock);
        advance(p, next);
        bool over = state_of(p, next) >= ADDED;
        pthread_mutex_lock(&p->lock);
        if (over) {
            next++;
            looks = 0;
        } else if (!p->stop) {
            pause_after(p, looks++);
        }
    }
    pthread_mutex_unlock(&p->lock);
    return NULL;
}

static int start(LsReducerProgress *p)
{
    pthread_attr_t attributes;
    int error = pthread_attr_init(&attributes);
    if (error)
        return error;
    sigset_t all, before;
    sigfillset(&all);
    pthread_attr_setstacksize(&attributes, STACK);
    pthread_sigmask(SIG_SETMASK, &all, &before); // signals are the main thread's
    error = pthread_create(&p->thread, &attributes, run, p);
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    pthread_attr_destroy(&attributes);
    p->started = error == 0;
    if (p->started)
        pthread_setname_np(p->thread, "additions");
    return error;
}

// ---- The rank's thread ----------------------------------------------------------------------------------

LsStatus ls_reducer_progress_create(const LsReducerProgressWork *work, LsReducerProgress **out)
{
    LsReducerProgress *p;
    LS_TRY(ls_memory_allocate(sizeof *p, (void **)&p));
    pthread_condattr_t clock;
    pthread_condattr_init(&clock);
    pthread_condattr_setclock(&clock, CLOCK_MONOTONIC);
    pthread_cond_init(&p->news, &clock);
    pthread_condattr_destroy(&clock);
    pthread_mutex_init(&p->lock, NULL);
    p->work = *work;
    LsStatus status = ls_memory_allocate(work->buckets * sizeof *p->bucket, (void **)&p->bucket);
    int error = status == LS_OK ? start(p) : 0;
    if (error)
        status = LS_FAIL(LS_INTERNAL,
            "cannot start the thread that adds gradients: %s; set collectives.progress to off",
            strerror(error));
    if (status != LS_OK) {
        ls_reducer_progress_destroy(p);
        return status;
    }
    *out = p;
    return LS_OK;
}

void ls_reducer_progress_destroy(LsReducerProgress *p)
{
    if (!p)
        return;
    if (p->started) {
        pthread_mutex_lock(&p->lock);
        p->stop = true;
        pthread_cond_signal(&p->news);
        pthread_mutex_unlock(&p->lock);
        pthread_join(p->thread, NULL);
    }
    pthread_cond_destroy(&p->news);
    pthread_mutex_destroy(&p->lock);
    free(p->bucket);
    free(p);
}

void ls_reducer_progress_give(LsReducerProgress *p, size_t b)
{
    let_go(p, b, GIVEN);
    pthread_mutex_lock(&p->lock);
    p->step += b == 0;
    p->given = b + 1;
    pthread_cond_signal(&p->news);
    pthread_mutex_unlock(&p->lock);
}

LsStatus ls_reducer_progress_look(LsReducerProgress *p, size_t b, bool help, bool *added)
{
    if (help)
        advance(p, b);
    unsigned char state = state_of(p, b);
    *added = state == ADDED;
    if (state != FAILED)
        return LS_OK;
    pthread_mutex_lock(&p->lock);
    LsStatus status = ls_status_adopt(p->failure, p->sentence);
    pthread_mutex_unlock(&p->lock);
    return status;
}
