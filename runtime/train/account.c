#include "train/account.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "account_records.h"
#include "base/clock.h"

// A write is some 20 µs, which a short step would notice.
static const double WRITE_SECONDS = 0.1;

struct LsAccount {
    int fd;
    LsPulse *pulse; // lent; NULL: nobody watches
    double begun;   // clock
    double since;   // clock at which the present cause began
    double written; // clock
    LsAccountCause cause;
    LsAccountRecord record;
    LsAccountRecord *before; // earlier attempts, oldest first; owned
    size_t earlier;
    double hang; // among the time between them
};

static double wall_clock(void)
{
    struct timespec now;
    clock_gettime(CLOCK_REALTIME, &now);
    return (double)now.tv_sec + (double)now.tv_nsec / 1e9;
}

static void settle(LsAccount *account, double now)
{
    account->record.seconds[account->cause] += now - account->since;
    account->since = now;
}

// The record is a convenience: a disk that is full ends the run where it loses something.
static void write_record(LsAccount *account, double now)
{
    char text[LS_ACCOUNT_BYTES];
    settle(account, now);
    account->record.alive = now - account->begun;
    account->written = now;
    if (!ls_account_encode(&account->record, text))
        return;
    LsPhase before = ls_pulse_at(account->pulse, LS_PHASE_LOG);
    (void)!pwrite(account->fd, text, sizeof text, 0);
    ls_pulse_at(account->pulse, before);
}

LsStatus ls_account_open(const LsRunDir *run, double begun, LsPulse *pulse, LsAccount **out)
{
    char path[LS_PATH_MAX];
    double now = ls_clock_seconds();
    ls_account_path(path, run->path, run->attempt);
    LsAccount *account = calloc(1, sizeof *account);
    if (!account)
        return LS_FAIL(LS_INTERNAL, "out of memory for the account of the run");
    *account = (LsAccount){.pulse = pulse, .begun = begun, .since = begun};
    account->record = (LsAccountRecord){.attempt = run->attempt,
        .began = wall_clock() - (now - begun),
        .from = INT64_MAX,
        .step = INT64_MAX,
        .spacing = 0.5};
    account->fd = open(path, O_WRONLY | O_CREAT | O_CLOEXEC, 0666);
    if (account->fd < 0) {
        free(account);
        return LS_FAIL(LS_IO, "cannot create %s: %s", path, strerror(errno));
    }
    LsStatus status = ls_account_read_all(run->path, run->attempt, &account->before, &account->earlier);
    if (status != LS_OK) {
        ls_account_close(account);
        return status;
    }
    account->hang = ls_account_hangs(run->path, account->before, account->earlier, account->record.began);
    write_record(account, now);
    *out = account;
    return LS_OK;
}

void ls_account_close(LsAccount *account)
{
    if (!account)
        return;
    write_record(account, ls_clock_seconds());
    close(account->fd);
    free(account->before);
    free(account);
}

void ls_account_resume(LsAccount *account, int64_t step)
{
    if (!account)
        return;
    account->record.from = account->record.step = step;
    account->record.marks = 0;
}

void ls_account_spend(LsAccount *account, LsAccountCause cause)
{
    if (!account || cause == account->cause)
        return;
    double now = ls_clock_seconds();
    settle(account, now);
    account->cause = cause;
    if (now - account->written >= WRITE_SECONDS)
        write_record(account, now);
}

void ls_account_step(LsAccount *account, int64_t step)
{
    if (!account)
        return;
    double now = ls_clock_seconds();
    settle(account, now);
    if (step < account->record.step)
        ls_account_take_back(&account->record, step);
    account->record.step = step;
    ls_account_mark(&account->record);
    if (now - account->written >= WRITE_SECONDS)
        write_record(account, now);
}

void ls_account_goodput(LsAccount *account, LsGoodput *out)
{
    *out = (LsGoodput){0};
    if (!account)
        return;
    double now = ls_clock_seconds();
    settle(account, now);
    account->record.alive = now - account->begun;
    ls_account_sum(account->before, account->earlier, &account->record, account->hang, out);
}
