// Runs a program's tests on every device and transport there is, on however many ranks it is started with.
// Every rank runs the same tests in the same order. The host looks at device memory only behind a marker of
// the compute stream, so that work of the communication stream that nothing waits for shows.
//
// With RANKS_PER_HOST in the environment so many ranks say that they are on a host of their own.
#ifndef LOCKSTEP_TESTS_PLATFORMS_H
#define LOCKSTEP_TESTS_PLATFORMS_H

#include "collectives/comm.h"

typedef struct Platform {
    const char *name;
    LsStatus (*open)(LsDevice **out);
    int transport;        // LsCommKind
    const char *expected; // its name, NULL: mpi
    bool progress;        // a thread adds up where that can be
} Platform;

// Those under test.
extern const Platform *platform;
extern LsComm *comm;
extern LsDevice *device;
extern uint32_t rank, ranks;

// Memory of the host, zeros, and of the communicator.
void *allocate(size_t bytes);
void *allocate_on_device(size_t bytes);

void upload(void *to, const void *from, size_t bytes);
void download(void *to, const void *from, size_t bytes);
void assert_on_device(const void *memory, const void *expected, size_t bytes);

// What main does. With an argument: on that platform alone. Returns the exit code.
struct CMUnitTest;
int run_on_platforms(int argc, char **argv, const struct CMUnitTest *tests, size_t count);

#endif
