// A client of small HTTP services on this host or near it, such as a cloud's metadata service. It never uses
// a proxy from the environment and never follows a redirect, and what it reads is bounded in size and time.
// curl.c has it over libcurl, none.c is for a build without that.
#ifndef LOCKSTEP_TRAIN_HTTP_H
#define LOCKSTEP_TRAIN_HTTP_H

#include "base/status.h"

enum { LS_HTTP_BODY_MAX = 65536, LS_HTTP_HEADERS_MAX = 4 };

typedef struct LsHttp LsHttp;

typedef struct LsHttpRequest {
    const char *method;                       // "GET", "PUT"
    const char *url;                          // http:// or https://
    const char *headers[LS_HTTP_HEADERS_MAX]; // "Name: value", NULL-terminated when fewer
    double timeout;                           // seconds for the whole request; connecting has one of them
} LsHttpRequest;

typedef struct LsHttpAnswer {
    int code;                        // 200, 404, …
    char body[LS_HTTP_BODY_MAX + 1]; // ends with a zero; may hold others
    size_t size;
} LsHttpAnswer;

// LS_UNAVAILABLE in a build without libcurl. The first call comes before any other thread uses libcurl.
LsStatus ls_http_create(LsHttp **out);
void ls_http_destroy(LsHttp *http); // accepts NULL

// LS_OK for every whole answer, whatever its code. LS_IO, with a sentence that names the address and the
// reason, when there is none: no connection, too late, too long, interrupted.
LsStatus ls_http_ask(LsHttp *http, const LsHttpRequest *request, LsHttpAnswer *answer);

// From any other thread: the request under way ends at once and every later one fails at once.
void ls_http_interrupt(LsHttp *http);

#endif
