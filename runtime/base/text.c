#include "base/text.h"

#include <string.h>

size_t ls_text_decode(const char *text, uint32_t *code_point)
{
    const uint8_t *byte = (const uint8_t *)text;
    if (byte[0] == 0)
        return 0;
    if (byte[0] < 0x80) {
        *code_point = byte[0];
        return 1;
    }
    size_t length = byte[0] >= 0xF0 ? 4 : byte[0] >= 0xE0 ? 3 : 2;
    uint32_t value = byte[0] & (0xFFu >> (length + 1));
    if (byte[0] < 0xC2 || byte[0] > 0xF4)
        return 0;
    for (size_t i = 1; i < length; i++) { // stops at the NUL, which continues nothing
        if ((byte[i] & 0xC0) != 0x80)
            return 0;
        value = value << 6 | (byte[i] & 0x3Fu);
    }
    static const uint32_t smallest[] = {0, 0, 0x80, 0x800, 0x10000};
    if (value < smallest[length] || value > 0x10FFFF || (value >= 0xD800 && value <= 0xDFFF))
        return 0;
    *code_point = value;
    return length;
}

// The length of the character that text begins with, of at least 1, and whether a message can show it.
static size_t measure(const char *text, bool *shown)
{
    uint32_t code_point;
    size_t length = ls_text_decode(text, &code_point);
    *shown = length != 0 && code_point >= 0x20 && (code_point < 0x7F || code_point > 0x9F) &&
             code_point != 0x2028 && code_point != 0x2029;
    return length == 0 ? 1 : length;
}

void ls_text_clean(char *text)
{
    char *to = text;
    bool shown;
    for (size_t step; *text != '\0'; text += step) {
        step = measure(text, &shown);
        if (shown) {
            memmove(to, text, step);
            to += step;
        } else {
            *to++ = '?';
        }
    }
    *to = '\0';
}

const char *ls_text_quote(char quote[LS_QUOTE_SIZE], const char *text)
{
    size_t used = 0;
    quote[used++] = '"';
    while (*text != '\0') {
        bool shown;
        size_t step = measure(text, &shown);
        if (used + step + sizeof "…\"" > LS_QUOTE_SIZE) {
            memcpy(quote + used, "…", sizeof "…" - 1);
            used += sizeof "…" - 1;
            break;
        }
        if (shown) {
            memcpy(quote + used, text, step);
            used += step;
        } else {
            quote[used++] = '?';
        }
        text += step;
    }
    quote[used++] = '"';
    quote[used] = '\0';
    return quote;
}

static size_t smaller(size_t a, size_t b)
{
    return a < b ? a : b;
}

size_t ls_text_distance(const char *a, const char *b)
{
    enum { LIMIT = 64 };
    size_t rows[3][LIMIT]; // of the table of distances: the one before last, the last, the one being made
    size_t *before = rows[0], *last = rows[1], *now = rows[2];
    size_t height = strnlen(a, LIMIT - 1);
    size_t width = strnlen(b, LIMIT - 1);
    memset(before, 0, sizeof rows[0]);
    for (size_t j = 0; j <= width; j++)
        last[j] = j;
    for (size_t i = 1; i <= height; i++) {
        now[0] = i;
        for (size_t j = 1; j <= width; j++) {
            size_t best = last[j - 1] + (a[i - 1] != b[j - 1]);
            best = smaller(best, smaller(last[j], now[j - 1]) + 1);
            if (i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1])
                best = smaller(best, before[j - 2] + 1);
            now[j] = best;
        }
        size_t *spare = before;
        before = last;
        last = now;
        now = spare;
    }
    return last[width];
}
