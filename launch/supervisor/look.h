// A look at the hosts: which there are, and which of them answer. Made by a child process, so that nobody
// waits for a host that is gone; its list comes through a pipe.
#ifndef LOCKSTEP_SUPERVISOR_LOOK_H
#define LOCKSTEP_SUPERVISOR_LOOK_H

#include <sys/types.h>

#include "hosts.h"

typedef struct LsLookOptions {
    const char *hostfile; // one of the two
    const char *discover; // a command for the shell that prints host:slots
    const char *probe; // a command, asked with the host's name; exit code 0: it answers. NULL: a connection
                       // to the port of its ssh
} LsLookOptions;

typedef struct LsLook {
    pid_t pid; // 0: none under way
    int output;
    double started; // clock
    char *text;     // owned
    size_t size;
} LsLook;

LsStatus ls_look_start(const LsLookOptions *options, LsLook *look, double now);

// Takes what has come. True when the look is over: *status says how, and `out` has the hosts that answer when
// it is LS_OK (owned by the caller). A look that takes too long is over with LS_UNAVAILABLE.
bool ls_look_poll(LsLook *look, double now, LsStatus *status, LsHosts *out);

void ls_look_cancel(LsLook *look);

#endif
