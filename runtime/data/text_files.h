// Text as people have it: files and directories of files, read from front to back in parts of a few MiB,
// whatever their size.
#ifndef LOCKSTEP_DATA_TEXT_FILES_H
#define LOCKSTEP_DATA_TEXT_FILES_H

#include <stddef.h>

#include "base/status.h"

typedef struct LsTextFiles {
    char **path;
    size_t count;
} LsTextFiles;

// Inputs in the order given; a directory stands for the regular files below it, sorted by their path, without
// those whose name begins with a dot. LS_NO_INPUT; LS_BAD_DATA for a directory without files.
LsStatus ls_text_files_find(const char *const *inputs, size_t count, LsTextFiles *out);
void ls_text_files_free(LsTextFiles *files);

// Takes documents part by part.
typedef struct LsTextSink {
    void *context;
    // A part of a document, valid UTF-8. A document is cut only in front of white space, where a piece of the
    // tokenizer's pattern ends anyway: the parts encode as the whole would.
    LsStatus (*text)(void *context, const char *text, size_t bytes);
    LsStatus (*end)(void *context); // of a document that was not empty; may be NULL
} LsTextSink;

// Lines that equal `separator` (not NULL; "" is an empty line) stand between documents and are no part of
// them; the file's end ends one too. LS_BAD_DATA for an empty file and for bytes that are not UTF-8, with
// their offset.
LsStatus ls_text_file_read(const char *path, const char *separator, const LsTextSink *sink);

#endif
