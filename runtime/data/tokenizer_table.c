#include "tokenizer_table.h"

#include <stdlib.h>
#include <string.h>

#include "base/hash.h"
#include "base/memory.h"

LsStatus ls_place_fail(LsPlace place, const char *what)
{
    if (place.line == 0)
        return LS_FAIL(LS_BAD_DATA, "%s: %s", place.path, what);
    return LS_FAIL(LS_BAD_DATA, "%s: line %zu: %s", place.path, place.line, what);
}

static LsStatus no_memory(void)
{
    return LS_FAIL(LS_INTERNAL, "tokenizer: out of memory");
}

// Makes room for `count` elements, doubling.
static LsStatus grow(void **array, size_t *room, size_t count, size_t element)
{
    if (count <= *room)
        return LS_OK;
    size_t wanted = count > 2 * *room ? count : 2 * *room;
    void *larger = realloc(*array, wanted * element);
    if (larger == NULL)
        return no_memory();
    *array = larger;
    *room = wanted;
    return LS_OK;
}

LsStatus ls_tokenizer_create(LsTokenizer **out)
{
    LsTokenizer *tokenizer = calloc(1, sizeof *tokenizer);
    if (tokenizer == NULL)
        return no_memory();
    tokenizer->end_of_text = LS_NO_TOKEN;
    memset(tokenizer->byte_token, 0xff, sizeof tokenizer->byte_token);
    *out = tokenizer;
    return LS_OK;
}

void ls_tokenizer_free(LsTokenizer *tokenizer)
{
    if (tokenizer == NULL)
        return;
    ls_pattern_free(tokenizer->pattern);
    free(tokenizer->text);
    free(tokenizer->start);
    free(tokenizer->index);
    free(tokenizer->merges);
    free(tokenizer->pairs);
    free(tokenizer);
}

// The slot that holds the token of these bytes, or the empty one where it belongs.
static size_t index_slot(const LsTokenizer *t, const void *bytes, size_t count)
{
    size_t slot = ls_hash64(bytes, count) & (t->index_slots - 1);
    for (;; slot = (slot + 1) & (t->index_slots - 1)) {
        size_t length;
        if (t->index[slot] == LS_NO_TOKEN)
            return slot;
        const char *text = ls_token_text(t, t->index[slot], &length);
        if (length == count && memcmp(text, bytes, count) == 0)
            return slot;
    }
}

uint32_t ls_tokenizer_find(const LsTokenizer *t, const void *bytes, size_t count)
{
    return count == 0 || count > LS_TOKEN_BYTES ? LS_NO_TOKEN : t->index[index_slot(t, bytes, count)];
}

// Doubles the index, so that at most half of its slots are taken and a search ends soon.
static LsStatus enlarge_index(LsTokenizer *t)
{
    size_t slots = t->index_slots == 0 ? 1024 : 2 * t->index_slots;
    uint32_t *index = malloc(slots * sizeof *index);
    if (index == NULL)
        return no_memory();
    memset(index, 0xff, slots * sizeof *index);
    free(t->index);
    t->index = index;
    t->index_slots = slots;
    for (uint32_t token = 0; token < t->vocabulary; token++) {
        size_t length;
        const char *text = ls_token_text(t, token, &length);
        if (length > 0)
            index[index_slot(t, text, length)] = token;
    }
    return LS_OK;
}

