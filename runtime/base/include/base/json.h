// JSON in one style, over jansson: floats that read back to the same bits, files that are replaced
// atomically.
#ifndef LOCKSTEP_BASE_JSON_H
#define LOCKSTEP_BASE_JSON_H

#include <jansson.h>
#include <stdint.h>

#include "base/status.h"

// A number, or null for a NaN or an infinity (JSON has neither).
json_t *ls_json_number(double value);

// One line of JSON without the newline, for metrics and events; the caller frees. Keys keep their order of
// insertion; reals have 9 significant digits, enough for a float32 to read back to the same float.
// NULL when there is no memory left.
char *ls_json_line(const json_t *value);

// Sorted keys, no spaces, 17 significant digits: what checksums are taken over. The caller frees.
// NULL when there is no memory left.
char *ls_json_canonical(const json_t *value);

// Reads a JSON object from a file of at most `limit` bytes. LS_NO_INPUT if it is missing; otherwise a
// malformed one is `malformed` (LS_BAD_DATA, LS_CHECKPOINT) and the sentence has line and column.
LsStatus ls_json_read(const char *path, size_t limit, LsStatus malformed, json_t **out);

// Replaces a file atomically by the object, indented, 17 significant digits.
LsStatus ls_json_write(const char *path, const json_t *value);

#endif
