// The rank's side of the pulse: a connection, a thread, and what the main thread stores for it.
#include "train/pulse.h"

#include <errno.h>
#include <fcntl.h>
#include <netdb.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/memory.h"
#include "base/thread.h"

enum { BEAT_MILLISECONDS = 500, GONE_MILLISECONDS = 10000, WARM_UP_STEPS = 3, CONNECT_MILLISECONDS = 2000 };

static const double CONNECT_SECONDS = 10; // a host's network may come up a little later than its ranks

// How much of the longest usual time between two moves is left after one that took no time.
static const double FADING = 0.99;

// Between two records of steps; more where there are many ranks to be heard.
static const double NUDGE_SECONDS = 0.05, NUDGE_SECONDS_A_RANK = 1e-4;

struct LsPulse {
    int fd;
    uint8_t key[LS_PULSE_KEY];
    LsPulseRecord self; // what never changes, and the sequence; guarded by `sending`
    pthread_mutex_t sending;
    pthread_t thread;
    bool started;
    int wake[2]; // a pipe: a byte has the thread send at once, closing its end ends it

    const volatile uint64_t *polls;
    // Stored by the main thread, read by the pulse's. A record that mixes two moments does no harm.
    atomic_uint phase, attempt, stop, code;
    atomic_ullong step, cursor, moves, gap;
    atomic_llong durable;
    // The main thread's own.
    double moved, nudged;
    double usual; // seconds
    int steps;
};

// ---- The connection -------------------------------------------------------------------------------------

// "HOST:PORT" or "[HOST]:PORT" to two texts.
static bool split_address(const char *address, char host[LS_PULSE_HOST], char port[8])
{
    const char *colon = strrchr(address, ':');
    if (!colon || strlen(colon + 1) == 0 || strlen(colon + 1) > 5)
        return false;
    snprintf(port, 8, "%s", colon + 1);
    size_t length = (size_t)(colon - address);
    bool brackets = address[0] == '[' && length >= 2 && address[length - 1] == ']';
    const char *from = brackets ? address + 1 : address;
    length = brackets ? length - 2 : length;
    if (length == 0 || length >= LS_PULSE_HOST)
        return false;
    snprintf(host, LS_PULSE_HOST, "%.*s", (int)length, from);
    return true;
}

// Connects within a deadline of its own; errno says why not.
static int connect_once(const struct addrinfo *address)
{
    int fd = socket(address->ai_family, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    if (fd < 0)
        return -1;
    int error = 0;
    if (connect(fd, address->ai_addr, address->ai_addrlen) != 0)
        error = errno;
    if (error == EINPROGRESS) {
        struct pollfd ready = {.fd = fd, .events = POLLOUT};
        socklen_t size = sizeof error;
        error = ETIMEDOUT;
        if (poll(&ready, 1, CONNECT_MILLISECONDS) == 1)
            getsockopt(fd, SOL_SOCKET, SO_ERROR, &error, &size);
    }
    if (error == 0)
        return fd;
    close(fd);
    errno = error;
    return -1;
}

// The kernel gives up on a supervisor that acknowledges nothing.
static void set_limits(int fd)
{
    int yes = 1, limit = GONE_MILLISECONDS;
    setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &yes, sizeof yes);
    setsockopt(fd, IPPROTO_TCP, TCP_USER_TIMEOUT, &limit, sizeof limit);
}

static LsStatus connect_supervisor(const char *supervisor, int *out)
{
    char host[LS_PULSE_HOST], port[8];
    struct addrinfo hints = {.ai_socktype = SOCK_STREAM, .ai_flags = AI_NUMERICHOST | AI_NUMERICSERV}, *list;
    if (!split_address(supervisor, host, port) || getaddrinfo(host, port, &hints, &list) != 0)
        return LS_FAIL(LS_CONFIG,
            "LOCKSTEP_SUPERVISOR is not an address HOST:PORT in numbers; it is set by lockstep launch alone");
    double deadline = ls_clock_seconds() + CONNECT_SECONDS;
    int fd;
    while ((fd = connect_once(list)) < 0 && ls_clock_seconds() < deadline)
        nanosleep(&(struct timespec){.tv_nsec = 200 * 1000 * 1000}, NULL);
    int error = errno;
    freeaddrinfo(list);
    if (fd < 0)
        return LS_FAIL(LS_UNAVAILABLE,
            "no way to the supervisor at %s: %s; give lockstep launch the --interface that all hosts reach",
            supervisor, strerror(error));
    set_limits(fd);
    *out = fd;
    return LS_OK;
}