LsStatus ls_tokenizer_add(LsTokenizer *t, LsPlace place, const void *bytes, size_t count)
{
    if (count > LS_TOKEN_BYTES)
        return ls_place_fail(place, "the token is too long; tokens have at most 512 bytes");
    if (t->vocabulary == LS_VOCABULARY_LIMIT)
        return ls_place_fail(place, "there are too many tokens");
    if (2 * t->vocabulary >= t->index_slots)
        LS_TRY(enlarge_index(t));
    bool twice =
        count == 0 ? t->end_of_text != LS_NO_TOKEN : ls_tokenizer_find(t, bytes, count) != LS_NO_TOKEN;
    if (twice)
        return ls_place_fail(place, "the token is there twice");
    size_t used = t->vocabulary == 0 ? 0 : t->start[t->vocabulary];
    LS_TRY(grow((void **)&t->text, &t->text_room, used + count + 1, 1));
    LS_TRY(grow((void **)&t->start, &t->token_room, t->vocabulary + 2, sizeof *t->start));
    uint32_t token = (uint32_t)t->vocabulary++;
    t->start[token] = used;
    t->start[token + 1] = used + count;
    if (count == 0) {
        t->end_of_text = token;
        return LS_OK;
    }
    t->index[index_slot(t, bytes, count)] = token;
    memcpy(t->text + used, bytes, count);
    if (count == 1)
        t->byte_token[*(const uint8_t *)bytes] = token;
    return LS_OK;
}

LsStatus ls_tokenizer_end_tokens(LsTokenizer *t, LsPlace place)
{
    if (t->end_of_text == LS_NO_TOKEN)
        LS_TRY(ls_tokenizer_add(t, place, "", 0));
    for (int byte = 0; byte < 256; byte++)
        if (t->byte_token[byte] == LS_NO_TOKEN)
            return LS_FAIL(LS_BAD_DATA, "%s: byte %d has no token, so that not every text could be encoded",
                place.path, byte);
    return LS_OK;
}

// The token that the two become, or LS_NO_TOKEN.
static uint32_t join(const LsTokenizer *t, uint32_t left, uint32_t right)
{
    char both[LS_TOKEN_BYTES];
    size_t a, b;
    const char *first = ls_token_text(t, left, &a), *second = ls_token_text(t, right, &b);
    if (a == 0 || b == 0 || a + b > sizeof both)
        return LS_NO_TOKEN;
    memcpy(both, first, a);
    memcpy(both + a, second, b);
    return ls_tokenizer_find(t, both, a + b);
}

LsStatus ls_tokenizer_merge(LsTokenizer *t, LsPlace place, uint32_t left, uint32_t right)
{
    if (join(t, left, right) == LS_NO_TOKEN)
        return ls_place_fail(place, "the two tokens of the merge together are no token of the vocabulary");
    LS_TRY(grow((void **)&t->merges, &t->merge_room, t->merge_count + 1, sizeof *t->merges));
    t->merges[t->merge_count++] = (uint64_t)left << 32 | right;
    return LS_OK;
}

// At most half of the slots are taken.
static size_t slots_for(size_t count)
{
    size_t slots = 16;
    while (slots < 2 * count)
        slots *= 2;
    return slots;
}

static size_t pair_slot(const LsTokenizer *t, uint64_t pair)
{
    size_t slot = (pair * 0x9e3779b97f4a7c15u ^ pair >> 29) * 0xbf58476d1ce4e5b9u >> 20 & (t->pair_slots - 1);
    while (t->pairs[slot].pair != UINT64_MAX && t->pairs[slot].pair != pair)
        slot = (slot + 1) & (t->pair_slots - 1);
    return slot;
}

const LsMerge *ls_tokenizer_pair(const LsTokenizer *t, uint32_t left, uint32_t right)
{
    const LsMerge *merge = &t->pairs[pair_slot(t, (uint64_t)left << 32 | right)];
    return merge->pair == UINT64_MAX ? NULL : merge;
}

// False when the pair is there already.
static bool insert(LsTokenizer *t, uint64_t pair, size_t rank, uint32_t result)
{
    LsMerge *merge = &t->pairs[pair_slot(t, pair)];
    bool fresh = merge->pair == UINT64_MAX;
    if (fresh)
        *merge = (LsMerge){.pair = pair, .rank = (uint32_t)rank, .result = result};
    return fresh;
}

