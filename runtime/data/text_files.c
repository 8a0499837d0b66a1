#include "text_files.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/file.h"
#include "tokenizer_pattern.h"

enum { READ_BYTES = 1 << 20, PART_BYTES = 4 << 20, DEPTH_LIMIT = 64 };

// ---- Finding ----

static LsStatus add_file(LsTextFiles *files, const char *path)
{
    char *copy = strdup(path);
    char **larger = realloc(files->path, (files->count + 1) * sizeof *larger);
    if (larger != NULL)
        files->path = larger;
    if (copy == NULL || larger == NULL) {
        free(copy);
        return LS_FAIL(LS_INTERNAL, "%s: out of memory", path);
    }
    files->path[files->count++] = copy;
    return LS_OK;
}

static LsStatus find(const char *path, int depth, LsTextFiles *files);

static LsStatus find_below(const char *path, int depth, LsTextFiles *files)
{
    if (depth == DEPTH_LIMIT)
        return LS_FAIL(LS_BAD_DATA, "%s: directories are nested too deep", path);
    DIR *directory = opendir(path);
    if (directory == NULL)
        return ls_file_fail("open", path);
    LsStatus status = LS_OK;
    for (struct dirent *entry; status == LS_OK && (entry = readdir(directory)) != NULL;) {
        char below[LS_PATH_MAX];
        if (entry->d_name[0] == '.')
            continue;
        status = ls_path_join(below, path, entry->d_name);
        if (status == LS_OK)
            status = find(below, depth + 1, files);
    }
    closedir(directory);
    return status;
}

// Below a directory, what is neither a file nor a directory is passed over.
static LsStatus find(const char *path, int depth, LsTextFiles *files)
{
    struct stat information;
    if (stat(path, &information) != 0)
        return ls_file_fail("open", path);
    if (S_ISDIR(information.st_mode))
        return find_below(path, depth, files);
    return depth == 0 || S_ISREG(information.st_mode) ? add_file(files, path) : LS_OK;
}

static int compare_paths(const void *a, const void *b)
{
    return strcmp(*(char *const *)a, *(char *const *)b);
}

LsStatus ls_text_files_find(const char *const *inputs, size_t count, LsTextFiles *out)
{
    LsTextFiles files = {0};
    LsStatus status = LS_OK;
    for (size_t i = 0; status == LS_OK && i < count; i++) {
        size_t before = files.count;
        status = find(inputs[i], 0, &files);
        if (status == LS_OK && files.count == before)
            status = LS_FAIL(LS_BAD_DATA, "%s: there are no files in this directory", inputs[i]);
        if (status == LS_OK)
            qsort(files.path + before, files.count - before, sizeof *files.path, compare_paths);
    }
    if (status != LS_OK) {
        ls_text_files_free(&files);
        return status;
    }
    *out = files;
    return LS_OK;
}

void ls_text_files_free(LsTextFiles *files)
{
    for (size_t i = 0; i < files->count; i++)
        free(files->path[i]);
    free(files->path);
    *files = (LsTextFiles){0};
}

// ---- Reading ----

typedef struct Stream {
    const char *path, *separator;
    const LsTextSink *sink;
    int fd;
    char *buffer;
    size_t room, start, line, scanned,
        end;         // start: of what the sink has not had; line: of the line under way
    uint64_t offset; // of buffer[0] in the file
    size_t part_bytes;
    bool line_cut; // the sink has had the beginning of the line: it is no separator
    bool open;     // the sink has had text of a document that did not end yet
} Stream;

static LsStatus emit(Stream *s, size_t until)
{
    size_t bytes = until - s->start;
    if (bytes == 0)
        return LS_OK;
    LS_TRY(ls_utf8_require(s->path, s->offset + s->start, s->buffer + s->start, bytes));
    LS_TRY(s->sink->text(s->sink->context, s->buffer + s->start, bytes));
    s->open = true;
    s->start = until;
    return LS_OK;
}

