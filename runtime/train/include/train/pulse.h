// The pulse of a rank under `lockstep launch`: a thread that tells the supervisor twice a second who the rank
// is and how far its main thread has come. It makes no MPI call.
//
// Over one TCP connection, so that a process that dies is noticed when the kernel closes it. Every record has
// the same size, is numbered, and carries an HMAC-SHA256 under a secret of the supervisor. The other
// direction stays silent: a rank whose supervisor closes the connection, or is gone for 10 s, ends at once,
// because another supervisor may start the same run (attempts are fenced by the run directory besides).
#ifndef LOCKSTEP_TRAIN_PULSE_H
#define LOCKSTEP_TRAIN_PULSE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/status.h"

// What the main thread is busy with.
typedef enum LsPhase {
    LS_PHASE_START,    // setting up: anything before the first step
    LS_PHASE_DATA,     // waiting for the loader
    LS_PHASE_COMPUTE,  // lanes, decision, optimizer pass
    LS_PHASE_EXCHANGE, // waiting for other ranks or for its device
    LS_PHASE_SAVE,
    LS_PHASE_EVALUATE,
    LS_PHASE_END, // has finished and leaves: its connection may close
    LS_PHASE_LOG, // telling of what was done, in the run's directory and on standard output
    LS_PHASES
} LsPhase;

// "compute".
const char *ls_phase_name(LsPhase phase);

// Whether another launch should follow when the ranks end because they were asked to.
typedef enum LsPulseStop {
    LS_PULSE_GOES_ON, // these ranks were asked, or none
    LS_PULSE_STOPS,   // the run was: its time is over, or the stop file is there
    LS_PULSE_LEAVES,  // this rank's host goes away: elsewhere the run goes on
    LS_PULSE_STOP_KINDS
} LsPulseStop;

// ---- The record -----------------------------------------------------------------------------------------

enum { LS_PULSE_KEY = 32, LS_PULSE_HOST = 64, LS_PULSE_SIZE = 224 };

// One pulse. On the wire: 8 bytes "LSPULSE" and the version, the fields in this order as big-endian integers
// of their width, the host's name filled up with zeros, zeros to 192 bytes, and the HMAC of these 192.
typedef struct LsPulseRecord {
    uint32_t incarnation; // number of the launch, from LOCKSTEP_INCARNATION
    uint32_t rank, ranks;
    uint32_t pid;
    uint32_t attempt;  // of the run; 0 before the run directory is claimed
    uint32_t phase;    // LsPhase
    uint32_t stop;     // LsPulseStop
    uint32_t code;     // exit code; means something in LS_PHASE_END
    uint64_t sequence; // 1, 2, … for each record of the process
    uint64_t step;     // the step being worked on: one more than those finished
    int64_t durable;   // newest durable checkpoint's step as far as this rank knows, -1: none
    uint64_t cursor;   // the step's first position in the stream of samples
    uint64_t moves;    // how often the main thread has said where it is
    uint64_t polls;    // how often it has looked for what other ranks owe it
    uint64_t gap;      // microseconds between moves in steps, as they usually are at most; 0: not known yet
    char host[LS_PULSE_HOST];
} LsPulseRecord;

void ls_pulse_encode(
    const LsPulseRecord *record, const uint8_t key[LS_PULSE_KEY], uint8_t out[LS_PULSE_SIZE]);

// False, and `record` untouched, unless the bytes are a record under this key whose fields make sense: a rank
// below its number of ranks, a known phase, a printable host's name.
bool ls_pulse_decode(
    const uint8_t bytes[LS_PULSE_SIZE], const uint8_t key[LS_PULSE_KEY], LsPulseRecord *record);

// ---- The rank's side ------------------------------------------------------------------------------------

typedef struct LsPulse LsPulse;

typedef struct LsPulseOptions {
    const char *supervisor; // "HOST:PORT" or "[HOST]:PORT", numbers only
    const char *secret;     // 64 hexadecimal digits
    uint32_t incarnation, rank, ranks;
    const volatile uint64_t *polls; // counted up while the main thread waits for others; may be NULL
} LsPulseOptions;

// Connects (trying for some seconds) and starts the thread. LS_UNAVAILABLE, with the address, when there is
// no way to the supervisor; LS_CONFIG: address or secret is malformed.
LsStatus ls_pulse_open(const LsPulseOptions *options, LsPulse **out);

// Where the main thread is; a few stores. Returns where it was, for what ends by going back to it. All calls
// but open accept a NULL pulse and do nothing; they come from the main thread.
LsPhase ls_pulse_at(LsPulse *pulse, LsPhase phase);

// What only changes with steps, said before ls_pulse_at: the step being worked on, its first position in the
// stream, the newest durable step.
void ls_pulse_step(LsPulse *pulse, int64_t step, uint64_t cursor, int64_t durable);

void ls_pulse_attempt(LsPulse *pulse, int attempt);
void ls_pulse_stop(LsPulse *pulse, LsPulseStop stop);

// Says goodbye with the process's exit code, before it meets the others for the last time. The thread goes
// on, so that a rank that hangs in its last moments is seen.
void ls_pulse_end(LsPulse *pulse, int code);

// Ends the thread and closes the connection.
void ls_pulse_close(LsPulse *pulse);

#endif
