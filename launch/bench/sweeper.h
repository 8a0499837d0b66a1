// What is left to do when a benchmark ends otherwise than it should, by a signal or killed: a process of its
// own, which notices that, ends the programs that the benchmark had started, and removes its folder.
#ifndef LOCKSTEP_BENCH_SWEEPER_H
#define LOCKSTEP_BENCH_SWEEPER_H

#include <sys/types.h>

// Starts the sweeper of `folder`; there is one at a time. Where it cannot be started things go on without.
void ls_sweeper_start(const char *folder);

// Programs that run, each ended by SIGTERM if this process ends before it is said that they have.
void ls_sweeper_add(pid_t process);
void ls_sweeper_forget(pid_t process);

// Nothing is left to do.
void ls_sweeper_end(void);

#endif
