// Training: the pair of neighbouring tokens that comes most often becomes a token, again and again (Sennrich
// et al. 2016). Only the distinct pieces of the text are looked at, each with how often it comes. The counts
// of pairs are kept as merges change them, with the words that each pair may be in; a heap gives the most
// frequent pair, whose count is looked up once more when its turn comes, because counts only fall once a pair
// is in the heap.
#include <stdlib.h>
#include <string.h>

#include "base/file.h"
#include "base/hash.h"
#include "text_files.h"
#include "tokenizer_table.h"

enum { FIRST_MERGED = 256 };

typedef struct Word {
    size_t first; // of its tokens; when pieces are gathered, of its bytes
    uint32_t length;
    uint64_t count;
} Word;

typedef struct Pair {
    uint64_t key; // left << 32 | right; UINT64_MAX: an empty slot
    uint64_t count;
    uint32_t *words; // that it is in, or was
    uint32_t words_count, words_room;
    bool queued;
} Pair;

typedef struct Queued {
    uint64_t count, key;
} Queued;

typedef struct Trainer {
    char *bytes; // of the distinct pieces
    size_t bytes_count, bytes_room;
    Word *words;
    size_t words_count, words_room;
    uint32_t *slots; // hash table of words by their bytes
    size_t slots_count;
    uint32_t *tokens;
    Pair *pairs; // hash table
    size_t pairs_count, pair_slots;
    Queued *queue;
    size_t queue_count, queue_room;
    uint64_t *fresh; // pairs that the merge under way made or added to
    size_t fresh_count, fresh_room;
    LsTokenizer *tokenizer;
} Trainer;

static LsStatus no_memory(void)
{
    return LS_FAIL(LS_INTERNAL, "tokenizer training: out of memory");
}

static LsStatus grow(void **array, size_t *room, size_t count, size_t element)
{
    if (count <= *room)
        return LS_OK;
    size_t wanted = count + *room + 1024;
    void *larger = realloc(*array, wanted * element);
    if (larger == NULL)
        return no_memory();
    *array = larger;
    *room = wanted;
    return LS_OK;
}

// ---- Words ----

static size_t word_slot(const Trainer *t, const char *piece, size_t bytes)
{
    size_t slot = ls_hash64(piece, bytes) & (t->slots_count - 1);
    for (; t->slots[slot] != UINT32_MAX; slot = (slot + 1) & (t->slots_count - 1)) {
        const Word *word = &t->words[t->slots[slot]];
        if (word->length == bytes && memcmp(t->bytes + word->first, piece, bytes) == 0)
            break;
    }
    return slot;
}

static LsStatus enlarge_slots(Trainer *t)
{
    size_t wanted = t->slots_count == 0 ? 1 << 12 : 2 * t->slots_count;
    uint32_t *slots = malloc(wanted * sizeof *slots);
    if (slots == NULL)
        return no_memory();
    memset(slots, 0xff, wanted * sizeof *slots);
    free(t->slots);
    t->slots = slots;
    t->slots_count = wanted;
    for (size_t i = 0; i < t->words_count; i++)
        t->slots[word_slot(t, t->bytes + t->words[i].first, t->words[i].length)] = (uint32_t)i;
    return LS_OK;
}

static LsStatus count_piece(Trainer *t, const char *piece, size_t bytes)
{
    if (2 * t->words_count >= t->slots_count)
        LS_TRY(enlarge_slots(t));
    size_t slot = word_slot(t, piece, bytes);
    if (t->slots[slot] != UINT32_MAX) {
        t->words[t->slots[slot]].count++;
        return LS_OK;
    }
    if (bytes >= UINT32_MAX || t->words_count >= UINT32_MAX - 1)
        return LS_FAIL(LS_BAD_DATA, "tokenizer training: there are too many different words");
    LS_TRY(grow((void **)&t->bytes, &t->bytes_room, t->bytes_count + bytes, 1));
    LS_TRY(grow((void **)&t->words, &t->words_room, t->words_count + 1, sizeof *t->words));
    memcpy(t->bytes + t->bytes_count, piece, bytes);
    t->slots[slot] = (uint32_t)t->words_count;
    t->words[t->words_count++] = (Word){.first = t->bytes_count, .length = (uint32_t)bytes, .count = 1};
    t->bytes_count += bytes;
    return LS_OK;
}

