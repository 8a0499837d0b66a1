#include "metrics_rewind.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/file.h"
#include "base/json.h"
#include "base/memory.h"

// Lines in memory.
typedef struct Lines {
    FILE *stream;
    char *text;
    size_t size;
} Lines;

typedef struct Rewind {
    int64_t step, newest;
    int64_t last;  // step of the last line that stays
    int64_t known; // newest step that a line was about
    bool past;     // a line past `step` has come: from there on the file is cut off
    off_t kept;    // bytes of the file that stay
    Lines ahead;   // lines past `step`, up to `newest`
    Lines missing; // lines up to `step` that the file lacks
} Rewind;

static LsStatus open_lines(Lines *lines)
{
    lines->stream = open_memstream(&lines->text, &lines->size);
    return lines->stream ? LS_OK : LS_FAIL(LS_INTERNAL, "out of memory");
}

static LsStatus close_lines(Lines *lines)
{
    bool whole = lines->stream && fclose(lines->stream) == 0;
    lines->stream = NULL;
    return whole ? LS_OK : LS_FAIL(LS_INTERNAL, "out of memory");
}

static void free_lines(Lines *lines)
{
    if (lines->stream)
        fclose(lines->stream);
    free(lines->text);
}

// The step that a line is about, or -1 for a line that is none of ours.
static int64_t line_step(const char *line, size_t size)
{
    json_t *record = json_loadb(line, size, 0, NULL);
    json_t *step = json_object_get(record, "step");
    int64_t value = json_is_integer(step) ? (int64_t)json_integer_value(step) : -1;
    json_decref(record);
    return value;
}

// Every rewind cuts before lines are appended, so steps only rise.
static void sort_own(Rewind *r, const char *line, size_t size, int64_t step)
{
    r->past = r->past || step > r->step;
    if (!r->past)
        r->kept += (off_t)size;
    else if (step > r->step && step <= r->newest)
        fwrite(line, 1, size, r->ahead.stream);
    if (step <= r->step && step > r->last)
        r->last = step;
    if (step > r->known)
        r->known = step;
}

static void sort_kept_aside(Rewind *r, const char *line, size_t size, int64_t step)
{
    if (step > r->last && step <= r->step)
        fwrite(line, 1, size, r->missing.stream);
    else if (step > r->known && step > r->step && step <= r->newest)
        fwrite(line, 1, size, r->ahead.stream);
}

// A file that is not there has no lines.
static LsStatus read_lines(
    const char *path, Rewind *r, void (*sort)(Rewind *r, const char *line, size_t size, int64_t step))
{
    FILE *file = fopen(path, "re");
    if (!file && errno == ENOENT)
        return LS_OK;
    if (!file)
        return ls_file_fail("read", path);
    char *line = NULL;
    size_t capacity = 0;
    for (ssize_t size; (size = getline(&line, &capacity, file)) > 0;)
        sort(r, line, (size_t)size, line_step(line, (size_t)size));
    bool failed = ferror(file) != 0;
    free(line);
    fclose(file);
    return failed ? LS_FAIL(LS_IO, "cannot read %s", path) : LS_OK;
}

// The first `size` bytes of `from`, which may be no file if that is none.
static LsStatus copy_start(const char *from, uint64_t size, const LsFileWrite *to)
{
    enum { PART = 1 << 16 };
    if (size == 0)
        return LS_OK;
    char *part = NULL;
    int fd = open(from, O_RDONLY | O_CLOEXEC);
    if (fd < 0)
        return ls_file_fail("read", from);
    LsStatus status = ls_memory_allocate(PART, (void **)&part);
    for (uint64_t done = 0; done < size && status == LS_OK; done += PART) {
        size_t count = size - done < PART ? (size_t)(size - done) : PART;
        status = ls_file_read_at(fd, from, part, count, done);
        if (status == LS_OK)
            status = ls_file_write_at(to->fd, to->temporary, part, count, done);
    }
    free(part);
    close(fd);
    return status;
}

static LsStatus replace(const char *path, const Rewind *r)
{
    LsFileWrite file;
    LS_TRY(ls_file_begin(path, &file));
    LsStatus status = copy_start(path, (uint64_t)r->kept, &file);
    if (status == LS_OK && r->missing.size > 0)
        status =
            ls_file_write_at(file.fd, file.temporary, r->missing.text, r->missing.size, (uint64_t)r->kept);
    return ls_file_finish(&file, status);
}

// Every line is durable in one file before it goes from the other. A file that lacks lines has none past them
// to be cut off.
static LsStatus write_lines(const char *path, const char *ahead, const Rewind *r)
{
    bool lacks = r->missing.size > 0;
    if (!lacks && r->ahead.size > 0)
        LS_TRY(ls_file_replace(ahead, r->ahead.text, r->ahead.size));
    LS_TRY(replace(path, r));
    if (lacks && r->ahead.size > 0)
        LS_TRY(ls_file_replace(ahead, r->ahead.text, r->ahead.size));
    if (r->ahead.size == 0 && unlink(ahead) != 0 && errno != ENOENT)
        return ls_file_fail("remove", ahead);
    return LS_OK;
}

LsStatus ls_metrics_rewind_file(const char *path, const char *ahead, int64_t step, int64_t newest)
{
    Rewind r = {.step = step, .newest = newest, .last = -1, .known = -1};
    LsStatus status = open_lines(&r.ahead);
    if (status == LS_OK)
        status = open_lines(&r.missing);
    if (status == LS_OK)
        status = read_lines(path, &r, sort_own);
    if (status == LS_OK)
        status = read_lines(ahead, &r, sort_kept_aside);
    if (status == LS_OK)
        status = close_lines(&r.ahead);
    if (status == LS_OK)
        status = close_lines(&r.missing);
    if (status == LS_OK)
        status = write_lines(path, ahead, &r);
    free_lines(&r.missing);
    free_lines(&r.ahead);
    return status;
}