static bool read_key(const char *text, uint8_t key[LS_PULSE_KEY])
{
    if (strlen(text) != 2 * LS_PULSE_KEY || strspn(text, "0123456789abcdef") != 2 * LS_PULSE_KEY)
        return false;
    for (size_t i = 0; i < LS_PULSE_KEY; i++) {
        char digits[3] = {text[2 * i], text[2 * i + 1], '\0'};
        key[i] = (uint8_t)strtoul(digits, NULL, 16);
    }
    return true;
}

// ---- The thread -----------------------------------------------------------------------------------------

// Sends one record. False: the connection is gone.
static bool send_record(LsPulse *p)
{
    pthread_mutex_lock(&p->sending);
    LsPulseRecord record = p->self;
    record.sequence = ++p->self.sequence;
    record.phase = atomic_load(&p->phase);
    record.attempt = atomic_load(&p->attempt);
    record.stop = atomic_load(&p->stop);
    record.code = atomic_load(&p->code);
    record.step = atomic_load(&p->step);
    record.cursor = atomic_load(&p->cursor);
    record.durable = atomic_load(&p->durable);
    record.moves = atomic_load(&p->moves);
    record.gap = atomic_load(&p->gap);
    record.polls = p->polls ? *p->polls : 0;
    uint8_t bytes[LS_PULSE_SIZE];
    ls_pulse_encode(&record, p->key, bytes);
    bool sent = true;
    for (size_t done = 0; done < sizeof bytes && sent;) {
        ssize_t part = send(p->fd, bytes + done, sizeof bytes - done, MSG_NOSIGNAL);
        if (part > 0) {
            done += (size_t)part;
        } else if (part < 0 && (errno == EAGAIN || errno == EINTR)) {
            struct pollfd ready = {.fd = p->fd, .events = POLLOUT};
            sent = poll(&ready, 1, GONE_MILLISECONDS) == 1 || errno == EINTR;
        } else {
            sent = false;
        }
    }
    pthread_mutex_unlock(&p->sending);
    return sent;
}

// The supervisor says nothing: what can be read is the end of the connection, or nonsense.
static bool supervisor_closed(int fd)
{
    char byte;
    return recv(fd, &byte, 1, MSG_DONTWAIT) >= 0 || (errno != EAGAIN && errno != EINTR);
}

// Nothing of this process may go on beside an attempt of another supervisor. What is durable stays.
static void leave(const LsPulse *p)
{
    char line[160];
    int length = snprintf(line, sizeof line, "lockstep: rank %u on %s lost its supervisor and ends\n",
        p->self.rank, p->self.host);
    ssize_t written = write(STDERR_FILENO, line, (size_t)length);
    (void)written;
    _exit(ls_status_exit_code(LS_INTERNAL));
}

// Takes what was written to wake the thread up. False: it is to end.
static bool stay_awake(int fd)
{
    char bytes[64];
    ssize_t got = read(fd, bytes, sizeof bytes);
    return got > 0 || (got < 0 && (errno == EAGAIN || errno == EINTR));
}

static void *beat(void *context)
{
    LsPulse *p = context;
    ls_thread_unbind();
    struct pollfd events[] = {{.fd = p->wake[0], .events = POLLIN}, {.fd = p->fd, .events = POLLIN}};
    for (;;) {
        bool lost = !send_record(p);
        int ready = lost ? 0 : poll(events, 2, BEAT_MILLISECONDS);
        if (ready > 0 && events[0].revents && !stay_awake(p->wake[0]))
            return NULL;
        lost = lost || (ready > 0 && events[1].revents && supervisor_closed(p->fd));
        if (lost && atomic_load(&p->phase) != LS_PHASE_END)
            leave(p);
        if (lost)
            return NULL;
    }
}

static LsStatus start_thread(LsPulse *p)
{
    if (pipe2(p->wake, O_CLOEXEC | O_NONBLOCK) != 0)
        return LS_FAIL(LS_INTERNAL, "cannot make a pipe for the pulse: %s", strerror(errno));
    // Signals that ask the run to stop belong to the main thread.
    sigset_t all, before;
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &before);
    int error = pthread_create(&p->thread, NULL, beat, p);
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    if (error)
        return LS_FAIL(LS_INTERNAL, "cannot start the thread of the pulse: %s", strerror(error));
    p->started = true;
    return LS_OK;
}

