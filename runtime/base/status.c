#include "base/status.h"

#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include "base/text.h"

enum { MESSAGE_SIZE = 2048, ORIGIN_SIZE = 256 };

static _Thread_local char message[MESSAGE_SIZE];
static _Thread_local char origin[ORIGIN_SIZE];

static const struct {
    int exit_code;
    const char *text;
} statuses[] = {
#define ROW(name, code, text) [LS_##name] = {code, text},
    LS_STATUS_LIST(ROW)
#undef ROW
};

int ls_status_exit_code(LsStatus status)
{
    return statuses[status].exit_code;
}

const char *ls_status_text(LsStatus status)
{
    return statuses[status].text;
}

LsStatus ls_status_fail(LsStatus status, const char *file, int line, const char *format, ...)
{
    // An argument may be the current message itself, so the new one is composed apart.
    char composed[MESSAGE_SIZE];
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(composed, sizeof composed, format, arguments);
    va_end(arguments);
    ls_text_clean(composed);
    memcpy(message, composed, sizeof message);
    snprintf(origin, sizeof origin, "%s:%d", file, line);
    return status;
}

const char *ls_status_message(void)
{
    return message;
}

const char *ls_status_origin(void)
{
    return origin;
}

LsStatus ls_status_adopt(LsStatus status, const char *sentence)
{
    return ls_status_fail(status, __FILE__, __LINE__, "%s", sentence);
}
