// Records of attempts on disk, and what they add up to. Private to account*.c.
#ifndef LOCKSTEP_TRAIN_ACCOUNT_RECORDS_H
#define LOCKSTEP_TRAIN_ACCOUNT_RECORDS_H

#include "train/account.h"

// A record has this size, padded with spaces, so that one write replaces it; it fits a page.
enum { LS_ACCOUNT_BYTES = 4096, LS_ACCOUNT_MARKS = 32 };

typedef struct LsAccountRecord {
    int attempt;
    double began;       // wall clock, seconds since 1970
    double alive;       // seconds from then to the record
    int64_t from, step; // the steps made: from + 1 … step; INT64_MAX while it is not known where they begin
    double seconds[LS_ACCOUNT_CAUSES];
    double redo; // of steps that this attempt itself has taken back
    // How many seconds of steps it had behind it at some steps, `spacing` seconds or more apart.
    double spacing;
    size_t marks;
    struct {
        int64_t step;
        double seconds;
    } mark[LS_ACCOUNT_MARKS];
} LsAccountRecord;

void ls_account_path(char path[LS_PATH_MAX], const char *run_dir, int attempt);
bool ls_account_encode(const LsAccountRecord *record, char text[LS_ACCOUNT_BYTES]);

// Notes what the steps so far have cost. When there is no room left every second mark goes.
void ls_account_mark(LsAccountRecord *record);

// Seconds of steps up to `step`; between two marks steps are taken to be equally long.
double ls_account_until(const LsAccountRecord *record, int64_t step);

// Steps past `step` have been undone.
void ls_account_take_back(LsAccountRecord *record, int64_t step);

// Attempts below `attempt`, oldest first; freed by the caller.
LsStatus ls_account_read_all(const char *run_dir, int attempt, LsAccountRecord **out, size_t *count);

// Seconds between attempts that rank hangs cost, by the supervisor's events; next: wall clock at which the
// attempt after the last of them began.
double ls_account_hangs(const char *run_dir, const LsAccountRecord *records, size_t count, double next);

// `newest` may be NULL.
void ls_account_sum(
    const LsAccountRecord *records, size_t count, const LsAccountRecord *newest, double hang, LsGoodput *out);

#endif
