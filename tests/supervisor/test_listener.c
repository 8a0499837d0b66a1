// Listener: only records of this launch under its secret reach the watch; whoever sends anything else is
// shown out, and nobody takes the place of a rank.
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <arpa/inet.h>
#include <cmocka.h>
#include <errno.h>
#include <netinet/in.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <unistd.h>

#include "listener.h"

static LsListener listener;
static LsWatch watch;
static double now;

static int begin(void **state)
{
    (void)state;
    now = 100;
    return ls_listener_open(NULL, &listener) == LS_OK && ls_listener_begin(&listener) == LS_OK &&
                   ls_watch_begin(&watch, 2, now) == LS_OK
               ? 0
               : -1;
}

static int end(void **state)
{
    (void)state;
    ls_listener_close(&listener);
    ls_watch_free(&watch);
    return 0;
}

static int connect_to(void)
{
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    address.sin_port = htons((uint16_t)atoi(strrchr(listener.address, ':') + 1));
    assert_int_equal(connect(fd, (struct sockaddr *)&address, sizeof address), 0);
    return fd;
}

static LsPulseRecord good(uint32_t rank, uint64_t sequence)
{
    LsPulseRecord record = {.incarnation = listener.incarnation,
        .rank = rank,
        .ranks = 2,
        .pid = 7,
        .phase = LS_PHASE_COMPUTE,
        .sequence = sequence,
        .step = sequence};
    strcpy(record.host, "node1");
    return record;
}

static void send_bytes(int fd, const void *bytes, size_t size)
{
    assert_int_equal(send(fd, bytes, size, MSG_NOSIGNAL), size);
}

static void send_record(int fd, LsPulseRecord record, const uint8_t *key)
{
    uint8_t bytes[LS_PULSE_SIZE];
    ls_pulse_encode(&record, key, bytes);
    send_bytes(fd, bytes, sizeof bytes);
}

// Whether the other side has closed the connection.
static bool is_closed(int fd)
{
    char byte;
    ssize_t got = recv(fd, &byte, 1, MSG_DONTWAIT);
    return got == 0 || (got < 0 && errno != EAGAIN);
}

// Serves until nothing more comes.
static void serve_all(void)
{
    for (int ready = 1; ready > 0;) {
        struct pollfd polled[256];
        ready = poll(polled, (nfds_t)ls_listener_poll(&listener, polled), 20);
        ls_listener_serve(&listener, &watch, now);
    }
}

static void assert_shown_out(int fd)
{
    uint64_t dropped = listener.dropped;
    for (int turn = 0; turn < 500 && !is_closed(fd); turn++)
        serve_all();
    assert_true(is_closed(fd));
    assert_int_equal(listener.dropped, dropped + 1);
    close(fd);
}

static void test_good_records(void **state)
{
    (void)state;
    int fd = connect_to();
    for (uint64_t sequence = 1; sequence <= 40; sequence++)
        send_record(fd, good(1, sequence), listener.key);
    serve_all();
    assert_true(watch.rank[1].connected);
    assert_int_equal(watch.rank[1].last.step, 40);
    assert_false(watch.rank[0].connected);
    close(fd);
    serve_all();
    assert_true(watch.rank[1].closed);
    assert_int_equal(listener.dropped, 0);
}

// Wherever the network cuts them.
static void test_pieces(void **state)
{
    (void)state;
    uint8_t bytes[2 * LS_PULSE_SIZE];
    LsPulseRecord first = good(0, 1), second = good(0, 2);
    ls_pulse_encode(&first, listener.key, bytes);
    ls_pulse_encode(&second, listener.key, bytes + LS_PULSE_SIZE);
    int fd = connect_to();
    for (size_t i = 0; i < sizeof bytes; i += 56) {
        send_bytes(fd, bytes + i, 56);
        serve_all();
    }
    assert_int_equal(watch.rank[0].last.sequence, 2);
    close(fd);
}

static void test_forged(void **state)
{
    (void)state;
    uint8_t wrong[LS_PULSE_KEY] = {0}, bytes[LS_PULSE_SIZE];
    LsPulseRecord record = good(1, 1);
    int fd = connect_to();
    send_record(fd, record, wrong);
    assert_shown_out(fd);

    fd = connect_to(); // a true one in which one bit was changed
    ls_pulse_encode(&record, listener.key, bytes);
    bytes[40] ^= 1;
    send_bytes(fd, bytes, sizeof bytes);
    assert_shown_out(fd);

    fd = connect_to();
    memset(bytes, 'G', sizeof bytes);
    send_bytes(fd, bytes, sizeof bytes);
    assert_shown_out(fd);

    fd = connect_to(); // more ranks than there are
    record.rank = 4;
    record.ranks = 5;
    send_record(fd, record, listener.key);
    assert_shown_out(fd);
    assert_false(watch.rank[1].connected);
}

