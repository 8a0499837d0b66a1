// What the files runtime_*.c of the emulated GPU share. All but ls_runtime_enter is called with the lock
// held.
#ifndef LOCKSTEP_EMULATOR_RUNTIME_H
#define LOCKSTEP_EMULATOR_RUNTIME_H

#include <pthread.h>

#include "emulator.h"

// ---- The lock, and what every call begins with (runtime_device.c) -----------------------------------------

// Takes the lock, once for each nested call; cudaErrorInsufficientDriver on a machine without GPUs.
cudaError_t ls_runtime_enter(void);
// Gives the lock back, remembers the error and returns it.
cudaError_t ls_runtime_leave(cudaError_t error);
// Lets other threads in for a moment.
void ls_runtime_yield(void);

enum { MAX_DEVICES = 64 };
int ls_runtime_device(void); // the current one
int ls_runtime_devices(void);
size_t ls_runtime_device_bytes(void); // memory of each

// ---- Memory (runtime_memory.c) ----------------------------------------------------------------------------

// Opens device memory to this process; pairs nest.
void ls_memory_open(void);
void ls_memory_close(void);

// Closes device memory while the host runs code of its own in the middle of a stream, and opens it again.
void ls_memory_suspend(void);
void ls_memory_resume(void);

bool ls_memory_is_device(const void *address); // an address that only the device can have
bool ls_memory_is_pinned(const void *address, size_t bytes);

// Aborts unless all bytes are in one live allocation of the device. Before the work runs, memory that is
// still to be allocated in stream order counts as well.
void ls_memory_require(const char *what, const void *address, size_t bytes, bool running);
void ls_memory_require_host(const char *what, const void *address, size_t bytes);

// ---- Streams (runtime_stream.c, runtime_run.c) ------------------------------------------------------------

typedef struct Capture Capture;
typedef struct GraphBody GraphBody;

// Work and what the runtime has to know of it.
typedef struct Job {
    LsEmulatedWork work;
    enum cudaGraphNodeType type;
    char *host; // pinned or pageable memory that it uses when it runs; NULL: none
    size_t host_bytes;
    bool writes_host;
} Job;

typedef enum ItemKind {
    ITEM_WORK, // owned by the item
    ITEM_NODE, // of a graph, owned by the graph
    ITEM_WAIT,
    ITEM_RECORD,    // sets the time of an event
    ITEM_LAUNCH_END // drops a launch's hold on its graph
} ItemKind;

typedef struct Item {
    struct Item *next;
    struct Item *host_next, **host_link; // list of those that will still use host memory
    ItemKind kind;
    Job job;
    cudaStream_t on; // ITEM_WAIT: until this stream has done so many items
    uint64_t until;
    cudaEvent_t event;
    cudaGraphExec_t launched;
} Item;

enum { STREAM_ALIVE = 0x57ea11, EVENT_ALIVE = 0xe7e47, GRAPH_ALIVE = 0x96a98, EXEC_ALIVE = 0xe8ec };

// Memory of streams and events is kept for the next one, so that a destroyed handle can be told.
struct CUstream_st {
    struct CUstream_st *next; // all streams there ever were
    unsigned state;           // STREAM_ALIVE, or destroyed
    unsigned references;      // by events and waits
    int device, priority;
    bool legacy, blocking; // blocking: ordered with the legacy stream
    Item *head, *tail;
    uint64_t queued, done; // items so far
    uint64_t after_legacy; // what of the legacy stream this one already waits for
    uint64_t legacy_after; // what of this one the legacy stream already waits for
    Capture *capture;
    uint32_t *frontier; // while capturing: nodes that the next one depends on
    size_t frontier_count;
};

struct CUevent_st {
    struct CUevent_st *next;
    unsigned state;
    unsigned references; // by the handle, items and graphs
    unsigned flags;
    cudaStream_t stream; // of the newest record, NULL: never recorded
    uint64_t position;
    double seconds;    // when that record was reached
    uint64_t captured; // id of the capture that it was last recorded in, 0: none
    uint32_t *frontier;
    size_t frontier_count;
};

