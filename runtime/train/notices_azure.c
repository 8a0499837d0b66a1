// Azure: scheduled events. The answer lists events of all machines of a set, so the machine has to know its
// name.

#include <string.h>
#include <strings.h>
#include <time.h>
#include <unistd.h>

#include "notices_clients.h"

static const char events_path[] = "/metadata/scheduledevents?api-version=2020-07-01";
static const char name_path[] = "/metadata/instance/compute/name?api-version=2021-02-01&format=text";
static const char header[] = "Metadata: true";

// The first request enables the service, which may take that long.
static const double FIRST_SECONDS = 120;
// An event may be announced days ahead; from so many seconds before it on, it counts.
static const double AHEAD_SECONDS = 120;

static LsStatus find_name(LsNotices *notices)
{
    LS_TRY(ls_notices_request(notices, "GET", name_path, header, 0));
    char *body = notices->answer.body;
    body[strcspn(body, "\r\n")] = '\0';
    if (notices->answer.code >= 500 || notices->answer.code == 429) // it has one, but not now
        return ls_notices_refused(notices, name_path);
    if (notices->answer.code == 200 && *body)
        ls_notices_copy(notices->machine, sizeof notices->machine, body);
    else
        gethostname(notices->machine, sizeof notices->machine - 1);
    return LS_OK;
}

// Whether the event takes machines away; others, such as Freeze, a run outlives.
static bool takes_away(const char *type)
{
    static const char *const types[] = {"Preempt", "Terminate", "Reboot", "Redeploy"};
    for (size_t i = 0; i < sizeof types / sizeof *types; i++)
        if (strcmp(type, types[i]) == 0)
            return true;
    return false;
}

static bool names_machine(const json_t *resources, const char *machine)
{
    size_t i;
    json_t *resource;
    json_array_foreach(resources, i, resource)
    {
        const char *name = json_string_value(resource);
        if (name && strcasecmp(name, machine) == 0)
            return true;
    }
    return false;
}

// "Mon, 19 Sep 2016 18:29:47 GMT"; it is empty once the event has started. What cannot be read is soon.
static bool is_soon(const char *when)
{
    struct tm parts = {0};
    const char *end = when ? strptime(when, "%a, %d %b %Y %H:%M:%S", &parts) : NULL;
    return !end || difftime(timegm(&parts), time(NULL)) <= AHEAD_SECONDS;
}

static void describe(const json_t *event, const LsNotices *notices, char text[LS_NOTICE_TEXT])
{
    const char *type = json_string_value(json_object_get(event, "EventType"));
    const char *when = json_string_value(json_object_get(event, "NotBefore"));
    char time[64];
    if (!type || !takes_away(type) || !is_soon(when) ||
        !names_machine(json_object_get(event, "Resources"), notices->machine))
        return;
    ls_notices_copy(time, sizeof time, when);
    snprintf(text, LS_NOTICE_TEXT, "Azure schedules %s of machine %.100s%s%s", type, notices->machine,
        *time ? ", not before " : "", time);
}

LsStatus ls_notices_azure(LsNotices *notices, char text[LS_NOTICE_TEXT])
{
    if (!notices->machine[0])
        LS_TRY(find_name(notices));
    LS_TRY(ls_notices_request(notices, "GET", events_path, header, notices->asked ? 0 : FIRST_SECONDS));
    if (notices->answer.code != 200)
        return ls_notices_refused(notices, events_path);
    json_t *answer = NULL;
    LS_TRY(ls_notices_json(notices, events_path, &answer));
    const json_t *events = json_object_get(answer, "Events");
    size_t i;
    json_t *event;
    json_array_foreach(events, i, event)
    {
        if (!*text)
            describe(event, notices, text);
    }
    bool listed = json_is_array(events);
    json_decref(answer);
    return listed ? LS_OK : LS_FAIL(LS_IO, "%s%s answers without Events", notices->url, events_path);
}
