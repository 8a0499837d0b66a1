#include "listener.h"

#include <arpa/inet.h>
#include <errno.h>
#include <ifaddrs.h>
#include <net/if.h>
#include <netinet/in.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <unistd.h>

// A stranger that has not sent one good record by then is shown out.
static const double STRANGER_SECONDS = 5;
enum { RECORDS_A_TURN = 16, ACCEPTS_A_TURN = 64, BACKLOG = 512, FILES_WANTED = 8192 };

// ---- Opening --------------------------------------------------------------------------------------------

static bool usable(const struct ifaddrs *entry)
{
    return entry->ifa_addr && (entry->ifa_flags & IFF_UP) &&
           (entry->ifa_addr->sa_family == AF_INET || entry->ifa_addr->sa_family == AF_INET6);
}

static socklen_t address_size(const struct sockaddr *address)
{
    return address->sa_family == AF_INET ? sizeof(struct sockaddr_in) : sizeof(struct sockaddr_in6);
}

static bool address_text(const struct sockaddr *address, char *text, size_t size)
{
    const void *bytes = address->sa_family == AF_INET
                            ? (const void *)&((const struct sockaddr_in *)address)->sin_addr
                            : (const void *)&((const struct sockaddr_in6 *)address)->sin6_addr;
    return inet_ntop(address->sa_family, bytes, text, (socklen_t)size) != NULL;
}

// The address of an interface, IPv4 before IPv6; or the address itself, if an interface has it.
static LsStatus find_address(const char *interface, struct sockaddr_storage *out)
{
    struct ifaddrs *list = NULL;
    const struct ifaddrs *found = NULL;
    if (getifaddrs(&list) != 0)
        return LS_FAIL(LS_UNAVAILABLE, "cannot list the network interfaces: %s", strerror(errno));
    for (const struct ifaddrs *entry = list; entry; entry = entry->ifa_next) {
        char text[INET6_ADDRSTRLEN];
        if (!usable(entry) || !address_text(entry->ifa_addr, text, sizeof text))
            continue;
        bool named = strcmp(entry->ifa_name, interface) == 0 || strcmp(text, interface) == 0;
        if (named && (!found || found->ifa_addr->sa_family == AF_INET6))
            found = entry;
    }
    if (found)
        memcpy(out, found->ifa_addr, address_size(found->ifa_addr));
    freeifaddrs(list);
    return found ? LS_OK
                 : LS_FAIL(LS_USAGE, "--interface %s: this host has no such interface or address that is up",
                       interface);
}

static LsStatus describe(LsListener *l)
{
    struct sockaddr_storage name;
    socklen_t size = sizeof name;
    char text[INET6_ADDRSTRLEN];
    if (getsockname(l->fd, (struct sockaddr *)&name, &size) != 0 ||
        !address_text((struct sockaddr *)&name, text, sizeof text))
        return LS_FAIL(LS_INTERNAL, "cannot tell the supervisor's own address: %s", strerror(errno));
    bool four = name.ss_family == AF_INET;
    int port =
        ntohs(four ? ((struct sockaddr_in *)&name)->sin_port : ((struct sockaddr_in6 *)&name)->sin6_port);
    snprintf(l->address, sizeof l->address, four ? "%s:%d" : "[%s]:%d", text, port);
    return LS_OK;
}

// Each rank is a connection, and the usual limit on open files is for fewer. What is started inherits it.
static void raise_limit(void)
{
    struct rlimit files;
    if (getrlimit(RLIMIT_NOFILE, &files) != 0 || files.rlim_cur >= FILES_WANTED)
        return;
    files.rlim_cur = files.rlim_max < FILES_WANTED ? files.rlim_max : FILES_WANTED;
    setrlimit(RLIMIT_NOFILE, &files);
}