static LsStatus count_text(void *context, const char *text, size_t bytes)
{
    Trainer *t = context;
    LsPieces *pieces = NULL;
    LS_TRY(ls_pieces_begin(t->tokenizer->pattern, text, bytes, &pieces));
    const char *piece;
    size_t count;
    LsStatus status;
    while ((status = ls_pieces_next(pieces, &piece, &count)) == LS_OK && count > 0 &&
           (status = count_piece(t, piece, count)) == LS_OK)
        ;
    ls_pieces_end(pieces);
    return status;
}

// ---- Pairs ----

static size_t pair_slot(const Trainer *t, uint64_t key)
{
    size_t slot = (key * 0x9e3779b97f4a7c15u ^ key >> 29) * 0xbf58476d1ce4e5b9u >> 20 & (t->pair_slots - 1);
    while (t->pairs[slot].key != UINT64_MAX && t->pairs[slot].key != key)
        slot = (slot + 1) & (t->pair_slots - 1);
    return slot;
}

static LsStatus enlarge_pairs(Trainer *t)
{
    Pair *old = t->pairs;
    size_t count = t->pair_slots;
    size_t wanted = count == 0 ? 1 << 12 : 2 * count;
    Pair *pairs = malloc(wanted * sizeof *pairs);
    if (pairs == NULL)
        return no_memory();
    memset(pairs, 0xff, wanted * sizeof *pairs);
    t->pairs = pairs;
    t->pair_slots = wanted;
    for (size_t i = 0; i < count; i++)
        if (old[i].key != UINT64_MAX)
            t->pairs[pair_slot(t, old[i].key)] = old[i];
    free(old);
    return LS_OK;
}

// Counts a pair in a word, and remembers the word.
static LsStatus add_pair(Trainer *t, uint32_t left, uint32_t right, uint32_t word)
{
    if (2 * t->pairs_count >= t->pair_slots)
        LS_TRY(enlarge_pairs(t));
    uint64_t key = (uint64_t)left << 32 | right;
    Pair *pair = &t->pairs[pair_slot(t, key)];
    if (pair->key == UINT64_MAX) {
        *pair = (Pair){.key = key};
        t->pairs_count++;
    }
    pair->count += t->words[word].count;
    if (!pair->queued) {
        LS_TRY(grow((void **)&t->fresh, &t->fresh_room, t->fresh_count + 1, sizeof *t->fresh));
        t->fresh[t->fresh_count++] = key;
        pair->queued = true;
    }
    if (pair->words_count > 0 && pair->words[pair->words_count - 1] == word)
        return LS_OK;
    size_t room = pair->words_room;
    if (pair->words_count == room) {
        room = room == 0 ? 2 : 2 * room;
        uint32_t *larger = realloc(pair->words, room * sizeof *larger);
        if (larger == NULL)
            return no_memory();
        pair->words = larger;
        pair->words_room = (uint32_t)room;
    }
    pair->words[pair->words_count++] = word;
    return LS_OK;
}

static void take_pair(Trainer *t, uint32_t left, uint32_t right, uint32_t word)
{
    t->pairs[pair_slot(t, (uint64_t)left << 32 | right)].count -= t->words[word].count;
}

// ---- Queue ----

// The more frequent pair first; of equally frequent ones, that of the lower ids.
static bool before(Queued a, Queued b)
{
    return a.count != b.count ? a.count > b.count : a.key < b.key;
}

