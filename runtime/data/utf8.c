#include "data/utf8.h"

#include <string.h>

// Length of the character that begins here, 0 when it is malformed or cut off.
static size_t character(const uint8_t *text, size_t left)
{
    uint8_t first = text[0];
    if (first < 0x80)
        return 1;
    size_t length = first >= 0xf0 ? 4 : first >= 0xe0 ? 3 : 2;
    if (first < 0xc2 || first > 0xf4 || left < length)
        return 0;
    for (size_t i = 1; i < length; i++)
        if ((text[i] & 0xc0) != 0x80)
            return 0;
    bool overlong = (first == 0xe0 && text[1] < 0xa0) || (first == 0xf0 && text[1] < 0x90);
    bool beyond = (first == 0xed && text[1] > 0x9f) || (first == 0xf4 && text[1] > 0x8f);
    return overlong || beyond ? 0 : length;
}

size_t ls_utf8_valid(const char *text, size_t bytes)
{
    const uint8_t *data = (const uint8_t *)text;
    for (size_t i = 0, length; i < bytes; i += length) {
        uint64_t eight = 0;
        if (bytes - i >= sizeof eight)
            memcpy(&eight, data + i, sizeof eight);
        if (bytes - i >= sizeof eight && (eight & 0x8080808080808080u) == 0) {
            length = sizeof eight;
            continue;
        }
        length = character(data + i, bytes - i);
        if (length == 0)
            return i;
    }
    return bytes;
}

LsStatus ls_utf8_require(const char *name, uint64_t before, const char *text, size_t bytes)
{
    size_t valid = ls_utf8_valid(text, bytes);
    if (valid == bytes)
        return LS_OK;
    return LS_FAIL(LS_BAD_DATA, "%s: offset %llu: the text is not valid UTF-8; convert it first (iconv)",
        name, (unsigned long long)(before + valid));
}

// Whether bytes that are no character can begin one: the least or the greatest bytes make them one.
static bool may_go_on(const char *part, size_t held)
{
    uint8_t first = (uint8_t)part[0];
    size_t length = first >= 0xf0 ? 4 : first >= 0xe0 ? 3 : first >= 0xc0 ? 2 : 1;
    for (int fill = 0; fill < 2 && held < length; fill++) {
        char whole[4];
        memset(whole, fill == 0 ? 0x80 : 0xbf, sizeof whole);
        memcpy(whole, part, held);
        if (ls_utf8_valid(whole, length) == length)
            return true;
    }
    return false;
}

static bool put(const char *bytes, size_t count, FILE *file)
{
    return fwrite(bytes, 1, count, file) == count;
}

static bool put_replacement(FILE *file)
{
    return put("\xef\xbf\xbd", 3, file);
}

static bool write_byte(LsUtf8Stream *stream, char byte, FILE *file)
{
    bool good = true;
    stream->part[stream->held++] = byte;
    if (ls_utf8_valid(stream->part, stream->held) != stream->held) {
        if (may_go_on(stream->part, stream->held))
            return true;
        good = put_replacement(file);
        bool alone = stream->held == 1;
        stream->held = 0;
        return alone ? good : write_byte(stream, byte, file) && good;
    }
    good = put(stream->part, stream->held, file);
    stream->held = 0;
    return good;
}

bool ls_utf8_write(LsUtf8Stream *stream, const char *bytes, size_t count, FILE *file)
{
    bool good = true;
    for (size_t i = 0; i < count; i++)
        good = write_byte(stream, bytes[i], file) && good;
    return good;
}

bool ls_utf8_end(LsUtf8Stream *stream, FILE *file)
{
    bool good = stream->held == 0 || put_replacement(file);
    stream->held = 0;
    return good;
}
