// Token shards of llm.c (Karpathy): int32 header[256] with magic, version and count, then uint16 tokens; all
// little-endian.
#ifndef LOCKSTEP_DATA_IMPORT_TOKENS_H
#define LOCKSTEP_DATA_IMPORT_TOKENS_H

#include <stddef.h>
#include <stdint.h>

#include "base/status.h"

enum { LS_SHARD_HEADER = 256 * 4, LS_SHARD_VOCABULARY = 1 << 16 }; // bytes; tokens are uint16

// Checks a shard's first LS_SHARD_HEADER bytes (or as many as there are) against the file's size.
// LS_BAD_DATA.
LsStatus ls_shard_count(const char *path, const uint8_t *header, uint64_t file_bytes, uint64_t *tokens);

#endif