// What was overheard is of no use: not beside the rank, not after it, not in the next launch.
static void test_replayed(void **state)
{
    (void)state;
    uint8_t overheard[LS_PULSE_SIZE];
    LsPulseRecord record = good(1, 2);
    ls_pulse_encode(&record, listener.key, overheard);
    int rank = connect_to();
    send_record(rank, good(1, 1), listener.key);
    send_bytes(rank, overheard, sizeof overheard);
    serve_all();

    int fd = connect_to();
    send_bytes(fd, overheard, sizeof overheard);
    assert_shown_out(fd);
    assert_false(watch.rank[1].closed);
    send_record(rank, good(1, 3), listener.key); // the rank itself goes on undisturbed
    serve_all();
    assert_int_equal(watch.rank[1].last.sequence, 3);
    assert_int_equal(listener.count, 1);

    send_bytes(rank, overheard, sizeof overheard); // in its own connection
    assert_shown_out(rank);
    assert_true(watch.rank[1].closed);
    fd = connect_to();
    send_bytes(fd, overheard, sizeof overheard);
    assert_shown_out(fd);

    assert_int_equal(ls_listener_begin(&listener), LS_OK);
    ls_watch_free(&watch);
    assert_int_equal(ls_watch_begin(&watch, 2, now), LS_OK);
    fd = connect_to();
    send_bytes(fd, overheard, sizeof overheard);
    assert_shown_out(fd);
    fd = connect_to(); // under the new secret, with the old launch's number
    record.incarnation = listener.incarnation - 1;
    send_record(fd, record, listener.key);
    assert_shown_out(fd);
    assert_false(watch.rank[1].connected);
}

static void test_change_of_rank(void **state)
{
    (void)state;
    int fd = connect_to();
    send_record(fd, good(0, 1), listener.key);
    send_record(fd, good(1, 2), listener.key);
    assert_shown_out(fd);
    assert_false(watch.rank[1].connected);
}

// Who says nothing, or half of something, is shown out after a while; many of them leave room for ranks.
static void test_silent(void **state)
{
    (void)state;
    int half = connect_to(), rank = connect_to(), many[2 * LS_STRANGERS_MAX];
    send_bytes(half, "LSPULSE\1", 8);
    send_record(rank, good(0, 1), listener.key);
    serve_all();
    for (size_t i = 0; i < sizeof many / sizeof *many; i++) {
        many[i] = connect_to();
        ls_listener_serve(&listener, &watch, now);
    }
    serve_all();
    assert_true(listener.count <= LS_STRANGERS_MAX + 2); // and the two ranks, of which one is there
    now += 6;
    serve_all();
    assert_int_equal(listener.count, 1);
    send_record(rank, good(0, 2), listener.key);
    serve_all();
    assert_int_equal(watch.rank[0].last.sequence, 2);
    for (size_t i = 0; i < sizeof many / sizeof *many; i++)
        close(many[i]);
    close(half);
    close(rank);
}

// All ranks connect before any of them says something, with the limit on open files that shells have.
static void test_many_ranks(void **state)
{
    (void)state;
    enum { RANKS = 200 };
    struct rlimit before, few;
    int fd[RANKS];
    assert_int_equal(getrlimit(RLIMIT_NOFILE, &before), 0);
    few = (struct rlimit){.rlim_cur = 256, .rlim_max = before.rlim_max};
    assert_int_equal(setrlimit(RLIMIT_NOFILE, &few), 0);
    end(NULL);
    begin(NULL);
    ls_watch_free(&watch);
    assert_int_equal(ls_watch_begin(&watch, RANKS, now), LS_OK);
    for (uint32_t r = 0; r < RANKS; r++) {
        fd[r] = connect_to();
        ls_listener_serve(&listener, &watch, now);
    }
    for (uint32_t r = 0; r < RANKS; r++) {
        LsPulseRecord record = good(r, 1);
        record.ranks = RANKS;
        send_record(fd[r], record, listener.key);
    }
    serve_all();
    assert_true(ls_watch_all_connected(&watch));
    assert_int_equal(listener.dropped, 0);
    for (uint32_t r = 0; r < RANKS; r++)
        close(fd[r]);
    setrlimit(RLIMIT_NOFILE, &before);
}

static void test_addresses(void **state)
{
    (void)state;
    LsListener other;
    assert_int_equal(strncmp(listener.address, "127.0.0.1:", 10), 0);
    assert_int_equal(ls_listener_open("lo", &other), LS_OK);
    assert_int_equal(strncmp(other.address, "127.0.0.1:", 10), 0);
    ls_listener_close(&other);
    assert_int_equal(ls_listener_open("nowhere0", &other), LS_USAGE);
    assert_int_equal(ls_listener_open("0.0.0.0", &other), LS_USAGE); // everywhere is no interface
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(test_good_records, begin, end),
        cmocka_unit_test_setup_teardown(test_pieces, begin, end),
        cmocka_unit_test_setup_teardown(test_forged, begin, end),
        cmocka_unit_test_setup_teardown(test_replayed, begin, end),
        cmocka_unit_test_setup_teardown(test_change_of_rank, begin, end),
        cmocka_unit_test_setup_teardown(test_silent, begin, end),
        cmocka_unit_test_setup_teardown(test_many_ranks, begin, end),
        cmocka_unit_test_setup_teardown(test_addresses, begin, end),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
