#include "notices.h"

#include <stdlib.h>
#include <string.h>

#include "notices_clients.h"

static const double ANSWER_SECONDS = 2;

LsStatus ls_notices_create(int kind, const char *url, LsNotices **out)
{
    LsNotices *notices = calloc(1, sizeof *notices);
    if (!notices)
        return LS_FAIL(LS_INTERNAL, "out of memory for the notices of a cloud");
    notices->kind = kind;
    // All three clouds have the same address; a name would need a name server.
    snprintf(notices->url, sizeof notices->url, "%s", url && *url ? url : "http://169.254.169.254");
    size_t length = strlen(notices->url);
    while (length > 0 && notices->url[length - 1] == '/')
        notices->url[--length] = '\0';
    LsStatus status = ls_http_create(&notices->http);
    if (status != LS_OK) {
        ls_notices_destroy(notices);
        return status;
    }
    *out = notices;
    return LS_OK;
}

void ls_notices_destroy(LsNotices *notices)
{
    if (!notices)
        return;
    ls_http_destroy(notices->http);
    free(notices);
}

void ls_notices_interrupt(LsNotices *notices)
{
    ls_http_interrupt(notices->http);
}

LsStatus ls_notices_request(
    LsNotices *notices, const char *method, const char *path, const char *header, double timeout)
{
    char url[LS_CONFIG_TEXT + 128];
    snprintf(url, sizeof url, "%s%s", notices->url, path);
    LsHttpRequest request = {
        .method = method,
        .url = url,
        .headers = {header},
        .timeout = timeout > 0 ? timeout : ANSWER_SECONDS,
    };
    return ls_http_ask(notices->http, &request, &notices->answer);
}

LsStatus ls_notices_refused(const LsNotices *notices, const char *path)
{
    return LS_FAIL(LS_IO, "%s%s answers with code %d", notices->url, path, notices->answer.code);
}

LsStatus ls_notices_json(const LsNotices *notices, const char *path, json_t **out)
{
    json_error_t error;
    json_t *json = json_loadb(notices->answer.body, notices->answer.size, 0, &error);
    if (!json_is_object(json)) {
        json_decref(json);
        return LS_FAIL(LS_IO, "%s%s answers with something that is no JSON object", notices->url, path);
    }
    *out = json;
    return LS_OK;
}

void ls_notices_copy(char *to, size_t size, const char *from)
{
    size_t i = 0;
    for (; from && from[i] && i + 1 < size; i++)
        to[i] = from[i] >= ' ' && from[i] < 127 ? from[i] : '?';
    to[i] = '\0';
}

LsStatus ls_notices_gcp(LsNotices *notices, char text[LS_NOTICE_TEXT])
{
    static const char path[] = "/computeMetadata/v1/instance/preempted";
    LS_TRY(ls_notices_request(notices, "GET", path, "Metadata-Flavor: Google", 0));
    if (notices->answer.code != 200)
        return ls_notices_refused(notices, path);
    char *body = notices->answer.body;
    body[strcspn(body, "\r\n")] = '\0';
    if (strcmp(body, "TRUE") == 0)
        snprintf(text, LS_NOTICE_TEXT, "Google Cloud preempts this machine");
    else if (strcmp(body, "FALSE") != 0)
        return LS_FAIL(LS_IO, "%s%s answers with neither TRUE nor FALSE", notices->url, path);
    return LS_OK;
}

LsStatus ls_notices_ask(LsNotices *notices, char text[LS_NOTICE_TEXT])
{
    text[0] = '\0';
    LsStatus status;
    switch (notices->kind) {
    case LS_NOTICE_EC2:
        status = ls_notices_ec2(notices, text);
        break;
    case LS_NOTICE_GCP:
        status = ls_notices_gcp(notices, text);
        break;
    case LS_NOTICE_AZURE:
        status = ls_notices_azure(notices, text);
        break;
    default:
        return LS_FAIL(LS_INTERNAL, "notices of kind %d", notices->kind);
    }
    notices->asked = notices->asked || status == LS_OK;
    return status;
}