LsStatus ls_listener_open(const char *interface, LsListener *out)
{
    LsListener made = {.fd = -1};
    struct sockaddr_storage name = {0};
    raise_limit();
    if (interface) {
        LS_TRY(find_address(interface, &name));
    } else {
        struct sockaddr_in loopback = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
        memcpy(&name, &loopback, sizeof loopback);
    }
    made.fd = socket(name.ss_family, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    if (made.fd < 0 || bind(made.fd, (struct sockaddr *)&name, address_size((struct sockaddr *)&name)) != 0 ||
        listen(made.fd, BACKLOG) != 0) {
        LsStatus status = LS_FAIL(
            LS_UNAVAILABLE, "cannot listen on %s: %s", interface ? interface : "127.0.0.1", strerror(errno));
        ls_listener_close(&made);
        return status;
    }
    LsStatus status = describe(&made);
    if (status != LS_OK) {
        ls_listener_close(&made);
        return status;
    }
    *out = made;
    return LS_OK;
}

static void close_all(LsListener *l)
{
    for (size_t i = 0; i < l->count; i++)
        close(l->connection[i].fd);
    l->count = 0;
}

void ls_listener_close(LsListener *l)
{
    close_all(l);
    free(l->connection);
    if (l->fd >= 0)
        close(l->fd);
    *l = (LsListener){.fd = -1};
}

LsStatus ls_listener_begin(LsListener *l)
{
    close_all(l);
    l->incarnation++;
    if (getrandom(l->key, sizeof l->key, 0) != (ssize_t)sizeof l->key)
        return LS_FAIL(LS_INTERNAL, "cannot draw random bytes for a secret: %s", strerror(errno));
    return LS_OK;
}

size_t ls_listener_polled(const LsListener *l)
{
    return l->count + 1;
}

size_t ls_listener_poll(const LsListener *l, struct pollfd *polled)
{
    polled[0] = (struct pollfd){.fd = l->fd, .events = POLLIN};
    for (size_t i = 0; i < l->count; i++)
        polled[i + 1] = (struct pollfd){.fd = l->connection[i].fd, .events = POLLIN};
    return l->count + 1;
}

// ---- Connections ----------------------------------------------------------------------------------------

static void drop(LsListener *l, size_t i)
{
    close(l->connection[i].fd);
    l->connection[i] = l->connection[--l->count];
}

// Ranks that have not come yet: all of them may connect before the first one's record is read.
static size_t count_missing(const LsWatch *watch)
{
    size_t missing = 0;
    for (uint32_t r = 0; r < watch->ranks; r++)
        missing += !watch->rank[r].connected;
    return missing;
}

// Makes room among those that have not proved themselves: who has had the longest time goes.
static void limit_strangers(LsListener *l, size_t most)
{
    size_t strangers = 0, oldest = 0;
    for (size_t i = 0; i < l->count; i++) {
        if (l->connection[i].rank >= 0)
            continue;
        if (strangers++ == 0 || l->connection[i].since < l->connection[oldest].since)
            oldest = i;
    }
    if (strangers > most) {
        l->dropped++;
        drop(l, oldest);
    }
}

static bool reserve(LsListener *l)
{
    if (l->count < l->capacity)
        return true;
    size_t capacity = l->capacity ? 2 * l->capacity : 16;
    LsConnection *grown = realloc(l->connection, capacity * sizeof *grown);
    if (!grown)
        return false;
    l->connection = grown;
    l->capacity = capacity;
    return true;
}

static void accept_all(LsListener *l, const LsWatch *watch, double now)
{
    size_t strangers = LS_STRANGERS_MAX + count_missing(watch);
    for (int turn = 0; turn < ACCEPTS_A_TURN; turn++) {
        int fd = accept4(l->fd, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK);
        if (fd < 0)
            return;
        if (!reserve(l)) {
            close(fd);
            return;
        }
        l->connection[l->count++] = (LsConnection){.fd = fd, .rank = -1, .since = now};
        limit_strangers(l, strangers);
    }
}

static bool is_taken(const LsListener *l, uint32_t rank)
{
    for (size_t i = 0; i < l->count; i++)
        if (l->connection[i].rank == (int64_t)rank)
            return true;
    return false;
}

// One whole record. False: it costs the connection.
static bool take_record(LsListener *l, LsConnection *c, LsWatch *watch, double now)
{
    LsPulseRecord record;
    c->used = 0;
    if (!ls_pulse_decode(c->bytes, l->key, &record) || record.incarnation != l->incarnation)
        return false;
    if (c->rank < 0 ? is_taken(l, record.rank) : c->rank != (int64_t)record.rank)
        return false;
    if (!ls_watch_pulse(watch, &record, now))
        return false;
    c->rank = record.rank;
    return true;
}

typedef enum Reading { OPEN, CLOSED, BAD } Reading;

static Reading read_records(LsListener *l, LsConnection *c, LsWatch *watch, double now)
{
    for (int turn = 0; turn < RECORDS_A_TURN;) {
        ssize_t got = recv(c->fd, c->bytes + c->used, sizeof c->bytes - c->used, 0);
        if (got < 0 && errno == EINTR)
            continue;
        if (got < 0 && errno == EAGAIN)
            return OPEN;
        if (got <= 0)
            return CLOSED;
        c->used += (size_t)got;
        if (c->used < sizeof c->bytes)
            continue;
        if (!take_record(l, c, watch, now))
            return BAD;
        turn++;
    }
    return OPEN;
}

void ls_listener_serve(LsListener *l, LsWatch *watch, double now)
{
    accept_all(l, watch, now);
    for (size_t i = l->count; i-- > 0;) {
        LsConnection *c = &l->connection[i];
        Reading reading = read_records(l, c, watch, now);
        if (reading == OPEN && c->rank < 0 && now - c->since > STRANGER_SECONDS)
            reading = BAD;
        if (reading == OPEN)
            continue;
        l->dropped += reading == BAD;
        if (c->rank >= 0)
            ls_watch_closed(watch, (uint32_t)c->rank);
        drop(l, i);
    }
}

void ls_listener_dismiss(LsListener *l)
{
    for (size_t i = 0; i < l->count; i++)
        shutdown(l->connection[i].fd, SHUT_WR);
}
