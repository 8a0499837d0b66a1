// A loopback HTTP server in a thread of a test, for clients of services that must be met as their documents
// and their bad days have them.
#ifndef LOCKSTEP_TESTS_HTTP_SERVER_H
#define LOCKSTEP_TESTS_HTTP_SERVER_H

#include <stdbool.h>
#include <stddef.h>

enum { HTTP_REQUEST_MAX = 4096 };

typedef struct HttpReply {
    int code;         // 0: the connection is closed without a word
    const char *body; // NULL: none
    size_t repeat;    // the body is sent so many times more
    const char *header;
    bool silent; // nothing is sent until the client has gone or the server ends
    bool cut;    // the connection is closed in the middle of the body
} HttpReply;

typedef struct HttpServer HttpServer;

// Called for every request, by the server's thread: `request` is its text, head only.
typedef HttpReply (*HttpAnswer)(void *context, const char *request);

HttpServer *http_server_start(HttpAnswer answer, void *context);
void http_server_stop(HttpServer *server);
const char *http_server_url(const HttpServer *server);

#endif
