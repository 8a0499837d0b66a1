// The transport `shared`: ranks of one host read each other's memory in place. Private to this layer.
//
// Each rank has a board that the others of its host see, with counters that only it writes. What it says with
// them: "my contribution to reduction `tag` is final", "I have read what I needed of yours", "my words are
// there". Counters only rise; a wait is for a peer's counter to reach the number that this rank has itself
// got to, since all ranks make the same collective calls in the same order.
//
// What does not go through shared memory goes through the transport `host`, which it owns: messages, and all
// that ranks of several hosts tell each other.
#ifndef LOCKSTEP_COLLECTIVES_SHARED_H
#define LOCKSTEP_COLLECTIVES_SHARED_H

#include <stdatomic.h>

#include "backend.h"
#include "shared_memory.h"

enum {
    LS_SHARED_TAGS = 8192,      // reductions that may be under way at once
    LS_SHARED_PAGE = 64 * 1024, // bytes of a rank's words that travel at once
    LS_CACHE_LINE = 64
};

typedef struct LsBoard {
    _Alignas(LS_CACHE_LINE) _Atomic uint64_t pages;  // of words posted; page n is words[n % 2]
    _Alignas(LS_CACHE_LINE) _Atomic uint64_t shards; // buckets, of gathers, of which its part is there
    _Alignas(LS_CACHE_LINE) _Atomic uint64_t read;   // times that it had read all it needed of the others'
    _Alignas(LS_CACHE_LINE) _Atomic uint64_t final[LS_SHARED_TAGS];
    _Alignas(LS_CACHE_LINE) unsigned char words[2][LS_SHARED_PAGE];
} LsBoard;

#endif
