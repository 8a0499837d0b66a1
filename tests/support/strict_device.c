#include "strict_device.h"

#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "base/memory.h"

typedef struct Allocation {
    char *map; // one guard page, pages, one guard page
    size_t map_bytes;
    char *memory; // what the caller has, NULL once it is released
    size_t bytes;
} Allocation;

// How far each stream is known to have come: number of copies enqueued in it.
typedef struct Progress {
    uint64_t copies[LS_STREAMS];
} Progress;

struct LsMarker {
    bool recorded, asked;
    Progress progress;
};

// A copy that the host may not yet rely on.
typedef struct Pending {
    char *host;
    void *snapshot; // what arrives (copy_out), or what was there (copy_in)
    size_t bytes;
    bool arrives;
    LsStream stream;
    uint64_t number; // in its stream
} Pending;

typedef struct HostMemory {
    char *memory;
    size_t bytes;
} HostMemory;

typedef struct StrictDevice {
    LsDevice base;
    LsDevice *inner;
    size_t page;
    Allocation *allocations;
    size_t allocation_count;
    HostMemory *host;
    size_t host_count;
    Pending *pending;
    size_t pending_count;
    LsMarker **markers;
    size_t marker_count;
    LsStream stream;              // selected
    Progress streams[LS_STREAMS]; // what each has waited for, and its own copies
} StrictDevice;

// Appends a zeroed element to a growing array.
static LsStatus append(void **array, size_t *count, size_t element)
{
    char *larger = realloc(*array, (*count + 1) * element);
    if (!larger)
        return LS_FAIL(LS_INTERNAL, "strict device: no memory left");
    memset(larger + *count * element, 0, element);
    *array = larger;
    *count += 1;
    return LS_OK;
}

// ---- Memory ---------------------------------------------------------------------------------------------

