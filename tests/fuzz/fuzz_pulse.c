// fuzz: train
// Pulses: whatever the bytes, they are refused, or are a record that makes sense. Once as they came, and once
// signed with the secret, which no mutation finds.
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "base/hash.h"
#include "train/pulse.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static const uint8_t key[LS_PULSE_KEY] = {42};

static void require(bool holds)
{
    if (!holds)
        abort();
}

static void check(const uint8_t bytes[LS_PULSE_SIZE])
{
    LsPulseRecord record, back;
    memset(&record, 0x5a, sizeof record);
    LsPulseRecord untouched = record;
    if (!ls_pulse_decode(bytes, key, &record)) {
        require(memcmp(&record, &untouched, sizeof record) == 0);
        return;
    }
    require(record.rank < record.ranks && record.phase < LS_PHASES && record.sequence > 0);
    require(memchr(record.host, '\0', sizeof record.host) != NULL && record.host[0] != '\0');
    require(strpbrk(record.host, " \n\r\t\"\\") == NULL);
    uint8_t written[LS_PULSE_SIZE];
    ls_pulse_encode(&record, key, written);
    require(ls_pulse_decode(written, key, &back));
    require(strcmp(back.host, record.host) == 0 && back.step == record.step && back.gap == record.gap);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    uint8_t bytes[LS_PULSE_SIZE] = {0};
    memcpy(bytes, data, size < sizeof bytes ? size : sizeof bytes);
    check(bytes);
    size_t signed_size = LS_PULSE_SIZE - LS_HMAC_SIZE;
    ls_hmac_sha256(key, sizeof key, bytes, signed_size, bytes + signed_size);
    check(bytes);
    return 0;
}