static LsStatus push(Trainer *t, Queued fresh)
{
    LS_TRY(grow((void **)&t->queue, &t->queue_room, t->queue_count + 1, sizeof *t->queue));
    size_t place = t->queue_count++;
    for (size_t parent; place > 0 && (parent = (place - 1) / 2, before(fresh, t->queue[parent]));
         place = parent)
        t->queue[place] = t->queue[parent];
    t->queue[place] = fresh;
    return LS_OK;
}

static Queued pop(Trainer *t)
{
    Queued top = t->queue[0], last = t->queue[--t->queue_count];
    size_t place = 0;
    for (size_t child; (child = 2 * place + 1) < t->queue_count; place = child) {
        if (child + 1 < t->queue_count && before(t->queue[child + 1], t->queue[child]))
            child++;
        if (!before(t->queue[child], last))
            break;
        t->queue[place] = t->queue[child];
    }
    t->queue[place] = last;
    return top;
}

static LsStatus push_fresh(Trainer *t)
{
    for (size_t i = 0; i < t->fresh_count; i++)
        LS_TRY(push(t, (Queued){.count = t->pairs[pair_slot(t, t->fresh[i])].count, .key = t->fresh[i]}));
    t->fresh_count = 0;
    return LS_OK;
}

// ---- Merging ----

// Replaces every (left, right) of a word by the new token, from the left, and counts what that changes.
static LsStatus merge_word(Trainer *t, uint32_t word, uint32_t left, uint32_t right, uint32_t made)
{
    Word *w = &t->words[word];
    uint32_t *tokens = t->tokens + w->first, kept = 0;
    for (uint32_t i = 0; i < w->length; i++) {
        if (i + 1 == w->length || tokens[i] != left || tokens[i + 1] != right) {
            tokens[kept++] = tokens[i];
            continue;
        }
        take_pair(t, left, right, word);
        // What stood before is already merged: when it is the new token, the pair of it and `left` was
        // counted when that was made.
        if (kept > 0) {
            take_pair(t, tokens[kept - 1], left, word);
            LS_TRY(add_pair(t, tokens[kept - 1], made, word));
        }
        if (i + 2 < w->length) {
            take_pair(t, right, tokens[i + 2], word);
            LS_TRY(add_pair(t, made, tokens[i + 2], word));
        }
        tokens[kept++] = made;
        i++;
    }
    w->length = kept;
    return LS_OK;
}

static LsStatus merge_everywhere(Trainer *t, uint64_t key, uint32_t made)
{
    Pair *pair = &t->pairs[pair_slot(t, key)];
    uint32_t *words = pair->words, count = pair->words_count;
    pair->words = NULL; // the table of pairs moves while it grows
    pair->words_count = pair->words_room = 0;
    LsStatus status = LS_OK;
    for (uint32_t i = 0; status == LS_OK && i < count; i++)
        status = merge_word(t, words[i], (uint32_t)(key >> 32), (uint32_t)key, made);
    free(words);
    return status == LS_OK ? push_fresh(t) : status;
}

// ---- Training ----

// Makes the token of a pair, unless it has too many bytes, or its bytes are a token already that was made of
// other parts: then the pair stays two tokens.
static LsStatus make_token(Trainer *t, uint64_t key, bool *made)
{
    LsPlace place = {.path = "tokenizer training"};
    char both[2 * LS_TOKEN_BYTES];
    size_t left_bytes, right_bytes;
    const char *left = ls_token_text(t->tokenizer, (uint32_t)(key >> 32), &left_bytes);
    const char *right = ls_token_text(t->tokenizer, (uint32_t)key, &right_bytes);
    size_t bytes = left_bytes + right_bytes;
    memcpy(both, left, left_bytes);
    memcpy(both + left_bytes, right, right_bytes);
    *made = bytes <= LS_TOKEN_BYTES && ls_tokenizer_find(t->tokenizer, both, bytes) == LS_NO_TOKEN;
    if (!*made)
        return LS_OK;
    LS_TRY(ls_tokenizer_add(t->tokenizer, place, both, bytes));
    return ls_tokenizer_merge(t->tokenizer, place, (uint32_t)(key >> 32), (uint32_t)key);
}

