// Where ranks may run: lists as Open MPI's hostfiles and Horovod's discovery scripts have them, and what has
// been learnt about each host.
#ifndef LOCKSTEP_SUPERVISOR_HOSTS_H
#define LOCKSTEP_SUPERVISOR_HOSTS_H

#include <stdbool.h>
#include <stddef.h>

#include "base/status.h"

enum { LS_HOST_NAME_MAX = 256, LS_HOSTS_MAX = 4096, LS_SLOTS_MAX = 1 << 20 };

typedef struct LsHost {
    char name[LS_HOST_NAME_MAX];
    int slots;
    // Of the book of hosts alone:
    bool here;        // in the newest list
    double since;     // clock: from when on it has been
    int failures;     // in a row, of ranks on it
    double failed;    // clock: the newest
    double out_until; // clock: left out until then
} LsHost;

typedef struct LsHosts {
    size_t count;
    LsHost *host; // owned
} LsHosts;

void ls_hosts_free(LsHosts *hosts);

// A line is `NAME [slots=N] [other words]`; # begins a comment; without slots a host has one. A name that
// comes again adds its slots. LS_USAGE with `origin` and the line's number.
LsStatus ls_hosts_read_hostfile(const char *text, const char *origin, LsHosts *out);

// A line is `NAME:SLOTS` or `NAME`.
LsStatus ls_hosts_read_discovery(const char *text, const char *origin, LsHosts *out);

bool ls_host_is_local(const char *name);

// Takes over a list that has just been made: hosts not in it are no longer here, new ones are from now on.
LsStatus ls_hosts_update(LsHosts *book, const LsHosts *list, double now);

// Ranks on `name` died or hung. At the second time within ten minutes the host is left out, each time for
// twice as long, as long as the others have `least` slots. True when it is left out from now on.
bool ls_hosts_blame(LsHosts *book, const char *name, int least, double now);

// The host has been told that it goes away: it is left out for ten minutes, by when it has gone, or stays.
void ls_hosts_leave(LsHosts *book, const char *name, double now);

// Slots of hosts that are here, have been for `settled` seconds, and are not left out.
int ls_hosts_slots(const LsHosts *book, double settled, double now);

// Whether ranks may run there now.
bool ls_host_usable(const LsHost *host, double settled, double now);

// The same host under two names: node1 and node1.example.org.
bool ls_host_same(const char *a, const char *b);

#endif
