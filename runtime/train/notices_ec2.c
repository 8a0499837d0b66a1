// EC2: the instance metadata service, version 2, whose answers need a token that is asked for with PUT and
// holds for six hours at most.

#include <string.h>

#include "base/clock.h"
#include "notices_clients.h"

static const double TOKEN_SECONDS = 21600;

// What goes into a header must not be able to end it.
static bool is_token(const char *text)
{
    size_t length = strlen(text);
    for (const char *c = text; *c; c++)
        if (*c <= ' ' || *c > '~')
            return false;
    return length > 0 && length <= LS_NOTICE_TOKEN_MAX;
}

static LsStatus renew_token(LsNotices *notices)
{
    static const char path[] = "/latest/api/token";
    char header[64];
    notices->token[0] = '\0';
    snprintf(header, sizeof header, "X-aws-ec2-metadata-token-ttl-seconds: %.0f", TOKEN_SECONDS);
    LS_TRY(ls_notices_request(notices, "PUT", path, header, 0));
    if (notices->answer.code != 200)
        return LS_FAIL(LS_IO, "%s%s gives no token: code %d", notices->url, path, notices->answer.code);
    char *body = notices->answer.body;
    body[strcspn(body, "\r\n")] = '\0';
    if (!is_token(body))
        return LS_FAIL(LS_IO, "%s%s answers with something that is no token", notices->url, path);
    memcpy(notices->token, body, strlen(body) + 1);
    notices->renewal = ls_clock_seconds() + TOKEN_SECONDS / 2;
    return LS_OK;
}

static LsStatus get_with_token(LsNotices *notices, const char *path)
{
    char header[LS_NOTICE_TOKEN_MAX + 64];
    snprintf(header, sizeof header, "X-aws-ec2-metadata-token: %s", notices->token);
    return ls_notices_request(notices, "GET", path, header, 0);
}

// *present: whether there is such an item; then it is in notices->answer. A token that the service no longer
// accepts is replaced once.
static LsStatus get_item(LsNotices *notices, const char *path, bool *present)
{
    if (!notices->token[0] || ls_clock_seconds() >= notices->renewal)
        LS_TRY(renew_token(notices));
    LS_TRY(get_with_token(notices, path));
    if (notices->answer.code == 401) {
        LS_TRY(renew_token(notices));
        LS_TRY(get_with_token(notices, path));
    }
    if (notices->answer.code != 200 && notices->answer.code != 404)
        return ls_notices_refused(notices, path);
    *present = notices->answer.code == 200;
    return LS_OK;
}

// Two texts of the item's JSON object; `second` may be missing there.
static LsStatus read_item(const LsNotices *notices, const char *path, const char *first, char value[64],
    const char *second, char other[64])
{
    json_t *item = NULL;
    LS_TRY(ls_notices_json(notices, path, &item));
    const char *text = json_string_value(json_object_get(item, first));
    ls_notices_copy(value, 64, text);
    if (second)
        ls_notices_copy(other, 64, json_string_value(json_object_get(item, second)));
    bool known = text && *text;
    json_decref(item);
    return known ? LS_OK : LS_FAIL(LS_IO, "%s%s answers without %s", notices->url, path, first);
}

static LsStatus ask_action(LsNotices *notices, char text[LS_NOTICE_TEXT])
{
    static const char path[] = "/latest/meta-data/spot/instance-action";
    char action[64], time[64];
    bool present = false;
    LS_TRY(get_item(notices, path, &present));
    if (!present)
        return LS_OK;
    LS_TRY(read_item(notices, path, "action", action, "time", time));
    snprintf(text, LS_NOTICE_TEXT, "EC2 will %s this machine%s%s", action, *time ? " at " : "", time);
    return LS_OK;
}

static LsStatus ask_advice(LsNotices *notices, char text[LS_NOTICE_TEXT])
{
    static const char path[] = "/latest/meta-data/events/recommendations/rebalance";
    char time[64];
    bool present = false;
    LS_TRY(get_item(notices, path, &present));
    if (!notices->asked)
        notices->advised = present;
    if (!present || notices->advised)
        return LS_OK;
    LS_TRY(read_item(notices, path, "noticeTime", time, NULL, NULL));
    snprintf(text, LS_NOTICE_TEXT, "EC2 advised at %s to leave this machine", time);
    return LS_OK;
}

LsStatus ls_notices_ec2(LsNotices *notices, char text[LS_NOTICE_TEXT])
{
    LS_TRY(ask_action(notices, text));
    return *text ? LS_OK : ask_advice(notices, text);
}