static LsStatus allocate_pairs(LsTokenizer *t, size_t count)
{
    t->pair_slots = slots_for(count);
    t->pairs = malloc(t->pair_slots * sizeof *t->pairs);
    if (t->pairs == NULL)
        return no_memory();
    memset(t->pairs, 0xff, t->pair_slots * sizeof *t->pairs);
    return LS_OK;
}

// Counts the ways to cut a token into two tokens, and inserts them when the table of pairs is there.
static size_t visit_cuts(LsTokenizer *t)
{
    size_t count = 0, length;
    for (uint32_t token = 0; token < t->vocabulary; token++) {
        const char *text = ls_token_text(t, token, &length);
        for (size_t cut = 1; cut < length; cut++) {
            uint32_t left = ls_tokenizer_find(t, text, cut);
            uint32_t right = left == LS_NO_TOKEN ? left : ls_tokenizer_find(t, text + cut, length - cut);
            if (right == LS_NO_TOKEN)
                continue;
            count++;
            if (t->pairs != NULL)
                insert(t, (uint64_t)left << 32 | right, token, token);
        }
    }
    return count;
}

LsStatus ls_tokenizer_finish(LsTokenizer *t, LsPlace place)
{
    if (t->pattern == NULL)
        LS_TRY(ls_pattern_compile(&t->pattern));
    if (t->by_id) {
        LS_TRY(allocate_pairs(t, visit_cuts(t)));
        visit_cuts(t);
        return LS_OK;
    }
    LS_TRY(allocate_pairs(t, t->merge_count));
    for (size_t i = 0; i < t->merge_count; i++) {
        uint32_t left = (uint32_t)(t->merges[i] >> 32), right = (uint32_t)t->merges[i];
        if (!insert(t, t->merges[i], i, join(t, left, right)))
            return LS_FAIL(LS_BAD_DATA, "%s: merge %zu is there twice", place.path, i);
    }
    return LS_OK;
}

// ---- GPT-2's alphabet ----

// Bytes that are printable in Latin-1 stand for themselves; the others, in their order, are U+0100 and on.
static uint32_t letter_of(uint8_t byte)
{
    bool printable = (byte >= '!' && byte <= '~') || (byte >= 0xa1 && byte != 0xad);
    if (printable)
        return byte;
    return byte <= ' ' ? 0x100u + byte : byte <= 0xa0 ? 0x121u + (byte - 0x7fu) : 0x143u;
}

size_t ls_alphabet_write(const void *bytes, size_t count, char *text)
{
    size_t length = 0;
    for (size_t i = 0; i < count; i++) {
        uint32_t letter = letter_of(((const uint8_t *)bytes)[i]);
        if (letter >= 0x80)
            text[length++] = (char)(0xc0 | letter >> 6);
        text[length++] = (char)(letter < 0x80 ? letter : 0x80 | (letter & 0x3f));
    }
    text[length] = '\0';
    return length;
}

// The byte that a character stands for, -1 for none.
static int byte_of(uint32_t letter)
{
    if (letter >= 0x100 && letter <= 0x143)
        return (int)(letter <= 0x120 ? letter - 0x100 : letter <= 0x142 ? letter - 0x121 + 0x7f : 0xad);
    return letter <= 0xff && letter_of((uint8_t)letter) == letter ? (int)letter : -1;
}

bool ls_alphabet_read(const char *text, size_t length, char *bytes, size_t *count)
{
    size_t made = 0;
    for (size_t i = 0; i < length; i++) {
        uint8_t first = (uint8_t)text[i];
        uint32_t letter = first;
        if (first >= 0x80) {
            if (first < 0xc2 || first > 0xc5 || ++i == length || ((uint8_t)text[i] & 0xc0) != 0x80)
                return false;
            letter = (uint32_t)(first & 0x1f) << 6 | ((uint8_t)text[i] & 0x3f);
        }
        int byte = byte_of(letter);
        if (byte < 0)
            return false;
        bytes[made++] = (char)byte;
    }
    *count = made;
    return true;
}
