// A build without libcurl has no HTTP client.
#include "http.h"

LsStatus ls_http_create(LsHttp **out)
{
    (void)out;
    return LS_FAIL(LS_UNAVAILABLE, "stop.notices: this build of lockstep has no libcurl to ask with; install "
                                   "libcurl4-openssl-dev and build again, or set stop.notices to none");
}

void ls_http_destroy(LsHttp *http)
{
    (void)http;
}

LsStatus ls_http_ask(LsHttp *http, const LsHttpRequest *request, LsHttpAnswer *answer)
{
    (void)http, (void)answer;
    return LS_FAIL(LS_UNAVAILABLE, "%s: this build of lockstep has no libcurl", request->url);
}

void ls_http_interrupt(LsHttp *http)
{
    (void)http;
}
