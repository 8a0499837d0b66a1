// Graphs of the emulated GPU: nodes of work that a launch puts into a stream, one after the other.
//
// The order is the one in which streams would have run them: as late as may be, each node behind those that
// it needs. With a seed it is any order that the needs allow.
#include "runtime.h"

#include <stdlib.h>
#include <string.h>

struct CUgraph_st {
    unsigned state;
    GraphBody *body;
};

struct CUgraphExec_st {
    unsigned state;
    unsigned references; // by the handle and by launches that have not run
    GraphBody *body;
    uint32_t *order;
    cudaStream_t stream; // of the newest launch: two launches never run at the same time
    uint64_t position;
};

// ---- Bodies ---------------------------------------------------------------------------------------------

GraphBody *ls_graph_body_create(void)
{
    GraphBody *body = ls_runtime_allocate(NULL, sizeof *body);
    *body = (GraphBody){.references = 1};
    return body;
}

void ls_graph_body_release(GraphBody *body)
{
    if (--body->references)
        return;
    for (size_t i = 0; i < body->count; i++) {
        cudaGraphNode_t node = body->nodes[i];
        if (node->kind == NODE_JOB)
            node->job.work.release(node->job.work.context);
        else
            ls_event_release(node->event);
        free(node->needs);
        free(node);
    }
    free(body->nodes);
    free(body->last);
    free(body);
}

uint32_t ls_graph_body_add(GraphBody *body, NodeKind kind, const Job *job, cudaEvent_t event,
    const uint32_t *needs, size_t need_count)
{
    if (body->count == body->capacity) {
        body->capacity = body->capacity ? 2 * body->capacity : 64;
        body->nodes = ls_runtime_allocate(body->nodes, body->capacity * sizeof(cudaGraphNode_t));
    }
    cudaGraphNode_t node = ls_runtime_allocate(NULL, sizeof *node);
    *node = (struct CUgraphNode_st){.kind = kind, .event = event, .need_count = need_count};
    if (job)
        node->job = *job;
    if (event)
        event->references++;
    node->needs = ls_runtime_allocate(NULL, (need_count + 1) * sizeof *needs);
    if (need_count)
        memcpy(node->needs, needs, need_count * sizeof *needs);
    body->nodes[body->count] = node;
    return (uint32_t)body->count++;
}

// ---- Orders ---------------------------------------------------------------------------------------------

typedef struct Visit {
    const GraphBody *body;
    bool *seen;
    uint32_t *order;
    size_t count;
} Visit;

// Needs come in the order of the waits, what came before in the node's own stream first.
static void visit(Visit *state, uint32_t index)
{
    if (state->seen[index])
        return;
    state->seen[index] = true;
    const struct CUgraphNode_st *node = state->body->nodes[index];
    for (size_t i = 0; i < node->need_count; i++)
        visit(state, node->needs[i]);
    state->order[state->count++] = index;
}

size_t ls_graph_latest_order(const GraphBody *body, uint32_t *order)
{
    Visit state = {.body = body, .order = order};
    state.seen = ls_runtime_allocate(NULL, body->count + 1);
    memset(state.seen, 0, body->count + 1);
    for (size_t i = 0; i < body->last_count; i++)
        visit(&state, body->last[i]);
    free(state.seen);
    return state.count;
}

static bool ready(const GraphBody *body, const bool *placed, uint32_t index)
{
    if (placed[index])
        return false;
    const struct CUgraphNode_st *node = body->nodes[index];
    for (size_t i = 0; i < node->need_count; i++)
        if (!placed[node->needs[i]])
            return false;
    return true;
}

static void any_order(const GraphBody *body, uint32_t *order)
{
    bool *placed = ls_runtime_allocate(NULL, body->count + 1);
    uint32_t *candidates = ls_runtime_allocate(NULL, (body->count + 1) * sizeof *candidates);
    memset(placed, 0, body->count + 1);
    for (size_t done = 0; done < body->count; done++) {
        size_t count = 0;
        for (uint32_t i = 0; i < body->count; i++)
            if (ready(body, placed, i))
                candidates[count++] = i;
        order[done] = candidates[(ls_emulator_random() >> 8) % count];
        placed[order[done]] = true;
    }
    free(candidates);
    free(placed);
}

// ---- Graphs ---------------------------------------------------------------------------------------------

cudaGraph_t ls_graph_create(GraphBody *body)
{
    cudaGraph_t graph = ls_runtime_allocate(NULL, sizeof *graph);
    *graph = (struct CUgraph_st){GRAPH_ALIVE, body};
    return graph;
}

static bool graph_valid(cudaGraph_t graph)
{
    return graph && graph->state == GRAPH_ALIVE;
}

static bool exec_valid(cudaGraphExec_t exec)
{
    return exec && exec->state == EXEC_ALIVE;
}

cudaError_t cudaGraphDestroy(cudaGraph_t graph)
{
    cudaError_t error = ls_runtime_enter();
    if (error == cudaSuccess && !graph_valid(graph))
        error = cudaErrorInvalidValue;
    if (error == cudaSuccess) {
        ls_graph_body_release(graph->body);
        graph->state = 0;
        free(graph);
    }
    return ls_runtime_leave(error);
}

