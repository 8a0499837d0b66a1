// Encoding. Within a piece, the pair of the lowest rank is merged again and again, the leftmost first:
// candidates wait in a heap and are looked at once more when their turn comes, so that a piece of n bytes
// takes O(n log n). Pieces that come again, as most do, are copied from where they were encoded first.
#include <stdlib.h>
#include <string.h>

#include "base/hash.h"
#include "tokenizer_table.h"

#define NO_NODE UINT32_MAX

typedef struct Candidate {
    uint32_t rank, node;  // of the left token
    uint32_t left, right; // what the two were
} Candidate;

// The tokens of a piece, as a list that merges shorten.
typedef struct Node {
    uint32_t token, previous, next;
} Node;

typedef struct Seen {
    const char *piece;           // NULL: nothing yet
    size_t length, first, count; // its tokens are tokens[first … first + count)
} Seen;

typedef struct Encoder {
    const LsTokenizer *tokenizer;
    uint32_t *tokens;
    size_t count, room;
    Node *nodes;
    Candidate *heap;
    size_t heap_count, piece_room;
    Seen *seen;
    size_t seen_slots;
    uint32_t rank_limit; // merges of this rank and above are left out
} Encoder;

static LsStatus no_memory(void)
{
    return LS_FAIL(LS_INTERNAL, "tokenizer: out of memory");
}

static LsStatus reserve_tokens(Encoder *e, size_t more)
{
    if (more <= e->room - e->count)
        return LS_OK;
    size_t room = e->room + e->room / 2 + more;
    uint32_t *larger = realloc(e->tokens, room * sizeof *larger);
    if (larger == NULL)
        return no_memory();
    e->tokens = larger;
    e->room = room;
    return LS_OK;
}

// A piece of n bytes has at most n - 1 candidates at first, and every merge adds two and takes one token.
static LsStatus reserve_piece(Encoder *e, size_t bytes)
{
    if (bytes <= e->piece_room)
        return LS_OK;
    if (bytes > UINT32_MAX / 4)
        return LS_FAIL(LS_BAD_DATA, "a word of %zu bytes is too long to be encoded", bytes);
    free(e->nodes);
    free(e->heap);
    e->piece_room = 2 * bytes;
    e->nodes = malloc(e->piece_room * sizeof *e->nodes);
    e->heap = malloc(3 * e->piece_room * sizeof *e->heap);
    return e->nodes == NULL || e->heap == NULL ? no_memory() : LS_OK;
}

static bool before(const Candidate *a, const Candidate *b)
{
    return a->rank != b->rank ? a->rank < b->rank : a->node < b->node;
}

// Adds the pair that begins at `node`, if it merges.
static void push(Encoder *e, uint32_t node)
{
    uint32_t next = e->nodes[node].next;
    if (next == NO_NODE)
        return;
    uint32_t left = e->nodes[node].token, right = e->nodes[next].token;
    const LsMerge *merge = ls_tokenizer_pair(e->tokenizer, left, right);
    if (merge == NULL || merge->rank >= e->rank_limit)
        return;
    Candidate fresh = {.rank = merge->rank, .node = node, .left = left, .right = right};
    size_t place = e->heap_count++;
    for (size_t parent; place > 0 && (parent = (place - 1) / 2, before(&fresh, &e->heap[parent]));
         place = parent)
        e->heap[place] = e->heap[parent];
    e->heap[place] = fresh;
}

static Candidate pop(Encoder *e)
{
    Candidate top = e->heap[0], last = e->heap[--e->heap_count];
    size_t place = 0;
    for (size_t child; (child = 2 * place + 1) < e->heap_count; place = child) {
        if (child + 1 < e->heap_count && before(&e->heap[child + 1], &e->heap[child]))
            child++;
        if (!before(&e->heap[child], &last))
            break;
        e->heap[place] = e->heap[child];
    }
    e->heap[place] = last;
    return top;
}

// Whether the two tokens are still there, next to each other.
static bool stands(const Encoder *e, const Candidate *c)
{
    const Node *node = &e->nodes[c->node];
    return node->token == c->left && node->next != NO_NODE && e->nodes[node->next].token == c->right;
}

static void merge_pieces(Encoder *e, size_t bytes)
{
    for (uint32_t i = 0; i + 1 < bytes; i++)
        push(e, i);
    while (e->heap_count > 0) {
        Candidate c = pop(e);
        if (!stands(e, &c))
            continue;
        Node *node = &e->nodes[c.node], *gone = &e->nodes[node->next];
        node->token = ls_tokenizer_pair(e->tokenizer, c.left, c.right)->result;
        gone->token = LS_NO_TOKEN;
        node->next = gone->next;
        if (node->next != NO_NODE)
            e->nodes[node->next].previous = c.node;
        push(e, c.node);
        if (node->previous != NO_NODE)
            push(e, node->previous);
    }
}

