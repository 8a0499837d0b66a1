// The guard's part of a run's state, window of good steps and history of wrong ones: in the manifest, in the
// checkpoint hash, and as text.
#ifndef LOCKSTEP_TRAIN_GUARD_STATE_H
#define LOCKSTEP_TRAIN_GUARD_STATE_H

#include "base/hash.h"
#include "base/json.h"
#include "train/checkpoint.h"

// Adds what is not empty to the manifest's "state": window_loss and window_gradient_norm (lists, oldest
// first), rollbacks, findings (steps, oldest first).
void ls_guard_state_json(const LsRunState *state, json_t *json);

// Reads them; what is missing is empty, as in checkpoints of versions without guards. NULL, or the name of
// the member that is not valid. `state` must be zeros before.
const char *ls_guard_state_parse(const json_t *json, LsRunState *state);

void ls_guard_state_hash(const LsRunState *state, LsSha256 *sha);
void ls_guard_state_print(const LsRunState *state, FILE *out);

// Prints the members that differ and returns how many do.
size_t ls_guard_state_diff(const LsRunState *a, const LsRunState *b, FILE *out);

// Adds a wrong step, forgets those that are `span` or more steps older, and returns how many are left.
int64_t ls_guard_history_add(LsGuardHistory *guard, int64_t step, int64_t span);

#endif