static LsStatus end_document(Stream *s)
{
    bool open = s->open;
    s->open = false;
    return open && s->sink->end != NULL ? s->sink->end(s->sink->context) : LS_OK;
}

static bool is_separator(const Stream *s, size_t line_end)
{
    size_t length = line_end - s->line;
    if (length > 0 && s->buffer[line_end - 1] == '\r')
        length--;
    return !s->line_cut && length == strlen(s->separator) &&
           memcmp(s->buffer + s->line, s->separator, length) == 0;
}

static LsStatus take_lines(Stream *s)
{
    const char *newline;
    while ((newline = memchr(s->buffer + s->scanned, '\n', s->end - s->scanned)) != NULL) {
        size_t line_end = (size_t)(newline - s->buffer);
        if (is_separator(s, line_end)) {
            LS_TRY(emit(s, s->line));
            LS_TRY(end_document(s));
            s->start = line_end + 1;
        }
        s->line = s->scanned = line_end + 1;
        s->line_cut = false;
    }
    s->scanned = s->end;
    return LS_OK;
}

// Hands over what has gathered, up to a place in front of white space. Text without any gathers on.
static LsStatus emit_part(Stream *s)
{
    bool long_line = s->line_cut || s->end - s->line > strlen(s->separator) + 2; // line end and all
    size_t cut = long_line ? s->end : s->line;
    if (cut < s->start + s->part_bytes)
        return LS_OK;
    for (cut--; cut > s->start; cut--) {
        char here = s->buffer[cut], before = s->buffer[cut - 1];
        if ((here == ' ' || here == '\n') && before > ' ' && before <= '~')
            break;
    }
    if (cut == s->start) {
        s->part_bytes *= 2;
        return LS_OK;
    }
    LS_TRY(emit(s, cut));
    if (cut > s->line) {
        s->line = cut;
        s->line_cut = true;
    }
    s->part_bytes = PART_BYTES;
    return LS_OK;
}

static void compact(Stream *s)
{
    memmove(s->buffer, s->buffer + s->start, s->end - s->start);
    s->offset += s->start;
    s->line -= s->start;
    s->scanned -= s->start;
    s->end -= s->start;
    s->start = 0;
}

static LsStatus reserve(Stream *s)
{
    if (s->room - s->end >= READ_BYTES)
        return LS_OK;
    size_t room = 2 * s->room + PART_BYTES + 2 * READ_BYTES;
    char *larger = realloc(s->buffer, room);
    if (larger == NULL)
        return LS_FAIL(LS_INTERNAL, "%s: out of memory for text without white space", s->path);
    s->buffer = larger;
    s->room = room;
    return LS_OK;
}

static LsStatus read_all(Stream *s)
{
    for (;;) {
        LS_TRY(reserve(s));
        ssize_t got = read(s->fd, s->buffer + s->end, READ_BYTES);
        if (got < 0 && errno == EINTR)
            continue;
        if (got < 0)
            return ls_file_fail("read", s->path);
        if (got == 0)
            break;
        s->end += (size_t)got;
        LS_TRY(take_lines(s));
        LS_TRY(emit_part(s));
        compact(s);
    }
    if (s->offset + s->end == 0)
        return LS_FAIL(LS_BAD_DATA, "%s: the file is empty", s->path);
    bool separator = s->line < s->end && is_separator(s, s->end);
    LS_TRY(emit(s, separator ? s->line : s->end));
    return end_document(s);
}

LsStatus ls_text_file_read(const char *path, const char *separator, const LsTextSink *sink)
{
    Stream stream = {.path = path, .separator = separator, .sink = sink, .part_bytes = PART_BYTES};
    stream.fd = open(path, O_RDONLY | O_CLOEXEC);
    if (stream.fd < 0)
        return ls_file_fail("open", path);
    LsStatus status = read_all(&stream);
    free(stream.buffer);
    close(stream.fd);
    return status;
}