static LsStatus encode_piece(Encoder *e, const char *piece, size_t bytes)
{
    LS_TRY(reserve_tokens(e, bytes));
    // tiktoken takes a piece that is a token at once, whether merges lead to it or not.
    bool at_once = e->tokenizer->by_id && e->rank_limit == UINT32_MAX;
    uint32_t whole = at_once ? ls_tokenizer_find(e->tokenizer, piece, bytes) : LS_NO_TOKEN;
    if (whole != LS_NO_TOKEN) {
        e->tokens[e->count++] = whole;
        return LS_OK;
    }
    LS_TRY(reserve_piece(e, bytes));
    for (size_t i = 0; i < bytes; i++)
        e->nodes[i] = (Node){.token = e->tokenizer->byte_token[(uint8_t)piece[i]],
            .previous = i == 0 ? NO_NODE : (uint32_t)i - 1,
            .next = i + 1 == bytes ? NO_NODE : (uint32_t)i + 1};
    merge_pieces(e, bytes);
    for (uint32_t i = 0; i != NO_NODE; i = e->nodes[i].next)
        e->tokens[e->count++] = e->nodes[i].token;
    return LS_OK;
}

static LsStatus encode_or_copy(Encoder *e, const char *piece, size_t bytes)
{
    Seen *seen = &e->seen[ls_hash64(piece, bytes) & (e->seen_slots - 1)];
    if (seen->piece != NULL && seen->length == bytes && memcmp(seen->piece, piece, bytes) == 0) {
        LS_TRY(reserve_tokens(e, seen->count));
        memcpy(e->tokens + e->count, e->tokens + seen->first, seen->count * sizeof *e->tokens);
        e->count += seen->count;
        return LS_OK;
    }
    size_t first = e->count;
    LS_TRY(encode_piece(e, piece, bytes));
    *seen = (Seen){.piece = piece, .length = bytes, .first = first, .count = e->count - first};
    return LS_OK;
}

static LsStatus encode_text(Encoder *e, const char *text, size_t bytes)
{
    enum { MOST_SEEN = 1 << 16 };
    e->seen_slots = 16;
    while (e->seen_slots < MOST_SEEN && e->seen_slots < bytes / 8)
        e->seen_slots *= 2;
    e->seen = calloc(e->seen_slots, sizeof *e->seen);
    if (e->seen == NULL)
        return no_memory();
    LS_TRY(reserve_tokens(e, bytes / 3 + 16));
    LsPieces *pieces = NULL;
    LS_TRY(ls_pieces_begin(e->tokenizer->pattern, text, bytes, &pieces));
    const char *piece;
    size_t count;
    LsStatus status;
    while ((status = ls_pieces_next(pieces, &piece, &count)) == LS_OK && count > 0 &&
           (status = encode_or_copy(e, piece, count)) == LS_OK)
        ;
    ls_pieces_end(pieces);
    return status;
}

static LsStatus encode_bytes(Encoder *e, const char *text, size_t bytes)
{
    LS_TRY(reserve_tokens(e, bytes + 1));
    for (size_t i = 0; i < bytes; i++)
        e->tokens[e->count++] = (uint8_t)text[i];
    return LS_OK;
}

LsStatus ls_tokenizer_encode(
    const LsTokenizer *tokenizer, const char *text, size_t bytes, uint32_t **tokens, size_t *count)
{
    LS_TRY(ls_utf8_require("text", 0, text, bytes));
    Encoder e = {.tokenizer = tokenizer, .rank_limit = UINT32_MAX};
    LsStatus status = tokenizer->plain ? encode_bytes(&e, text, bytes) : encode_text(&e, text, bytes);
    free(e.nodes);
    free(e.heap);
    free(e.seen);
    if (status != LS_OK) {
        free(e.tokens);
        return status;
    }
    *tokens = e.tokens;
    *count = e.count;
    return LS_OK;
}

LsStatus ls_tokenizer_parts(const LsTokenizer *tokenizer, uint32_t token, uint32_t parts[2], bool *merged)
{
    size_t bytes;
    const char *text = ls_token_text(tokenizer, token, &bytes);
    Encoder e = {.tokenizer = tokenizer, .rank_limit = token};
    LsStatus status = bytes < 2 ? LS_OK : encode_piece(&e, text, bytes);
    *merged = status == LS_OK && e.count == 2;
    if (*merged)
        memcpy(parts, e.tokens, 2 * sizeof *parts);
    free(e.nodes);
    free(e.heap);
    free(e.tokens);
    return status;
}

LsStatus ls_tokenizer_decode(const LsTokenizer *tokenizer, uint32_t token, const char **bytes, size_t *count)
{
    if (token >= tokenizer->vocabulary)
        return LS_FAIL(
            LS_BAD_DATA, "token %u is beyond the vocabulary of %zu tokens", token, tokenizer->vocabulary);
    *bytes = ls_token_text(tokenizer, token, count);
    return LS_OK;
}

size_t ls_tokenizer_vocabulary(const LsTokenizer *tokenizer)
{
    return tokenizer->vocabulary;
}

uint32_t ls_tokenizer_end_of_text(const LsTokenizer *tokenizer)
{
    return (uint32_t)tokenizer->end_of_text;
}

LsStatus ls_tokenizer_bytes(LsTokenizer **out)
{
    LsPlace place = {.path = "bytes"};
    LsTokenizer *tokenizer = NULL;
    LS_TRY(ls_tokenizer_create(&tokenizer));
    tokenizer->plain = true;
    LsStatus status = LS_OK;
    for (int byte = 0; status == LS_OK && byte < 256; byte++)
        status = ls_tokenizer_add(tokenizer, place, &(uint8_t){(uint8_t)byte}, 1);
    if (status == LS_OK)
        status = ls_tokenizer_end_tokens(tokenizer, place);
    if (status != LS_OK) {
        ls_tokenizer_free(tokenizer);
        return status;
    }
    *out = tokenizer;
    return LS_OK;
}
