// Copies of the strict device, and the streams and markers that say when the host may rely on them.
#include <stdlib.h>
#include <string.h>

#include "base/memory.h"
#include "strict_state.h"

// ---- Copies ---------------------------------------------------------------------------------------------

static LsStatus add_pending(
    StrictDevice *strict, const void *host, const void *bytes_at, size_t bytes, bool arrives)
{
    void *snapshot = malloc(bytes ? bytes : 1);
    LsStatus status = ls_strict_append((void **)&strict->pending, &strict->pending_count, sizeof(Pending));
    if (!snapshot || status != LS_OK) {
        free(snapshot);
        return LS_FAIL(LS_INTERNAL, "strict device: no memory left");
    }
    memcpy(snapshot, bytes_at, bytes);
    uint64_t number = ++strict->streams[strict->stream].copies[strict->stream];
    strict->pending[strict->pending_count - 1] =
        (Pending){(char *)host, snapshot, bytes, arrives, strict->stream, number};
    return LS_OK;
}

static bool overlaps(const Pending *copy, const char *memory, size_t bytes)
{
    return copy->host < memory + bytes && memory < copy->host + copy->bytes;
}

// What a wait that saw `progress` settles of the copies that touch `bytes` at `memory` (NULL: of all):
// results arrive, and sources must be what they were.
static LsStatus settle(StrictDevice *strict, const Progress *progress, const char *memory, size_t bytes)
{
    LsStatus status = LS_OK;
    size_t kept = 0;
    for (size_t i = 0; i < strict->pending_count; i++) {
        Pending *copy = &strict->pending[i];
        if (copy->number > progress->copies[copy->stream] || (memory && !overlaps(copy, memory, bytes))) {
            strict->pending[kept++] = *copy;
            continue;
        }
        if (copy->arrives)
            memcpy(copy->host, copy->snapshot, copy->bytes);
        else if (!ls_strict_is_pinned(strict, copy->host) ||
                 memcmp(copy->host, copy->snapshot, copy->bytes) != 0)
            status =
                LS_FAIL(LS_INTERNAL, "copy_in: pinned host memory changed before the copy was waited for");
        free(copy->snapshot);
    }
    strict->pending_count = kept;
    return status;
}

static LsStatus strict_copy_in(LsDevice *device, void *to, const void *host_from, size_t bytes)
{
    StrictDevice *strict = (StrictDevice *)device;
    const Span spans[] = {{"the destination", to, bytes, true}};
    LS_TRY(ls_strict_check_host(strict, "copy_in", "the source", host_from));
    LS_TRY(ls_strict_open_spans(strict, "copy_in", COUNT(spans), spans));
    LsStatus status = strict->inner->ops->copy_in(strict->inner, to, host_from, bytes);
    ls_strict_close_spans(strict, COUNT(spans), spans);
    if (status == LS_OK && ls_strict_is_pinned(strict, host_from))
        status = add_pending(strict, host_from, host_from, bytes, false);
    return status;
}

static LsStatus strict_copy_out(LsDevice *device, void *host_to, const void *from, size_t bytes)
{
    StrictDevice *strict = (StrictDevice *)device;
    const Span spans[] = {{"the source", from, bytes, false}};
    LS_TRY(ls_strict_check_host(strict, "copy_out", "the destination", host_to));
    // The stream may write what its own earlier copies, or those it has waited for, have read.
    LS_TRY(settle(strict, &strict->streams[strict->stream], host_to, bytes));
    LS_TRY(ls_strict_open_spans(strict, "copy_out", COUNT(spans), spans));
    LsStatus status = add_pending(strict, host_to, from, bytes, true);
    ls_strict_close_spans(strict, COUNT(spans), spans);
    if (status == LS_OK)
        memset(host_to, 0xFF, bytes);
    return status;
}

static LsStatus strict_copy(LsDevice *device, void *to, const void *from, size_t bytes)
{
    StrictDevice *strict = (StrictDevice *)device;
    const Span spans[] = {{"the destination", to, bytes, true}, {"the source", from, bytes, false}};
    LS_TRY(ls_strict_open_spans(strict, "copy", COUNT(spans), spans));
    LsStatus status = strict->inner->ops->copy(strict->inner, to, from, bytes);
    ls_strict_close_spans(strict, COUNT(spans), spans);
    return status;
}

