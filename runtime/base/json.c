#include "base/json.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "base/file.h"

json_t *ls_json_number(double value)
{
    return isfinite(value) ? json_real(value) : json_null();
}

char *ls_json_line(const json_t *value)
{
    return json_dumps(value, JSON_REAL_PRECISION(9) | JSON_ENCODE_ANY);
}

char *ls_json_canonical(const json_t *value)
{
    return json_dumps(value, JSON_SORT_KEYS | JSON_COMPACT | JSON_REAL_PRECISION(17) | JSON_ENCODE_ANY);
}

LsStatus ls_json_read(const char *path, size_t limit, LsStatus malformed, json_t **out)
{
    char *text;
    size_t size;
    LsStatus status = ls_file_read(path, limit, &text, &size);
    if (status == LS_BAD_DATA) // too large
        return ls_status_adopt(malformed, ls_status_message());
    LS_TRY(status);

    json_error_t error;
    json_t *value = json_loadb(text, size, JSON_REJECT_DUPLICATES | JSON_DECODE_ANY, &error);
    free(text);
    if (value == NULL)
        return LS_FAIL(malformed, "%s:%d:%d: not valid JSON: %s", path, error.line, error.column, error.text);
    if (!json_is_object(value)) {
        json_decref(value);
        return LS_FAIL(malformed, "%s:1:1: not a JSON object", path);
    }
    *out = value;
    return LS_OK;
}

LsStatus ls_json_write(const char *path, const json_t *value)
{
    char *text = json_dumps(value, JSON_INDENT(2) | JSON_REAL_PRECISION(17));
    if (text == NULL)
        return LS_FAIL(LS_INTERNAL, "%s: cannot be written as JSON: not an object, or out of memory", path);
    size_t length = strlen(text);
    text[length] = '\n'; // takes the place of the NUL: the file is written by size
    LsStatus status = ls_file_replace(path, text, length + 1);
    free(text);
    return status;
}