// ---- The main thread ------------------------------------------------------------------------------------

LsStatus ls_pulse_open(const LsPulseOptions *options, LsPulse **out)
{
    LsPulse *p;
    LS_TRY(ls_memory_allocate(sizeof *p, (void **)&p));
    p->fd = p->wake[0] = p->wake[1] = -1;
    pthread_mutex_init(&p->sending, NULL);
    atomic_store(&p->durable, -1);
    p->polls = options->polls;
    p->self = (LsPulseRecord){.incarnation = options->incarnation,
        .rank = options->rank,
        .ranks = options->ranks,
        .pid = (uint32_t)getpid()};
    if (gethostname(p->self.host, sizeof p->self.host - 1) != 0 || p->self.host[0] == '\0')
        strcpy(p->self.host, "localhost");
    LsStatus status = LS_OK;
    if (!read_key(options->secret, p->key))
        status = LS_FAIL(LS_CONFIG,
            "LOCKSTEP_SECRET is not %d hexadecimal digits; it is set by lockstep launch alone",
            2 * LS_PULSE_KEY);
    if (status == LS_OK)
        status = connect_supervisor(options->supervisor, &p->fd);
    if (status == LS_OK)
        status = start_thread(p);
    if (status != LS_OK) {
        ls_pulse_close(p);
        return status;
    }
    *out = p;
    return LS_OK;
}

// Remembers the longest usual time between two moves, which the first steps, that set things up, say nothing
// about.
static void note_gap(LsPulse *p, double now)
{
    LsPhase phase = atomic_load_explicit(&p->phase, memory_order_relaxed);
    double gap = now - p->moved;
    p->moved = now;
    if ((phase != LS_PHASE_COMPUTE && phase != LS_PHASE_DATA) || p->steps <= WARM_UP_STEPS)
        return;
    p->usual = gap > p->usual * FADING ? gap : p->usual * FADING;
    atomic_store_explicit(&p->gap, (unsigned long long)(p->usual * 1e6) + 1, memory_order_relaxed);
}

LsPhase ls_pulse_at(LsPulse *p, LsPhase phase)
{
    if (!p)
        return phase;
    LsPhase before = atomic_load_explicit(&p->phase, memory_order_relaxed);
    note_gap(p, ls_clock_seconds());
    atomic_store_explicit(&p->phase, phase, memory_order_relaxed);
    atomic_fetch_add_explicit(&p->moves, 1, memory_order_relaxed);
    return before;
}

// Has the thread send at once, a few times between two beats: a run that fails within its first beat, or in
// steps that are much shorter than one, is known to have come this far.
static void nudge(LsPulse *p, double now)
{
    if (now - p->nudged < NUDGE_SECONDS + NUDGE_SECONDS_A_RANK * p->self.ranks)
        return;
    p->nudged = now;
    ssize_t written = write(p->wake[1], "", 1);
    (void)written; // a full pipe wakes as well
}

void ls_pulse_step(LsPulse *p, int64_t step, uint64_t cursor, int64_t durable)
{
    if (!p)
        return;
    p->steps++;
    atomic_store_explicit(&p->step, (unsigned long long)step, memory_order_relaxed);
    atomic_store_explicit(&p->cursor, cursor, memory_order_relaxed);
    atomic_store_explicit(&p->durable, durable, memory_order_relaxed);
    nudge(p, ls_clock_seconds());
}

void ls_pulse_attempt(LsPulse *p, int attempt)
{
    if (p)
        atomic_store(&p->attempt, (unsigned)attempt);
}

void ls_pulse_stop(LsPulse *p, LsPulseStop stop)
{
    if (p)
        atomic_store(&p->stop, (unsigned)stop);
}

void ls_pulse_end(LsPulse *p, int code)
{
    if (!p)
        return;
    atomic_store(&p->code, (unsigned)code);
    ls_pulse_at(p, LS_PHASE_END);
    (void)send_record(p); // a supervisor that is gone no longer matters
}

void ls_pulse_close(LsPulse *p)
{
    if (!p)
        return;
    if (p->started) {
        close(p->wake[1]);
        p->wake[1] = -1;
        pthread_join(p->thread, NULL);
    }
    for (int i = 0; i < 2; i++)
        if (p->wake[i] >= 0)
            close(p->wake[i]);
    if (p->fd >= 0)
        close(p->fd);
    pthread_mutex_destroy(&p->sending);
    free(p);
}
