// The supervisor's socket: takes connections and hands authenticated pulses to the watch. Whatever is not a
// record of this launch under its secret costs the sender its connection; nothing is ever answered.
#ifndef LOCKSTEP_SUPERVISOR_LISTENER_H
#define LOCKSTEP_SUPERVISOR_LISTENER_H

#include <poll.h>

#include "watch.h"

enum {
    LS_STRANGERS_MAX = 32, // connections beside those of ranks
    LS_ADDRESS_MAX = 80
};

typedef struct LsConnection {
    int fd;
    int64_t rank; // -1: has not proved itself
    double since; // clock
    size_t used;
    uint8_t bytes[LS_PULSE_SIZE];
} LsConnection;

typedef struct LsListener {
    int fd;
    char address[LS_ADDRESS_MAX]; // "127.0.0.1:40123", as ranks are told
    uint8_t key[LS_PULSE_KEY];
    uint32_t incarnation; // records of others are dropped
    size_t count, capacity;
    LsConnection *connection; // owned
    uint64_t dropped;         // connections that were closed for what they sent, or did not send
} LsListener;

// Listens on the loopback, or on the address of `interface` (a name or an address of this host). LS_USAGE:
// there is no such interface.
LsStatus ls_listener_open(const char *interface, LsListener *out);
void ls_listener_close(LsListener *listener);

// A new launch: a new secret; connections of the one before are closed.
LsStatus ls_listener_begin(LsListener *listener);

// Appends what is to be polled to `polled` [at most ls_listener_polled]; returns how many.
size_t ls_listener_polled(const LsListener *listener);
size_t ls_listener_poll(const LsListener *listener, struct pollfd *polled);

// Takes what has arrived and tells the watch. Never blocks.
void ls_listener_serve(LsListener *listener, LsWatch *watch, double now);

// Tells the ranks to end, by closing this side of their connections.
void ls_listener_dismiss(LsListener *listener);

#endif