static LsStatus strict_allocate(LsDevice *device, size_t bytes, void **out)
{
    StrictDevice *strict = (StrictDevice *)device;
    size_t inside = ls_round_up(bytes ? bytes : 1, LS_ALIGNMENT);
    size_t map_bytes = ls_round_up(inside, strict->page) + 2 * strict->page;
    char *map = mmap(NULL, map_bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (map == MAP_FAILED)
        return LS_FAIL(LS_INTERNAL, "strict device: cannot map %zu bytes", map_bytes);
    memset(map, 0xFF, map_bytes);
    LsStatus status = append((void **)&strict->allocations, &strict->allocation_count, sizeof(Allocation));
    if (status != LS_OK || mprotect(map, map_bytes, PROT_NONE) != 0) {
        munmap(map, map_bytes);
        return status != LS_OK ? status : LS_FAIL(LS_INTERNAL, "strict device: cannot close memory");
    }
    char *memory = map + map_bytes - strict->page - inside;
    strict->allocations[strict->allocation_count - 1] =
        (Allocation){.map = map, .map_bytes = map_bytes, .memory = memory, .bytes = bytes};
    *out = memory;
    return LS_OK;
}

// Releasing what was never allocated, or twice, ends the test: there is no status to return.
static void strict_release(LsDevice *device, void *memory)
{
    StrictDevice *strict = (StrictDevice *)device;
    if (!memory)
        return;
    for (size_t i = 0; i < strict->allocation_count; i++)
        if (strict->allocations[i].memory == memory) {
            strict->allocations[i].memory = NULL;
            return;
        }
    abort();
}

static LsStatus strict_allocate_host(LsDevice *device, size_t bytes, void **out)
{
    StrictDevice *strict = (StrictDevice *)device;
    void *memory;
    LS_TRY(ls_memory_allocate(bytes, &memory));
    LsStatus status = append((void **)&strict->host, &strict->host_count, sizeof(HostMemory));
    if (status != LS_OK) {
        free(memory);
        return status;
    }
    memset(memory, 0xFF, bytes);
    strict->host[strict->host_count - 1] = (HostMemory){memory, bytes};
    *out = memory;
    return LS_OK;
}

static void strict_release_host(LsDevice *device, void *memory)
{
    StrictDevice *strict = (StrictDevice *)device;
    for (size_t i = 0; i < strict->host_count; i++)
        if (strict->host[i].memory == memory)
            strict->host[i] = (HostMemory){0};
    free(memory);
}

static bool is_pinned(const StrictDevice *strict, const char *memory)
{
    for (size_t i = 0; i < strict->host_count; i++)
        if (memory >= strict->host[i].memory && memory < strict->host[i].memory + strict->host[i].bytes)
            return true;
    return false;
}

// The allocation, living or released, whose pages or guards hold the address.
static Allocation *find(const StrictDevice *strict, const void *address)
{
    const char *byte = address;
    for (size_t i = 0; i < strict->allocation_count; i++) {
        Allocation *allocation = &strict->allocations[i];
        if (byte >= allocation->map && byte < allocation->map + allocation->map_bytes)
            return allocation;
    }
    return NULL;
}

// ---- Opening memory for an op ---------------------------------------------------------------------------

// A piece of device memory that an op reads or writes.
typedef struct Span {
    const char *name;
    const void *memory; // NULL: an optional argument that is not given
    size_t bytes;
    bool written;
} Span;

static LsStatus check_device(const StrictDevice *strict, const char *op, const Span *span)
{
    const Allocation *allocation = find(strict, span->memory);
    if (!allocation)
        return LS_FAIL(LS_INTERNAL, "%s: %s is not device memory", op, span->name);
    if (!allocation->memory)
        return LS_FAIL(LS_INTERNAL, "%s: %s was released", op, span->name);
    const char *begin = span->memory, *end = allocation->memory + allocation->bytes;
    if (begin < allocation->memory || begin > end || span->bytes > (size_t)(end - begin))
        return LS_FAIL(LS_INTERNAL, "%s: %s needs %zu bytes and leaves its allocation of %zu", op, span->name,
            span->bytes, allocation->bytes);
    return LS_OK;
}

static LsStatus check_host(const StrictDevice *strict, const char *op, const char *name, const void *memory)
{
    if (memory && find(strict, memory))
        return LS_FAIL(LS_INTERNAL, "%s: %s is device memory where host memory is expected", op, name);
    return LS_OK;
}

static void close_all(const StrictDevice *strict, size_t count, const Span *spans)
{
    for (size_t i = 0; i < count; i++) {
        Allocation *allocation = spans[i].memory ? find(strict, spans[i].memory) : NULL;
        if (allocation)
            mprotect(allocation->map, allocation->map_bytes, PROT_NONE);
    }
}

// Checks every span before it opens any. Written ones are opened last, since several spans may share an
// allocation. The guard pages stay closed.
static LsStatus open_all(const StrictDevice *strict, const char *op, size_t count, const Span *spans)
{
    for (size_t i = 0; i < count; i++)
        if (spans[i].memory)
            LS_TRY(check_device(strict, op, &spans[i]));
    for (int written = 0; written < 2; written++)
        for (size_t i = 0; i < count; i++) {
            if (!spans[i].memory || spans[i].written != (written == 1))
                continue;
            Allocation *allocation = find(strict, spans[i].memory);
            int access = written ? PROT_READ | PROT_WRITE : PROT_READ;
            if (mprotect(allocation->map + strict->page, allocation->map_bytes - 2 * strict->page, access)) {
                close_all(strict, count, spans);
                return LS_FAIL(LS_INTERNAL, "strict device: cannot open memory for %s", op);
            }
        }
    return LS_OK;
}

#define COUNT(array) (sizeof(array) / sizeof *(array))

// Runs one op of the inner device with exactly the spans open.
#define RUN_SPANS(device, op, count, spans, args)                                                            \
    do {                                                                                                     \
        StrictDevice *strict_ = (StrictDevice *)(device);                                                    \
        LS_TRY(open_all(strict_, #op, count, spans));                                                        \
        LsStatus status_ = strict_->inner->ops->op(strict_->inner, args);                                    \
        close_all(strict_, count, spans);                                                                    \
        return status_;                                                                                      \
    } while (0)
#define RUN(device, op, spans, args) RUN_SPANS(device, op, COUNT(spans), spans, args)

// ---- Copies ---------------------------------------------------------------------------------------------

static LsStatus add_pending(
    StrictDevice *strict, const void *host, const void *bytes_at, size_t bytes, bool arrives)
{
    void *snapshot = malloc(bytes ? bytes : 1);
    LsStatus status = append((void **)&strict->pending, &strict->pending_count, sizeof(Pending));
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
        else if (!is_pinned(strict, copy->host) || memcmp(copy->host, copy->snapshot, copy->bytes) != 0)
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
    LS_TRY(check_host(strict, "copy_in", "the source", host_from));
    LS_TRY(open_all(strict, "copy_in", COUNT(spans), spans));
    LsStatus status = strict->inner->ops->copy_in(strict->inner, to, host_from, bytes);
    close_all(strict, COUNT(spans), spans);
    if (status == LS_OK && is_pinned(strict, host_from))
        status = add_pending(strict, host_from, host_from, bytes, false);
    return status;
}

static LsStatus strict_copy_out(LsDevice *device, void *host_to, const void *from, size_t bytes)
{
    StrictDevice *strict = (StrictDevice *)device;
    const Span spans[] = {{"the source", from, bytes, false}};
    LS_TRY(check_host(strict, "copy_out", "the destination", host_to));
    // The stream may write what its own earlier copies, or those it has waited for, have read.
    LS_TRY(settle(strict, &strict->streams[strict->stream], host_to, bytes));
    LS_TRY(open_all(strict, "copy_out", COUNT(spans), spans));
    LsStatus status = add_pending(strict, host_to, from, bytes, true);
    close_all(strict, COUNT(spans), spans);
    if (status == LS_OK)
        memset(host_to, 0xFF, bytes);
    return status;
}

static LsStatus strict_copy(LsDevice *device, void *to, const void *from, size_t bytes)
{
    StrictDevice *strict = (StrictDevice *)device;
    const Span spans[] = {{"the destination", to, bytes, true}, {"the source", from, bytes, false}};
    LS_TRY(open_all(strict, "copy", COUNT(spans), spans));
    LsStatus status = strict->inner->ops->copy(strict->inner, to, from, bytes);
    close_all(strict, COUNT(spans), spans);
    return status;
}

static LsStatus strict_zero(LsDevice *device, void *to, size_t bytes)
{
    StrictDevice *strict = (StrictDevice *)device;
    const Span spans[] = {{"the destination", to, bytes, true}};
    LS_TRY(open_all(strict, "zero", COUNT(spans), spans));
    LsStatus status = strict->inner->ops->zero(strict->inner, to, bytes);
    close_all(strict, COUNT(spans), spans);
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
    LS_TRY(append((void **)&strict->markers, &strict->marker_count, sizeof(LsMarker *)));
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

// ---- Ops ------------------------------------------------------------------------------------------------

enum { MOST_PIECES = 256 }; // of one call

static size_t bytes_of(LsDtype type, size_t count)
{
    return ls_dtype_size(type) * count;
}

static LsStatus strict_cast(LsDevice *device, const LsCast *args)
{
    const Span spans[] = {{"from", args->from, bytes_of(args->from_type, args->n), false},
        {"to", args->to, bytes_of(args->to_type, args->n), true}};
    RUN(device, cast, spans, args);
}

static LsStatus strict_normalize(LsDevice *device, const LsNormalize *args)
{
    size_t n = args->rows * args->columns, features = args->uniform ? 1 : args->columns;
    const Span spans[] = {{"x", args->x, bytes_of(args->x_type, n), false},
        {"shift", args->shift, bytes_of(LS_F32, features), false},
        {"scale", args->scale, bytes_of(LS_F32, features), false},
        {"y", args->y, bytes_of(args->y_type, n), true}};
    RUN(device, normalize, spans, args);
}

static LsStatus strict_matmul(LsDevice *device, const LsMatmul *args)
{
    const Span spans[] = {{"a", args->a, bytes_of(args->input_type, args->m * args->k), false},
        {"b", args->b, bytes_of(args->input_type, args->k * args->n), false},
        {"bias", args->bias, bytes_of(args->input_type, args->n), false},
        {"c", args->c, bytes_of(args->output_type, args->m * args->n), true},
        {"pre_activation", args->pre_activation, bytes_of(args->output_type, args->m * args->n), true},
        {"saved", args->saved, bytes_of(args->output_type, args->m * args->n), false},
        {"bias_gradient", args->bias_gradient, bytes_of(LS_F32, args->m), true}};
    RUN(device, matmul, spans, args);
}

static LsStatus strict_bias_gradient(LsDevice *device, const LsBiasGradient *args)
{
    const Span spans[] = {{"dy", args->dy, bytes_of(args->type, args->rows * args->columns), false},
        {"db", args->db, bytes_of(LS_F32, args->columns), true}};
    RUN(device, bias_gradient, spans, args);
}

static LsStatus strict_activation_backward(LsDevice *device, const LsActivationBackward *args)
{
    size_t bytes = bytes_of(args->type, args->n);
    const Span spans[] = {
        {"saved", args->saved, bytes, false}, {"dy", args->dy, bytes, false}, {"dx", args->dx, bytes, true}};
    RUN(device, activation_backward, spans, args);
}

static LsStatus strict_dropout(LsDevice *device, const LsDropout *args)
{
    size_t bytes = bytes_of(args->type, args->rows * args->columns);
    const Span spans[] = {{"x", args->x, bytes, false}, {"y", args->y, bytes, true},
        {"positions", args->positions, args->rows * sizeof *args->positions, false}};
    RUN(device, dropout, spans, args);
}

static LsStatus strict_add(LsDevice *device, const LsAdd *args)
{
    size_t bytes = bytes_of(args->type, args->n);
    const Span spans[] = {
        {"a", args->a, bytes, false}, {"b", args->b, bytes, false}, {"y", args->y, bytes, true}};
    RUN(device, add, spans, args);
}

enum { LOSS_SPANS = 6 };

static void loss_spans(const LsLossArgs *args, Span spans[LOSS_SPANS])
{
    size_t n = args->rows * args->columns;
    const Span list[LOSS_SPANS] = {{"outputs", args->outputs, bytes_of(args->type, n), false},
        {"labels", args->labels, args->rows * sizeof *args->labels, false},
        {"targets", args->targets, n * sizeof *args->targets, false},
        {"loss_scale", args->loss_scale, sizeof *args->loss_scale, false},
        {"row_loss", args->row_loss, args->rows * sizeof *args->row_loss, true},
        {"gradient", args->gradient, bytes_of(args->type, n), true}};
    memcpy(spans, list, sizeof list);
}

static LsStatus strict_cross_entropy(LsDevice *device, const LsLossArgs *args)
{
    Span spans[LOSS_SPANS];
    loss_spans(args, spans);
    RUN(device, cross_entropy, spans, args);
}

static LsStatus strict_binary_cross_entropy(LsDevice *device, const LsLossArgs *args)
{
    Span spans[LOSS_SPANS];
    loss_spans(args, spans);
    RUN(device, binary_cross_entropy, spans, args);
}

static LsStatus strict_mean_squared_error(LsDevice *device, const LsLossArgs *args)
{
    Span spans[LOSS_SPANS];
    loss_spans(args, spans);
    RUN(device, mean_squared_error, spans, args);
}

static LsStatus strict_sum(LsDevice *device, const LsSum *args)
{
    const Span spans[] = {
        {"x", args->x, args->n * sizeof *args->x, false}, {"y", args->y, sizeof *args->y, true}};
    RUN(device, sum, spans, args);
}

static LsStatus strict_block_squares(LsDevice *device, const LsBlockSquares *args)
{
    LS_TRY(check_host((StrictDevice *)device, "block_squares", "piece", args->piece));
    if (args->count > MOST_PIECES)
        return LS_FAIL(LS_INTERNAL, "strict device: block_squares of %zu pieces", args->count);
    Span spans[2 * MOST_PIECES], *span = spans;
    for (size_t p = 0; p < args->count; p++) {
        const LsSquaresPiece *piece = &args->piece[p];
        size_t blocks = (piece->n + LS_BLOCK - 1) / LS_BLOCK;
        *span++ = (Span){"x", piece->x, piece->n * sizeof *piece->x, false};
        *span++ = (Span){"sums", piece->sums, blocks * sizeof *piece->sums, true};
    }
    RUN_SPANS(device, block_squares, (size_t)(span - spans), spans, args);
}

static LsStatus strict_tree_add(LsDevice *device, const LsTreeAdd *args)
{
    const StrictDevice *strict = (const StrictDevice *)device;
    LS_TRY(check_host(strict, "tree_add", "inputs", args->inputs));
    LS_TRY(check_host(strict, "tree_add", "pairs", args->pairs));
    if (args->count > LS_TREE_INPUTS)
        return LS_FAIL(LS_INTERNAL, "tree_add: %zu inputs", args->count);
    Span spans[LS_TREE_INPUTS + 1] = {{"output", args->output, args->n * sizeof *args->output, true}};
    for (size_t i = 0; i < args->count; i++)
        spans[i + 1] = (Span){"an input", args->inputs[i], args->n * sizeof(float), false};
    RUN(device, tree_add, spans, args);
}

static size_t words_used(const uint32_t *index, size_t count)
{
    size_t words = 0;
    for (size_t i = 0; i < count; i++)
        words = index[i] + (size_t)1 > words ? index[i] + (size_t)1 : words;
    return words;
}

static LsStatus strict_decide_step(LsDevice *device, const LsDecideStep *args)
{
    const StrictDevice *strict = (const StrictDevice *)device;
    Span spans[] = {{"lane_index", args->lane_index, args->lanes * sizeof *args->lane_index, false},
        {"block_index", args->block_index, args->blocks * sizeof *args->block_index, false},
        {"outcome", args->outcome, sizeof *args->outcome, true}, {"words", args->words, 0, false}};
    // The indexes say how many words are read.
    LS_TRY(open_all(strict, "decide_step", 2, spans));
    size_t lane_words = words_used(args->lane_index, args->lanes);
    size_t block_words = words_used(args->block_index, args->blocks);
    close_all(strict, 2, spans);
    size_t vote_words = args->ranks ? (args->ranks - 1) * args->rank_words + LS_VOTE_WORDS : 0;
    size_t words = lane_words > block_words ? lane_words : block_words;
    spans[3].bytes = (words > vote_words ? words : vote_words) * sizeof *args->words;
    RUN(device, decide_step, spans, args);
}

enum { PIECE_SPANS = 6 };

static void piece_spans(const LsOptimizerStep *args, const LsOptimizerPiece *piece, Span spans[PIECE_SPANS])
{
    size_t bytes = piece->n * sizeof(float);
    const Span list[PIECE_SPANS] = {{"master", piece->master, bytes, true},
        {"gradient", piece->gradient, bytes, false}, {"moment1", piece->moment1, bytes, true},
        {"moment2", piece->moment2, bytes, true},
        {"weights", piece->weights, bytes_of(args->type, piece->n), true},
        {"block_decay", piece->block_decay, piece->n / LS_BLOCK, false}};
    memcpy(spans, list, sizeof list);
}

static LsStatus strict_optimizer_step(LsDevice *device, const LsOptimizerStep *args)
{
    LS_TRY(check_host((StrictDevice *)device, "optimizer_step", "piece", args->piece));
    if (args->count > MOST_PIECES)
        return LS_FAIL(LS_INTERNAL, "strict device: optimizer_step of %zu pieces", args->count);
    Span spans[1 + PIECE_SPANS * MOST_PIECES] = {{"control", args->control, sizeof *args->control, false}};
    for (size_t p = 0; p < args->count; p++)
        piece_spans(args, &args->piece[p], spans + 1 + p * PIECE_SPANS);
    RUN_SPANS(device, optimizer_step, 1 + PIECE_SPANS * args->count, spans, args);
}

// ---- The device -----------------------------------------------------------------------------------------

static void strict_close(LsDevice *device)
{
    StrictDevice *strict = (StrictDevice *)device;
    for (size_t i = 0; i < strict->allocation_count; i++)
        munmap(strict->allocations[i].map, strict->allocations[i].map_bytes);
    for (size_t i = 0; i < strict->pending_count; i++)
        free(strict->pending[i].snapshot);
    free(strict->allocations);
    for (size_t i = 0; i < strict->marker_count; i++)
        free(strict->markers[i]);
    free(strict->markers);
    free(strict->host);
    free(strict->pending);
    ls_device_close(strict->inner);
    free(strict);
}

static void strict_fingerprint(const LsDevice *device, char *text, size_t size)
{
    const StrictDevice *strict = (const StrictDevice *)device;
    strict->inner->ops->fingerprint(strict->inner, text, size);
}

static void strict_identity(const LsDevice *device, char *text, size_t size)
{
    const StrictDevice *strict = (const StrictDevice *)device;
    strict->inner->ops->identity(strict->inner, text, size);
}

static void strict_tune(LsDevice *device, bool on)
{
    StrictDevice *strict = (StrictDevice *)device;
    strict->inner->ops->tune(strict->inner, on);
}

static LsStatus strict_choices(const LsDevice *device, char **out)
{
    const StrictDevice *strict = (const StrictDevice *)device;
    return strict->inner->ops->choices(strict->inner, out);
}

static LsStatus strict_choose(LsDevice *device, const char *choices)
{
    StrictDevice *strict = (StrictDevice *)device;
    return strict->inner->ops->choose(strict->inner, choices);
}

static void *strict_native_stream(LsDevice *device, LsStream stream)
{
    StrictDevice *strict = (StrictDevice *)device;
    return strict->inner->ops->native_stream(strict->inner, stream);
}

static const LsDeviceOps strict_ops = {
    .name = "strict",
    .close = strict_close,
    .fingerprint = strict_fingerprint,
    .identity = strict_identity,
    .allocate = strict_allocate,
    .release = strict_release,
    .allocate_host = strict_allocate_host,
    .release_host = strict_release_host,
    .copy_in = strict_copy_in,
    .copy_out = strict_copy_out,
    .copy = strict_copy,
    .zero = strict_zero,
    .synchronize = strict_synchronize,
    .select_stream = strict_select_stream,
    .marker_create = strict_marker_create,
    .marker_destroy = strict_marker_destroy,
    .marker_record = strict_marker_record,
    .marker_wait = strict_marker_wait,
    .marker_reached = strict_marker_reached,
    .marker_synchronize = strict_marker_synchronize,
    .tune = strict_tune,
    .choices = strict_choices,
    .choose = strict_choose,
    .native_stream = strict_native_stream,
    .cast = strict_cast,
    .normalize = strict_normalize,
    .matmul = strict_matmul,
    .bias_gradient = strict_bias_gradient,
    .activation_backward = strict_activation_backward,
    .dropout = strict_dropout,
    .add = strict_add,
    .cross_entropy = strict_cross_entropy,
    .binary_cross_entropy = strict_binary_cross_entropy,
    .mean_squared_error = strict_mean_squared_error,
    .sum = strict_sum,
    .block_squares = strict_block_squares,
    .tree_add = strict_tree_add,
    .decide_step = strict_decide_step,
    .optimizer_step = strict_optimizer_step,
};

LsStatus ls_strict_device_open(int precision, LsDevice **out)
{
    LsDeviceOptions options = {.kind = LS_DEVICE_REF, .precision = precision, .threads = 1};
    StrictDevice *strict;
    LS_TRY(ls_memory_allocate(sizeof *strict, (void **)&strict));
    LsStatus status = ls_device_open(&options, &strict->inner);
    if (status != LS_OK) {
        free(strict);
        return status;
    }
    strict->base = (LsDevice){.ops = &strict_ops, .precision = strict->inner->precision, .discrete = true};
    strict->page = (size_t)sysconf(_SC_PAGESIZE);
    *out = &strict->base;
    return LS_OK;
}
