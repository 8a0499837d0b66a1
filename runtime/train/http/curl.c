#include <curl/curl.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>

#include "http.h"

// The multi interface, although there is one request at a time: its poll can be woken from another thread.
struct LsHttp {
    CURL *easy;
    CURLM *multi;
    atomic_bool interrupted;
    char reason[CURL_ERROR_SIZE];
};

static const double CONNECT_SECONDS = 1;

static pthread_once_t once = PTHREAD_ONCE_INIT;
static CURLcode initialized;

static void initialize(void)
{
    initialized = curl_global_init(CURL_GLOBAL_DEFAULT);
}

LsStatus ls_http_create(LsHttp **out)
{
    pthread_once(&once, initialize);
    if (initialized != CURLE_OK)
        return LS_FAIL(LS_UNAVAILABLE, "libcurl: %s", curl_easy_strerror(initialized));
    LsHttp *http = calloc(1, sizeof *http);
    if (http) {
        http->easy = curl_easy_init();
        http->multi = curl_multi_init();
    }
    if (!http || !http->easy || !http->multi) {
        ls_http_destroy(http);
        return LS_FAIL(LS_INTERNAL, "out of memory for an HTTP client");
    }
    *out = http;
    return LS_OK;
}

void ls_http_destroy(LsHttp *http)
{
    if (!http)
        return;
    if (http->easy)
        curl_easy_cleanup(http->easy);
    if (http->multi)
        curl_multi_cleanup(http->multi);
    free(http);
}

void ls_http_interrupt(LsHttp *http)
{
    atomic_store(&http->interrupted, true);
    curl_multi_wakeup(http->multi);
}

// Fewer bytes taken than given end the request.
static size_t take(char *data, size_t size, size_t count, void *context)
{
    LsHttpAnswer *answer = context;
    size_t bytes = size * count;
    if (bytes > LS_HTTP_BODY_MAX - answer->size)
        return 0;
    memcpy(answer->body + answer->size, data, bytes);
    answer->size += bytes;
    return bytes;
}

static CURLcode configure(
    LsHttp *http, const LsHttpRequest *request, struct curl_slist *headers, LsHttpAnswer *answer)
{
    CURL *easy = http->easy;
    curl_easy_reset(easy); // keeps the connection
    CURLcode code = curl_easy_setopt(easy, CURLOPT_URL, request->url);
#define SET(option, value) code = code == CURLE_OK ? curl_easy_setopt(easy, option, value) : code
    SET(CURLOPT_CUSTOMREQUEST, request->method);
    SET(CURLOPT_HTTPHEADER, headers);
    SET(CURLOPT_NOSIGNAL, 1L); // other threads run
    SET(CURLOPT_PROXY, "");    // whatever the environment says
    SET(CURLOPT_FOLLOWLOCATION, 0L);
    SET(CURLOPT_CONNECTTIMEOUT_MS, (long)(CONNECT_SECONDS * 1000));
    SET(CURLOPT_TIMEOUT_MS, (long)(request->timeout * 1000));
    SET(CURLOPT_USERAGENT, "lockstep");
    SET(CURLOPT_ERRORBUFFER, http->reason);
    SET(CURLOPT_WRITEFUNCTION, take);
    SET(CURLOPT_WRITEDATA, answer);
#undef SET
    return code;
}

// Runs what has been added to the multi handle to its end, or until it is interrupted.
static CURLcode run(LsHttp *http)
{
    for (;;) {
        int running = 0, left = 0;
        if (atomic_load(&http->interrupted))
            return CURLE_ABORTED_BY_CALLBACK;
        if (curl_multi_perform(http->multi, &running) != CURLM_OK)
            return CURLE_FAILED_INIT;
        const CURLMsg *message = curl_multi_info_read(http->multi, &left);
        if (message && message->msg == CURLMSG_DONE)
            return message->data.result;
        if (curl_multi_poll(http->multi, NULL, 0, 1000, NULL) != CURLM_OK)
            return CURLE_FAILED_INIT;
    }
}

static CURLcode perform(LsHttp *http, const LsHttpRequest *request, LsHttpAnswer *answer)
{
    struct curl_slist *headers = NULL;
    CURLcode code = CURLE_OK;
    for (size_t i = 0; i < LS_HTTP_HEADERS_MAX && request->headers[i] && code == CURLE_OK; i++) {
        struct curl_slist *longer = curl_slist_append(headers, request->headers[i]);
        code = longer ? CURLE_OK : CURLE_OUT_OF_MEMORY;
        headers = longer ? longer : headers;
    }
    if (code == CURLE_OK)
        code = configure(http, request, headers, answer);
    if (code == CURLE_OK && curl_multi_add_handle(http->multi, http->easy) != CURLM_OK)
        code = CURLE_FAILED_INIT;
    if (code == CURLE_OK) {
        code = run(http);
        curl_multi_remove_handle(http->multi, http->easy);
    }
    long answered = 0;
    if (code == CURLE_OK)
        code = curl_easy_getinfo(http->easy, CURLINFO_RESPONSE_CODE, &answered);
    answer->code = (int)answered;
    curl_slist_free_all(headers);
    return code;
}

LsStatus ls_http_ask(LsHttp *http, const LsHttpRequest *request, LsHttpAnswer *answer)
{
    answer->size = 0;
    http->reason[0] = '\0';
    CURLcode code = perform(http, request, answer);
    answer->body[answer->size] = '\0';
    if (code == CURLE_WRITE_ERROR)
        return LS_FAIL(LS_IO, "%s: the answer is longer than %d bytes", request->url, LS_HTTP_BODY_MAX);
    if (code != CURLE_OK)
        return LS_FAIL(
            LS_IO, "%s: %s", request->url, http->reason[0] ? http->reason : curl_easy_strerror(code));
    return LS_OK;
}