// From bytes to tokens, which are the bytes' values at first, and the counts of all their pairs.
static LsStatus count_pairs(Trainer *t)
{
    t->tokens = malloc((t->bytes_count + 1) * sizeof *t->tokens);
    if (t->tokens == NULL)
        return no_memory();
    for (size_t i = 0; i < t->bytes_count; i++)
        t->tokens[i] = (uint8_t)t->bytes[i];
    for (uint32_t word = 0; word < t->words_count; word++) {
        const uint32_t *tokens = t->tokens + t->words[word].first;
        for (uint32_t i = 0; i + 1 < t->words[word].length; i++)
            LS_TRY(add_pair(t, tokens[i], tokens[i + 1], word));
    }
    return push_fresh(t);
}

static LsStatus learn(Trainer *t, size_t vocabulary)
{
    LS_TRY(count_pairs(t));
    while (t->queue_count > 0 && t->tokenizer->vocabulary + 1 < vocabulary) {
        Queued best = pop(t);
        uint64_t count = t->pairs[pair_slot(t, best.key)].count;
        if (count < 2)
            continue;
        if (count != best.count) {
            LS_TRY(push(t, (Queued){.count = count, .key = best.key}));
            continue;
        }
        bool made;
        LS_TRY(make_token(t, best.key, &made));
        if (made)
            LS_TRY(merge_everywhere(t, best.key, (uint32_t)t->tokenizer->vocabulary - 1));
    }
    return LS_OK;
}

static LsStatus train(Trainer *t, const char *const *files, size_t count, size_t vocabulary)
{
    LsPlace place = {.path = "tokenizer training"};
    LsTextFiles found = {0};
    LsTextSink sink = {.context = t, .text = count_text};
    LS_TRY(ls_tokenizer_create(&t->tokenizer));
    for (int byte = 0; byte < FIRST_MERGED; byte++)
        LS_TRY(ls_tokenizer_add(t->tokenizer, place, &(uint8_t){(uint8_t)byte}, 1));
    LS_TRY(ls_pattern_compile(&t->tokenizer->pattern));
    LsStatus status = ls_text_files_find(files, count, &found);
    for (size_t i = 0; status == LS_OK && i < found.count; i++)
        status = ls_text_file_read(found.path[i], LS_END_OF_TEXT, &sink);
    ls_text_files_free(&found);
    LS_TRY(status);
    if (t->words_count == 0)
        return LS_FAIL(LS_BAD_DATA, "%s: there is no text, nothing but separators", files[0]);
    LS_TRY(learn(t, vocabulary));
    LS_TRY(ls_tokenizer_end_tokens(t->tokenizer, place));
    return ls_tokenizer_finish(t->tokenizer, place);
}

static void release(Trainer *t)
{
    for (size_t i = 0; i < t->pair_slots; i++)
        if (t->pairs[i].key != UINT64_MAX)
            free(t->pairs[i].words);
    free(t->pairs);
    free(t->bytes);
    free(t->words);
    free(t->slots);
    free(t->tokens);
    free(t->queue);
    free(t->fresh);
}

LsStatus ls_tokenizer_train(const char *const *files, size_t count, size_t vocabulary, LsTokenizer **out)
{
    if (vocabulary <= FIRST_MERGED || vocabulary > LS_VOCABULARY_LIMIT)
        return LS_FAIL(LS_USAGE,
            "a vocabulary of %zu tokens is impossible; it has from %d (bytes and %s) to %d", vocabulary,
            FIRST_MERGED + 1, LS_END_OF_TEXT, LS_VOCABULARY_LIMIT);
    Trainer trainer = {0};
    LsStatus status = train(&trainer, files, count, vocabulary);
    release(&trainer);
    if (status != LS_OK) {
        ls_tokenizer_free(trainer.tokenizer);
        return status;
    }
    *out = trainer.tokenizer;
    return LS_OK;
}
