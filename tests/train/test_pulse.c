// The pulse: records survive the wire and nothing else does; a rank's thread sends them in order and says
// goodbye; a rank that loses its supervisor ends.
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <arpa/inet.h>
#include <cmocka.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include "train/pulse.h"

static const uint8_t key[LS_PULSE_KEY] = {1, 2, 3};
static const char secret[] = "0102030000000000000000000000000000000000000000000000000000000000";

static LsPulseRecord example(void)
{
    return (LsPulseRecord){.incarnation = 7,
        .rank = 2,
        .ranks = 3,
        .pid = 4321,
        .attempt = 9,
        .phase = LS_PHASE_SAVE,
        .stop = LS_PULSE_STOPS,
        .code = 75,
        .sequence = 0x0102030405060708,
        .step = 12,
        .durable = -1,
        .cursor = 1 << 20,
        .moves = 5,
        .polls = 6,
        .gap = 8,
        .host = "node-1.example.org"};
}

static void test_record(void **state)
{
    (void)state;
    LsPulseRecord sent = example(), got;
    uint8_t bytes[LS_PULSE_SIZE];
    ls_pulse_encode(&sent, key, bytes);
    assert_memory_equal(bytes, "LSPULSE\1\0\0\0\7\0\0\0\2", 16);
    assert_true(ls_pulse_decode(bytes, key, &got));
    assert_memory_equal(&sent, &got, sizeof sent);
}

static void test_every_bit_counts(void **state)
{
    (void)state;
    LsPulseRecord sent = example(), got;
    uint8_t bytes[LS_PULSE_SIZE], other[LS_PULSE_KEY] = {1, 2, 4};
    ls_pulse_encode(&sent, key, bytes);
    for (size_t bit = 0; bit < 8 * sizeof bytes; bit++) {
        bytes[bit / 8] ^= (uint8_t)(1u << bit % 8);
        assert_false(ls_pulse_decode(bytes, key, &got));
        bytes[bit / 8] ^= (uint8_t)(1u << bit % 8);
    }
    assert_false(ls_pulse_decode(bytes, other, &got));
    assert_true(ls_pulse_decode(bytes, key, &got));
}

// Even under the right secret.
static void test_senseless_records(void **state)
{
    (void)state;
    LsPulseRecord bad[5], got;
    for (size_t i = 0; i < 5; i++)
        bad[i] = example();
    bad[0].rank = 3;
    bad[1].phase = LS_PHASES;
    bad[2].sequence = 0;
    strcpy(bad[3].host, "two\nlines");
    strcpy(bad[4].host, "");
    for (size_t i = 0; i < 5; i++) {
        uint8_t bytes[LS_PULSE_SIZE];
        ls_pulse_encode(&bad[i], key, bytes);
        assert_false(ls_pulse_decode(bytes, key, &got));
    }
}

// A listening socket on the loopback and its address as text.
static int listen_here(char address[32])
{
    struct sockaddr_in name = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    socklen_t size = sizeof name;
    int fd = socket(AF_INET, SOCK_STREAM, 0);
    assert_true(fd >= 0);
    assert_int_equal(bind(fd, (struct sockaddr *)&name, size), 0);
    assert_int_equal(listen(fd, 4), 0);
    assert_int_equal(getsockname(fd, (struct sockaddr *)&name, &size), 0);
    snprintf(address, 32, "127.0.0.1:%d", ntohs(name.sin_port));
    return fd;
}

static void receive(int fd, LsPulseRecord *record)
{
    uint8_t bytes[LS_PULSE_SIZE];
    assert_int_equal(recv(fd, bytes, sizeof bytes, MSG_WAITALL), sizeof bytes);
    assert_true(ls_pulse_decode(bytes, key, record));
}

static void test_rank(void **state)
{
    (void)state;
    char address[32];
    int listener = listen_here(address);
    volatile uint64_t polls = 11;
    LsPulse *pulse = NULL;
    LsPulseOptions options = {
        .supervisor = address, .secret = secret, .incarnation = 4, .rank = 1, .ranks = 2, .polls = &polls};
    assert_int_equal(ls_pulse_open(&options, &pulse), LS_OK);
    int fd = accept(listener, NULL, NULL);
    LsPulseRecord first, next;
    receive(fd, &first);
    assert_int_equal(first.incarnation, 4);
    assert_int_equal(first.rank, 1);
    assert_int_equal(first.ranks, 2);
    assert_int_equal(first.pid, getpid());
    assert_int_equal(first.phase, LS_PHASE_START);
    assert_int_equal(first.durable, -1);
    assert_int_equal(first.polls, 11);
    ls_pulse_attempt(pulse, 3);
    ls_pulse_step(pulse, 17, 1024, 10);
    ls_pulse_at(pulse, LS_PHASE_COMPUTE);
    uint64_t sequence = first.sequence;
    do {
        receive(fd, &next);
        assert_int_equal(next.sequence, sequence + 1);
        sequence = next.sequence;
    } while (next.phase != LS_PHASE_COMPUTE);
    assert_int_equal(next.attempt, 3);
    assert_int_equal(next.step, 17);
    assert_int_equal(next.cursor, 1024);
    assert_int_equal(next.durable, 10);
    assert_true(next.moves > first.moves);
    ls_pulse_end(pulse, 75);
    do
        receive(fd, &next);
    while (next.phase != LS_PHASE_END);
    assert_int_equal(next.code, 75);
    ls_pulse_close(pulse);
    char byte;
    while (recv(fd, &byte, 1, 0) > 0) // a beat may have followed the goodbye
        ;
    close(fd);
    close(listener);
}

static void test_lost_supervisor(void **state)
{
    (void)state;
    char address[32];
    int listener = listen_here(address);
    pid_t child = fork();
    if (child == 0) {
        close(listener);
        LsPulse *pulse = NULL;
        if (ls_pulse_open(&(LsPulseOptions){.supervisor = address, .secret = secret, .ranks = 1}, &pulse))
            _exit(99);
        sleep(60);
        _exit(98);
    }
    int fd = accept(listener, NULL, NULL), status = 0;
    LsPulseRecord record;
    receive(fd, &record);
    close(fd);
    assert_int_equal(waitpid(child, &status, 0), child);
    assert_true(WIFEXITED(status));
    assert_int_equal(WEXITSTATUS(status), 1);
    close(listener);
}

static void test_refusals(void **state)
{
    (void)state;
    LsPulse *pulse = NULL;
    const char *const addresses[] = {
        "", "127.0.0.1", "127.0.0.1:", "localhost:22", ":22", "127.0.0.1:123456"};
    for (size_t i = 0; i < sizeof addresses / sizeof *addresses; i++)
        assert_int_equal(
            ls_pulse_open(
                &(LsPulseOptions){.supervisor = addresses[i], .secret = secret, .ranks = 1}, &pulse),
            LS_CONFIG);
    assert_int_equal(
        ls_pulse_open(&(LsPulseOptions){.supervisor = "127.0.0.1:1", .secret = "12", .ranks = 1}, &pulse),
        LS_CONFIG);
    ls_pulse_at(NULL, LS_PHASE_DATA); // nobody watches
    ls_pulse_close(NULL);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_record),
        cmocka_unit_test(test_every_bit_counts),
        cmocka_unit_test(test_senseless_records),
        cmocka_unit_test(test_rank),
        cmocka_unit_test(test_lost_supervisor),
        cmocka_unit_test(test_refusals),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
