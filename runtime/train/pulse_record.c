// A pulse on the wire: fixed width, big-endian, authenticated.

#include <ctype.h>
#include <string.h>

#include "base/hash.h"
#include "train/pulse.h"

enum { SIGNED_SIZE = LS_PULSE_SIZE - LS_HMAC_SIZE };

static const char magic[8] = {'L', 'S', 'P', 'U', 'L', 'S', 'E', 1}; // the last byte is the version

const char *ls_phase_name(LsPhase phase)
{
    static const char *const names[LS_PHASES] = {
        "start", "data", "compute", "exchange", "save", "evaluate", "end", "log"};
    return phase < LS_PHASES ? names[phase] : "unknown";
}

// ---- Writing --------------------------------------------------------------------------------------------

static uint8_t *put(uint8_t *at, uint64_t value, size_t bytes)
{
    for (size_t i = 0; i < bytes; i++)
        at[i] = (uint8_t)(value >> 8 * (bytes - 1 - i));
    return at + bytes;
}

void ls_pulse_encode(const LsPulseRecord *record, const uint8_t key[LS_PULSE_KEY], uint8_t out[LS_PULSE_SIZE])
{
    const uint32_t words[] = {record->incarnation, record->rank, record->ranks, record->pid, record->attempt,
        record->phase, record->stop, record->code};
    const uint64_t longs[] = {record->sequence, record->step, (uint64_t)record->durable, record->cursor,
        record->moves, record->polls, record->gap};
    memset(out, 0, LS_PULSE_SIZE);
    memcpy(out, magic, sizeof magic);
    uint8_t *at = out + sizeof magic;
    for (size_t i = 0; i < sizeof words / sizeof *words; i++)
        at = put(at, words[i], sizeof *words);
    for (size_t i = 0; i < sizeof longs / sizeof *longs; i++)
        at = put(at, longs[i], sizeof *longs);
    memcpy(at, record->host, strnlen(record->host, LS_PULSE_HOST - 1));
    ls_hmac_sha256(key, LS_PULSE_KEY, out, SIGNED_SIZE, out + SIGNED_SIZE);
}

// ---- Reading --------------------------------------------------------------------------------------------

static uint64_t take(const uint8_t **at, size_t bytes)
{
    uint64_t value = 0;
    for (size_t i = 0; i < bytes; i++)
        value = value << 8 | (*at)[i];
    *at += bytes;
    return value;
}

static uint32_t take_word(const uint8_t **at)
{
    return (uint32_t)take(at, sizeof(uint32_t));
}

static uint64_t take_long(const uint8_t **at)
{
    return take(at, sizeof(uint64_t));
}

// The name goes into messages and files.
static bool is_host(const char host[LS_PULSE_HOST])
{
    size_t length = strnlen(host, LS_PULSE_HOST);
    if (length == 0 || length == LS_PULSE_HOST)
        return false;
    for (size_t i = 0; i < length; i++)
        if (!isalnum((unsigned char)host[i]) && !strchr("._-:", host[i]))
            return false;
    return true;
}

bool ls_pulse_decode(
    const uint8_t bytes[LS_PULSE_SIZE], const uint8_t key[LS_PULSE_KEY], LsPulseRecord *record)
{
    uint8_t code[LS_HMAC_SIZE];
    if (memcmp(bytes, magic, sizeof magic) != 0)
        return false;
    ls_hmac_sha256(key, LS_PULSE_KEY, bytes, SIGNED_SIZE, code);
    if (!ls_hmac_equal(code, bytes + SIGNED_SIZE))
        return false;
    const uint8_t *at = bytes + sizeof magic;
    LsPulseRecord read = {0};
    read.incarnation = take_word(&at);
    read.rank = take_word(&at);
    read.ranks = take_word(&at);
    read.pid = take_word(&at);
    read.attempt = take_word(&at);
    read.phase = take_word(&at);
    read.stop = take_word(&at);
    read.code = take_word(&at);
    read.sequence = take_long(&at);
    read.step = take_long(&at);
    read.durable = (int64_t)take_long(&at);
    read.cursor = take_long(&at);
    read.moves = take_long(&at);
    read.polls = take_long(&at);
    read.gap = take_long(&at);
    memcpy(read.host, at, LS_PULSE_HOST);
    if (read.rank >= read.ranks || read.phase >= LS_PHASES || read.stop >= LS_PULSE_STOP_KINDS ||
        read.sequence == 0 || !is_host(read.host))
        return false;
    *record = read;
    return true;
}
