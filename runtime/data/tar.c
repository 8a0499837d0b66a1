#include "tar.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { BLOCK = 512, EXTENDED_MAX = 1 << 20 };

// The header's fields, all of them text (POSIX.1-1988, "ustar Interchange Format").
typedef struct Header {
    char name[100], mode[8], uid[8], gid[8], size[12], mtime[12], checksum[8], type, link[100], magic[6],
        version[2], user[32], group[32], major[8], minor[8], prefix[155], rest[12];
} Header;
_Static_assert(sizeof(Header) == BLOCK, "a header is one block");

// What extended headers say about the next member.
typedef struct Extended {
    char name[LS_PATH_MAX]; // "": nothing
    uint64_t size;
    bool has_size;
} Extended;

static LsStatus fail(const LsTar *tar, uint64_t at, const char *what)
{
    return LS_FAIL(LS_BAD_DATA, "%s: offset %llu: %s; is it a whole tar archive?", tar->path,
        (unsigned long long)at, what);
}

// Octal digits with spaces around them, or GNU's binary form for what these cannot hold.
static bool read_number(const char *field, size_t length, uint64_t *out)
{
    uint64_t number = 0;
    size_t i = 0;
    if ((uint8_t)field[0] == 0x80) {
        for (i = 1; i < length; i++) {
            if (number >> 55)
                return false;
            number = number << 8 | (uint8_t)field[i];
        }
        *out = number;
        return true;
    }
    while (i < length && field[i] == ' ')
        i++;
    size_t digits = 0;
    for (; i < length && field[i] >= '0' && field[i] <= '7'; i++, digits++)
        number = number << 3 | (uint64_t)(field[i] - '0'); // at most 12 digits
    for (; i < length; i++)
        if (field[i] != ' ' && field[i] != '\0')
            return false;
    *out = number;
    return digits > 0;
}

// The sum of all bytes, those of the checksum's own field taken for spaces.
static bool checksum_fits(const Header *header)
{
    const uint8_t *bytes = (const uint8_t *)header;
    uint64_t stored, sum = 0;
    size_t field = offsetof(Header, checksum);
    for (size_t i = 0; i < BLOCK; i++)
        sum += i >= field && i < field + sizeof header->checksum ? ' ' : bytes[i];
    return read_number(header->checksum, sizeof header->checksum, &stored) && stored == sum;
}

static bool is_zero(const Header *header)
{
    const char *bytes = (const char *)header;
    for (size_t i = 0; i < BLOCK; i++)
        if (bytes[i] != '\0')
            return false;
    return true;
}

// ---- Extended headers -----------------------------------------------------------------------------------

static bool take_name(const char *text, size_t length, Extended *extended)
{
    if (length == 0 || length >= sizeof extended->name || memchr(text, '\0', length) != NULL)
        return false;
    memcpy(extended->name, text, length);
    extended->name[length] = '\0';
    return true;
}

static bool take_size(const char *text, size_t length, Extended *extended)
{
    extended->size = 0;
    extended->has_size = true;
    for (size_t i = 0; i < length; i++) {
        if (text[i] < '0' || text[i] > '9' || extended->size > UINT64_MAX / 100)
            return false;
        extended->size = extended->size * 10 + (uint64_t)(text[i] - '0');
    }
    return length > 0;
}

// Records "LENGTH KEY=VALUE\n", the length that of all of it.
static bool read_pax(const char *text, size_t size, Extended *extended)
{
    while (size > 0) {
        size_t length = 0, digits = 0;
        for (; digits < size && digits < 8 && text[digits] >= '0' && text[digits] <= '9'; digits++)
            length = length * 10 + (size_t)(text[digits] - '0');
        if (digits == 0 || digits == size || text[digits] != ' ' || length > size || length < digits + 3 ||
            text[length - 1] != '\n')
            return false;
        const char *key = text + digits + 1, *end = text + length - 1;
        const char *value = memchr(key, '=', (size_t)(end - key));
        if (value == NULL)
            return false;
        size_t key_length = (size_t)(value - key), value_length = (size_t)(end - value) - 1;
        if (key_length == 4 && memcmp(key, "path", 4) == 0 && !take_name(value + 1, value_length, extended))
            return false;
        if (key_length == 4 && memcmp(key, "size", 4) == 0 && !take_size(value + 1, value_length, extended))
            return false;
        text += length;
        size -= length;
    }
    return true;
}

static LsStatus read_extended(const LsTar *tar, char type, uint64_t offset, uint64_t size, Extended *extended)
{
    if (size > EXTENDED_MAX)
        return fail(tar, offset, "an extended header has more than 1 MiB");
    char *text = malloc(size + 1);
    if (text == NULL)
        return LS_FAIL(LS_INTERNAL, "%s: out of memory", tar->path);
    LsStatus status = ls_file_read_at(tar->fd, tar->path, text, size, offset);
    bool good = true;
    if (status == LS_OK && type == 'x')
        good = read_pax(text, size, extended);
    else if (status == LS_OK)
        good = take_name(text, strnlen(text, size), extended);
    free(text);
    LS_TRY(status);
    return good ? LS_OK : fail(tar, offset, "an extended header makes no sense, or its name is too long");
}

// ---- Members --------------------------------------------------------------------------------------------

static void member_name(const Header *header, const Extended *extended, char name[LS_PATH_MAX])
{
    bool prefixed = memcmp(header->magic, "ustar", 6) == 0 && header->prefix[0] != '\0';
    if (extended->name[0] != '\0')
        strcpy(name, extended->name);
    else if (prefixed)
        snprintf(name, LS_PATH_MAX, "%.155s/%.100s", header->prefix, header->name);
    else
        snprintf(name, LS_PATH_MAX, "%.100s", header->name);
}

// The header at tar->at; moves on behind what belongs to it.
static LsStatus read_header(LsTar *tar, Header *header, uint64_t *size, const Extended *extended)
{
    uint64_t at = tar->at;
    if (tar->size - at < BLOCK)
        return fail(tar, at, "the archive ends without the block of zeros that ends one");
    LS_TRY(ls_file_read_at(tar->fd, tar->path, header, BLOCK, at));
    tar->at += BLOCK;
    if (is_zero(header))
        return LS_OK;
    if (!checksum_fits(header) || !read_number(header->size, sizeof header->size, size))
        return fail(tar, at, "a header's checksum is wrong");
    bool regular = header->type == '0' || header->type == '\0' || header->type == '7';
    if (regular && extended->has_size)
        *size = extended->size;
    if (*size > tar->size - tar->at)
        return fail(tar, at, "a member reaches beyond the end");
    uint64_t padded = (*size + BLOCK - 1) / BLOCK * BLOCK;
    tar->at = padded > tar->size - tar->at ? tar->size : tar->at + padded;
    return LS_OK;
}

LsStatus ls_tar_next(LsTar *tar, LsTarMember *out, bool *end)
{
    Extended extended = {0};
    for (;;) {
        Header header;
        uint64_t size = 0, offset = tar->at + BLOCK;
        LS_TRY(read_header(tar, &header, &size, &extended));
        *end = is_zero(&header);
        if (*end)
            return LS_OK;
        if (header.type == 'x' || header.type == 'L') {
            LS_TRY(read_extended(tar, header.type, offset, size, &extended));
        } else if (header.type == '0' || header.type == '\0' || header.type == '7') {
            member_name(&header, &extended, out->name);
            out->offset = offset;
            out->size = size;
            return LS_OK;
        } else if (header.type != 'g' && header.type != 'K') {
            extended = (Extended){0}; // they were those of a member that is passed over
        }
    }
}