static LsStatus strict_zero(LsDevice *device, void *to, size_t bytes)
{
    StrictDevice *strict = (StrictDevice *)device;
    const Span spans[] = {{"the destination", to, bytes, true}};
    LS_TRY(ls_strict_open_spans(strict, "zero", COUNT(spans), spans));
    LsStatus status = strict->inner->ops->zero(strict->inner, to, bytes);
    ls_strict_close_spans(strict, COUNT(spans), spans);
    return status;
}

static LsStatus strict_synchronize(LsDevice *device)
{
    StrictDevice *strict = (StrictDevice *)device;
    Progress all;
    for (int s = 0; s < LS_STREAMS; s++)
        all.copies[s] = strict->streams[s].copies[s];
    return settle(strict, &all, NULL, 0);
}

// ---- Streams and markers --------------------------------------------------------------------------------

static void strict_select_stream(LsDevice *device, LsStream stream)
{
    ((StrictDevice *)device)->stream = stream;
}

static LsStatus strict_marker_create(LsDevice *device, LsMarker **out)
{
    StrictDevice *strict = (StrictDevice *)device;
    LS_TRY(ls_strict_append((void **)&strict->markers, &strict->marker_count, sizeof(LsMarker *)));
    LS_TRY(ls_memory_allocate(sizeof **out, (void **)out));
    strict->markers[strict->marker_count - 1] = *out;
    return LS_OK;
}

static LsStatus check_marker(const StrictDevice *strict, const LsMarker *marker)
{
    for (size_t i = 0; i < strict->marker_count; i++)
        if (marker && strict->markers[i] == marker)
            return LS_OK;
    return LS_FAIL(LS_INTERNAL, "strict device: a marker is used that does not exist");
}

static void strict_marker_destroy(LsDevice *device, LsMarker *marker)
{
    StrictDevice *strict = (StrictDevice *)device;
    if (marker && check_marker(strict, marker) != LS_OK)
        abort(); // there is no status to return
    for (size_t i = 0; i < strict->marker_count; i++)
        if (strict->markers[i] == marker)
            strict->markers[i] = NULL;
    free(marker);
}

static LsStatus strict_marker_record(LsDevice *device, LsMarker *marker)
{
    StrictDevice *strict = (StrictDevice *)device;
    LS_TRY(check_marker(strict, marker));
    *marker = (LsMarker){.recorded = true, .progress = strict->streams[strict->stream]};
    return LS_OK;
}

// The stream knows from now on what the marker's stream knew.
static LsStatus strict_marker_wait(LsDevice *device, LsMarker *marker)
{
    StrictDevice *strict = (StrictDevice *)device;
    LS_TRY(check_marker(strict, marker));
    Progress *stream = &strict->streams[strict->stream];
    for (int s = 0; s < LS_STREAMS; s++)
        if (marker->progress.copies[s] > stream->copies[s])
            stream->copies[s] = marker->progress.copies[s];
    return LS_OK;
}

static LsStatus strict_marker_synchronize(LsDevice *device, LsMarker *marker)
{
    StrictDevice *strict = (StrictDevice *)device;
    LS_TRY(check_marker(strict, marker));
    return settle(strict, &marker->progress, NULL, 0);
}

// A place is not reached when it is asked for the first time, so that callers meet both answers.
static LsStatus strict_marker_reached(LsDevice *device, LsMarker *marker, bool *reached)
{
    LS_TRY(check_marker((StrictDevice *)device, marker));
    *reached = !marker->recorded || marker->asked;
    marker->asked = true;
    return *reached ? strict_marker_synchronize(device, marker) : LS_OK;
}

void ls_strict_add_copies(LsDeviceOps *ops)
{
    ops->copy_in = strict_copy_in;
    ops->copy_out = strict_copy_out;
    ops->copy = strict_copy;
    ops->zero = strict_zero;
    ops->synchronize = strict_synchronize;
    ops->select_stream = strict_select_stream;
    ops->marker_create = strict_marker_create;
    ops->marker_destroy = strict_marker_destroy;
    ops->marker_record = strict_marker_record;
    ops->marker_wait = strict_marker_wait;
    ops->marker_reached = strict_marker_reached;
    ops->marker_synchronize = strict_marker_synchronize;
}