// A handle's stream; NULL where it is none. 0 and cudaStreamLegacy are the legacy stream.
cudaStream_t ls_stream_find(cudaStream_t handle);
bool ls_event_valid(cudaEvent_t event);
void ls_event_release(cudaEvent_t event);

// All streams, for (s = ls_streams(); s; s = s->next).
cudaStream_t ls_streams(void);
cudaStream_t ls_legacy_stream(void); // of the current device

// Puts a job into a stream or the graph that it records. Ownership goes with it, also when it fails.
cudaError_t ls_stream_add(cudaStream_t stream, const Job *job);

// The same without a capture. `template` is copied.
void ls_stream_push(cudaStream_t stream, const Item *template);

// Orders a stream behind the legacy stream, or the legacy stream behind all others.
void ls_stream_order_legacy(cudaStream_t stream);
void ls_stream_wait_for(cudaStream_t stream, cudaStream_t on, uint64_t until);
void ls_event_record(cudaEvent_t event, cudaStream_t stream);

// Runs a stream's items until `position` are done; false: one waits for other processes.
bool ls_run_to(cudaStream_t stream, uint64_t position);
// The same, and waits.
void ls_run_until(cudaStream_t stream, uint64_t position);
void ls_run_all(void); // waits for everything
// With a seed, sometimes moves streams on. Called after whatever enqueues.
void ls_run_wander(void);
// What a query answers: by then the stream has moved on as far as it can.
bool ls_run_query(cudaStream_t stream, uint64_t position);

// ---- Captures (runtime_capture.c) -------------------------------------------------------------------------

cudaError_t ls_capture_add(cudaStream_t stream, const Job *job);
cudaError_t ls_capture_record(cudaStream_t stream, cudaEvent_t event, bool external);
// Waits in which a capture takes part: the stream's or the event's.
cudaError_t ls_capture_wait(cudaStream_t stream, cudaEvent_t event, bool external);

// Checks before a call that a capture forbids; the error invalidates the captures that it conflicts with.
cudaError_t ls_capture_forbid_unsafe(void);                 // cudaMalloc and the like
cudaError_t ls_capture_forbid_legacy(cudaStream_t stream);  // use of the legacy stream
cudaError_t ls_capture_forbid_waiting(cudaStream_t stream); // NULL: for the device
cudaError_t ls_capture_forbid_event(cudaEvent_t event);

// ---- Graphs (runtime_graph.c) -----------------------------------------------------------------------------

typedef enum NodeKind { NODE_JOB, NODE_RECORD, NODE_WAIT } NodeKind;

struct CUgraphNode_st {
    NodeKind kind;
    Job job;
    cudaEvent_t event;
    uint32_t *needs; // earlier nodes
    size_t need_count;
};

// Shared by a graph and those instantiated from it.
struct GraphBody {
    unsigned references;
    cudaGraphNode_t *nodes;
    size_t count, capacity;
    uint32_t *last; // what the capture's stream ended with
    size_t last_count;
};

GraphBody *ls_graph_body_create(void);
void ls_graph_body_release(GraphBody *body);
uint32_t ls_graph_body_add(GraphBody *body, NodeKind kind, const Job *job, cudaEvent_t event,
    const uint32_t *needs, size_t need_count);
cudaGraph_t ls_graph_create(GraphBody *body); // takes the reference
// Fills order[count] with the nodes, each after those that it needs, as late as may be; returns how many the
// last ones depend on.
size_t ls_graph_latest_order(const GraphBody *body, uint32_t *order);
void ls_graph_exec_release(cudaGraphExec_t exec);

void *ls_runtime_allocate(void *old, size_t bytes); // realloc that aborts

#endif