cudaError_t cudaGraphGetNodes(cudaGraph_t graph, cudaGraphNode_t *nodes, size_t *numNodes)
{
    cudaError_t error = ls_runtime_enter();
    if (error == cudaSuccess && (!graph_valid(graph) || !numNodes))
        error = cudaErrorInvalidValue;
    if (error == cudaSuccess) {
        const GraphBody *body = graph->body;
        for (size_t i = 0; nodes && i < *numNodes; i++)
            nodes[i] = i < body->count ? body->nodes[i] : NULL;
        if (!nodes || *numNodes > body->count)
            *numNodes = body->count;
    }
    return ls_runtime_leave(error);
}

cudaError_t cudaGraphNodeGetType(cudaGraphNode_t node, enum cudaGraphNodeType *pType)
{
    cudaError_t error = ls_runtime_enter();
    if (error == cudaSuccess && (!node || !pType))
        error = cudaErrorInvalidValue;
    if (error == cudaSuccess)
        *pType = node->kind == NODE_JOB      ? node->job.type
                 : node->kind == NODE_RECORD ? cudaGraphNodeTypeEventRecord
                                             : cudaGraphNodeTypeWaitEvent;
    return ls_runtime_leave(error);
}

// ---- Executable graphs ----------------------------------------------------------------------------------

cudaError_t cudaGraphInstantiate(cudaGraphExec_t *pGraphExec, cudaGraph_t graph, unsigned long long flags)
{
    cudaError_t error = ls_runtime_enter();
    if (error == cudaSuccess && (!pGraphExec || !graph_valid(graph) || flags))
        error = cudaErrorInvalidValue;
    if (error == cudaSuccess) {
        GraphBody *body = graph->body;
        cudaGraphExec_t exec = ls_runtime_allocate(NULL, sizeof *exec);
        *exec = (struct CUgraphExec_st){.state = EXEC_ALIVE, .references = 1, .body = body};
        body->references++;
        exec->order = ls_runtime_allocate(NULL, (body->count + 1) * sizeof *exec->order);
        if (ls_emulator_random())
            any_order(body, exec->order);
        else
            ls_graph_latest_order(body, exec->order);
        *pGraphExec = exec;
    }
    return ls_runtime_leave(error);
}

void ls_graph_exec_release(cudaGraphExec_t exec)
{
    if (--exec->references)
        return;
    if (exec->stream)
        exec->stream->references--;
    ls_graph_body_release(exec->body);
    free(exec->order);
    free(exec);
}

cudaError_t cudaGraphExecDestroy(cudaGraphExec_t graphExec)
{
    cudaError_t error = ls_runtime_enter();
    if (error == cudaSuccess && !exec_valid(graphExec))
        error = cudaErrorInvalidValue;
    if (error == cudaSuccess) {
        graphExec->state = 0;
        ls_graph_exec_release(graphExec);
    }
    return ls_runtime_leave(error);
}

static void push_node(cudaStream_t stream, const struct CUgraphNode_st *node)
{
    if (node->kind == NODE_JOB)
        ls_stream_push(stream, &(Item){.kind = ITEM_NODE, .job = node->job});
    else if (node->kind == NODE_RECORD && ls_event_valid(node->event))
        ls_event_record(node->event, stream);
    else if (node->kind == NODE_WAIT && node->event->stream)
        ls_stream_wait_for(stream, node->event->stream, node->event->position);
}

static void launch(cudaGraphExec_t exec, cudaStream_t stream)
{
    ls_stream_order_legacy(stream);
    if (exec->stream) {
        ls_stream_wait_for(stream, exec->stream, exec->position);
        exec->stream->references--;
    }
    for (size_t i = 0; i < exec->body->count; i++)
        push_node(stream, exec->body->nodes[exec->order[i]]);
    exec->references++;
    ls_stream_push(stream, &(Item){.kind = ITEM_LAUNCH_END, .launched = exec});
    exec->stream = stream;
    exec->stream->references++;
    exec->position = stream->queued;
    ls_run_wander();
}

// A graph within a graph is not emulated.
cudaError_t cudaGraphLaunch(cudaGraphExec_t graphExec, cudaStream_t handle)
{
    cudaError_t error = ls_runtime_enter();
    cudaStream_t stream = ls_stream_find(handle);
    if (error == cudaSuccess)
        error = !exec_valid(graphExec) ? cudaErrorInvalidValue
                : !stream              ? cudaErrorInvalidResourceHandle
                                       : ls_capture_forbid_legacy(stream);
    if (error == cudaSuccess && stream->capture)
        error = ls_capture_forbid_waiting(stream);
    if (error == cudaSuccess)
        launch(graphExec, stream);
    return ls_runtime_leave(error);
}

// There is nothing to upload.
cudaError_t cudaGraphUpload(cudaGraphExec_t graphExec, cudaStream_t handle)
{
    cudaError_t error = ls_runtime_enter();
    if (error == cudaSuccess)
        error = !exec_valid(graphExec)    ? cudaErrorInvalidValue
                : !ls_stream_find(handle) ? cudaErrorInvalidResourceHandle
                                          : cudaSuccess;
    return ls_runtime_leave(error);
}
