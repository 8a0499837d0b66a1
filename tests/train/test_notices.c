// Clients of the clouds' notices, against servers that behave as the services' documents say, and as they
// should not.
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/config.h"
#include "http_server.h"
#include "notices.h"

enum { ROUTES = 4, LOG_MAX = 65536 };

// What the service says by the beginning of a request; what is on no list is 404.
typedef struct Service {
    struct {
        const char *request;
        HttpReply reply;
    } route[ROUTES];
    int tokens;         // ec2: given so far; 0: the service does not do tokens by itself
    int tokens_expired; // ec2: tokens up to this one are refused with 401
    char log[LOG_MAX];  // every request
} Service;

static bool begins(const char *text, const char *with)
{
    return strncmp(text, with, strlen(with)) == 0;
}

// An EC2 metadata service: only the newest tokens open anything.
static bool check_token(Service *service, const char *request, HttpReply *refused)
{
    int number = 0;
    const char *header = strstr(request, "X-aws-ec2-metadata-token: token-");
    if (service->tokens > 0 && begins(request, "GET")) {
        *refused = (HttpReply){.code = 401};
        return header && sscanf(header, "X-aws-ec2-metadata-token: token-%d", &number) == 1 &&
               number > service->tokens_expired;
    }
    return true;
}

static HttpReply answer(void *context, const char *request)
{
    static char token[32];
    Service *service = context;
    HttpReply refused;
    size_t used = strlen(service->log);
    snprintf(service->log + used, sizeof service->log - used, "%s", request);
    for (size_t i = 0; i < ROUTES && service->route[i].request; i++)
        if (begins(request, service->route[i].request) && check_token(service, request, &refused))
            return service->route[i].reply;
    if (!check_token(service, request, &refused))
        return refused;
    if (service->tokens > 0 && begins(request, "PUT /latest/api/token HTTP/1.1\r\n")) {
        bool lives = strstr(request, "\r\nX-aws-ec2-metadata-token-ttl-seconds: 21600\r\n");
        snprintf(token, sizeof token, "token-%d", service->tokens++);
        return lives ? (HttpReply){.code = 200, .body = token} : (HttpReply){.code = 400};
    }
    return (HttpReply){.code = 404, .body = "<html>Not Found</html>"};
}

// Asks `times` times, with the last answer in `text`; the status is that of the last time.
static LsStatus ask(int kind, Service *service, int times, char text[LS_NOTICE_TEXT])
{
    HttpServer *server = http_server_start(answer, service);
    LsNotices *notices = NULL;
    assert_int_equal(ls_notices_create(kind, http_server_url(server), &notices), LS_OK);
    LsStatus status = LS_OK;
    for (int i = 0; i < times; i++)
        status = ls_notices_ask(notices, text);
    ls_notices_destroy(notices);
    http_server_stop(server);
    return status;
}

static int count(const char *text, const char *part)
{
    int found = 0;
    for (; (text = strstr(text, part)) != NULL; text += strlen(part))
        found++;
    return found;
}

// ---- EC2 ------------------------------------------------------------------------------------------------

#define ACTION "GET /latest/meta-data/spot/instance-action HTTP/1.1\r\n"
#define ADVICE "GET /latest/meta-data/events/recommendations/rebalance HTTP/1.1\r\n"

static void ec2_says_nothing(void **state)
{
    (void)state;
    char text[LS_NOTICE_TEXT];
    static Service service = {.tokens = 1};
    assert_int_equal(ask(LS_NOTICE_EC2, &service, 3, text), LS_OK);
    assert_string_equal(text, "");
    // One token for all, and it is shown each time.
    assert_int_equal(count(service.log, "PUT "), 1);
    assert_int_equal(count(service.log, ACTION), 3);
    assert_int_equal(count(service.log, ADVICE), 3);
    assert_int_equal(count(service.log, "X-aws-ec2-metadata-token: token-1\r\n"), 6);
}

static void ec2_takes_the_machine_away(void **state)
{
    (void)state;
    static const char *const actions[] = {"terminate", "stop", "hibernate"};
    for (size_t i = 0; i < 3; i++) {
        char text[LS_NOTICE_TEXT], body[128], expected[128];
        snprintf(body, sizeof body, "{\"action\": \"%s\", \"time\": \"2017-09-18T08:22:00Z\"}", actions[i]);
        Service service = {.tokens = 1, .route = {{ACTION, {.code = 200, .body = body}}}};
        assert_int_equal(ask(LS_NOTICE_EC2, &service, 1, text), LS_OK);
        snprintf(expected, sizeof expected, "EC2 will %s this machine at 2017-09-18T08:22:00Z", actions[i]);
        assert_string_equal(text, expected);
    }
}

static void ec2_advises_to_leave(void **state)
{
    (void)state;
    char text[LS_NOTICE_TEXT];
    static Service service = {.tokens = 1};
    HttpServer *server = http_server_start(answer, &service);
    LsNotices *notices = NULL;
    assert_int_equal(ls_notices_create(LS_NOTICE_EC2, http_server_url(server), &notices), LS_OK);
    assert_int_equal(ls_notices_ask(notices, text), LS_OK);
    assert_string_equal(text, "");
    service.route[0].reply = (HttpReply){.code = 200, .body = "{\"noticeTime\": \"2020-10-27T08:22:00Z\"}"};
    service.route[0].request = ADVICE;
    assert_int_equal(ls_notices_ask(notices, text), LS_OK);
    assert_string_equal(text, "EC2 advised at 2020-10-27T08:22:00Z to leave this machine");
    ls_notices_destroy(notices);
    // To whoever starts on a machine with that advice it is no news.
    assert_int_equal(ls_notices_create(LS_NOTICE_EC2, http_server_url(server), &notices), LS_OK);
    for (int i = 0; i < 2; i++) {
        assert_int_equal(ls_notices_ask(notices, text), LS_OK);
        assert_string_equal(text, "");
    }
    ls_notices_destroy(notices);
    http_server_stop(server);
}

static void ec2_renews_a_token_that_is_refused(void **state)
{
    (void)state;
    char text[LS_NOTICE_TEXT];
    static Service service = {.tokens = 1, .tokens_expired = 1};
    assert_int_equal(ask(LS_NOTICE_EC2, &service, 2, text), LS_OK);
    assert_int_equal(count(service.log, "PUT "), 2); // the first one is of no use, the second one is
    // A service that refuses every token is asked for two each time, and no more.
    static Service never = {.tokens = 1, .tokens_expired = 1000};
    assert_int_equal(ask(LS_NOTICE_EC2, &never, 1, text), LS_IO);
    assert_non_null(strstr(ls_status_message(), "401"));
    assert_int_equal(count(never.log, "PUT "), 2);
}

static void ec2_gives_no_token(void **state)
{
    (void)state;
    static const struct {
        HttpReply reply;
        const char *says;
    } cases[] = {
        {{.code = 403}, "403"},
        {{.code = 400}, "400"},
        {{.code = 404}, "404"},
        {{.code = 500}, "500"},
        {{.code = 200, .body = ""}, "no token"},
        {{.code = 200, .body = "a token\twith spaces"}, "no token"},
        {{.code = 200, .body = "x", .repeat = 2000}, "no token"},
        {{.code = 302, .header = "Location: http://127.0.0.1:1/\r\n"}, "302"}, // and is not followed
        {{.code = 0}, "127.0.0.1"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        char text[LS_NOTICE_TEXT];
        Service service = {.route = {{"PUT /latest/api/token ", cases[i].reply}}};
        assert_int_equal(ask(LS_NOTICE_EC2, &service, 1, text), LS_IO);
        assert_non_null(strstr(ls_status_message(), cases[i].says));
        assert_string_equal(text, "");
        assert_int_equal(count(service.log, "GET "), 0);
    }
}

static void ec2_answers_badly(void **state)
{
    (void)state;
    static const struct {
        HttpReply reply;
        const char *says;
    } cases[] = {
        {{.code = 403}, "403"},
        {{.code = 500, .body = "{\"action\": \"terminate\"}"}, "500"},
        {{.code = 503}, "503"},
        {{.code = 200, .body = "<html>welcome to the hotel</html>"}, "JSON"},
        {{.code = 200, .body = ""}, "JSON"},
        {{.code = 200, .body = "[\"terminate\"]"}, "JSON"},
        {{.code = 200, .body = "{\"action\": {}}"}, "without action"},
        {{.code = 200, .body = "{\"action\": \"\"}"}, "without action"},
        {{.code = 200, .body = "{\"action\": \"terminate\"}", .cut = true}, "127.0.0.1"},
        {{.code = 200, .body = "{\"action\": \"terminate\"}", .repeat = 100000}, "longer than 65536"},
        {{.code = 0}, "127.0.0.1"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        char text[LS_NOTICE_TEXT];
        Service service = {.tokens = 1, .route = {{ACTION, cases[i].reply}}};
        assert_int_equal(ask(LS_NOTICE_EC2, &service, 1, text), LS_IO);
        assert_non_null(strstr(ls_status_message(), cases[i].says));
        assert_string_equal(text, "");
    }
}

// What goes into log and events cannot move a terminal's cursor.
static void ec2_text_is_printable(void **state)
{
    (void)state;
    char text[LS_NOTICE_TEXT];
    Service service = {
        .tokens = 1, .route = {{ACTION, {.code = 200, .body = "{\"action\": \"\\u001b[2J\\nx\"}"}}}};
    assert_int_equal(ask(LS_NOTICE_EC2, &service, 1, text), LS_OK);
    assert_string_equal(text, "EC2 will ?[2J?x this machine");
}

// ---- Google Cloud ---------------------------------------------------------------------------------------

#define PREEMPTED "GET /computeMetadata/v1/instance/preempted HTTP/1.1\r\n"

static void gcp_answers(void **state)
{
    (void)state;
    static const struct {
        HttpReply reply;
        LsStatus status;
        const char *says;
    } cases[] = {
        {{.code = 200, .body = "FALSE"}, LS_OK, ""},
        {{.code = 200, .body = "FALSE\n"}, LS_OK, ""},
        {{.code = 200, .body = "TRUE"}, LS_OK, "Google Cloud preempts this machine"},
        {{.code = 200, .body = "TRUE\n"}, LS_OK, "Google Cloud preempts this machine"},
        {{.code = 200, .body = "MAYBE"}, LS_IO, "neither TRUE nor FALSE"},
        {{.code = 200, .body = ""}, LS_IO, "neither TRUE nor FALSE"},
        {{.code = 200, .body = "TRUE", .repeat = 100000}, LS_IO, "longer than 65536"},
        {{.code = 403}, LS_IO, "403"},
        {{.code = 404}, LS_IO, "404"},
        {{.code = 503, .body = "TRUE"}, LS_IO, "503"},
        {{.code = 0}, LS_IO, "127.0.0.1"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        char text[LS_NOTICE_TEXT];
        Service service = {.route = {{PREEMPTED, cases[i].reply}}};
        assert_int_equal(ask(LS_NOTICE_GCP, &service, 1, text), cases[i].status);
        if (cases[i].status == LS_OK)
            assert_string_equal(text, cases[i].says);
        else
            assert_non_null(strstr(ls_status_message(), cases[i].says));
        assert_int_equal(count(service.log, "\r\nMetadata-Flavor: Google\r\n"), 1);
    }
}

// ---- Azure ----------------------------------------------------------------------------------------------

#define NAME "GET /metadata/instance/compute/name?api-version="
#define EVENTS "GET /metadata/scheduledevents?api-version=2020-07-01 HTTP/1.1\r\n"
#define EVENT(type, resources, when)                                                                         \
    "{\"EventId\": \"f020ba2e\", \"EventType\": \"" type "\", \"ResourceType\": \"VirtualMachine\", "        \
    "\"Resources\": [" resources "], \"EventStatus\": \"Scheduled\", \"NotBefore\": \"" when "\"}"
#define DOCUMENT(events) "{\"DocumentIncarnation\": 1, \"Events\": [" events "]}"

static void azure_answers(void **state)
{
    (void)state;
    static const struct {
        const char *body;
        const char *says;
    } cases[] = {
        {DOCUMENT(""), ""},
        {DOCUMENT(EVENT("Preempt", "\"vmss_3\"", "Mon, 19 Sep 2016 18:29:47 GMT")),
            "Azure schedules Preempt of machine vmss_3, not before Mon, 19 Sep 2016 18:29:47 GMT"},
        {DOCUMENT(EVENT("Terminate", "\"other\", \"VMSS_3\"", "")),
            "Azure schedules Terminate of machine vmss_3"},
        {DOCUMENT(EVENT("Reboot", "\"vmss_3\"", "no time")),
            "Azure schedules Reboot of machine vmss_3, not before no time"},
        {DOCUMENT(EVENT("Freeze", "\"vmss_3\"", "")), ""},
        {DOCUMENT(EVENT("Preempt", "\"vmss_33\"", "")), ""},
        {DOCUMENT(EVENT("Preempt", "", "")), ""},
        {DOCUMENT(EVENT("Redeploy", "\"vmss_3\"", "Fri, 31 Dec 2100 23:59:59 GMT")), ""}, // when it is near
        {DOCUMENT(EVENT("Freeze", "\"vmss_3\"", "") ", " EVENT("Redeploy", "\"vmss_3\"", "")),
            "Azure schedules Redeploy of machine vmss_3"},
        {DOCUMENT("1, {}, null, {\"EventType\": 4}"), ""},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        char text[LS_NOTICE_TEXT];
        Service service = {.route = {{NAME, {.code = 200, .body = "vmss_3"}},
                               {EVENTS, {.code = 200, .body = cases[i].body}}}};
        assert_int_equal(ask(LS_NOTICE_AZURE, &service, 2, text), LS_OK);
        assert_string_equal(text, cases[i].says);
        assert_int_equal(count(service.log, NAME), 1); // a machine keeps its name
        assert_int_equal(count(service.log, "\r\nMetadata: true\r\n"), 3);
    }
}

static void azure_two_minutes_ahead(void **state)
{
    (void)state;
    for (int ahead = 60; ahead <= 600; ahead += 540) {
        char text[LS_NOTICE_TEXT], when[64], body[512];
        time_t then = time(NULL) + ahead;
        strftime(when, sizeof when, "%a, %d %b %Y %H:%M:%S GMT", gmtime(&then));
        snprintf(body, sizeof body, DOCUMENT(EVENT("Redeploy", "\"vm\"", "%s")), when);
        Service service = {
            .route = {{NAME, {.code = 200, .body = "vm"}}, {EVENTS, {.code = 200, .body = body}}}};
        assert_int_equal(ask(LS_NOTICE_AZURE, &service, 1, text), LS_OK);
        assert_int_equal(*text != '\0', ahead == 60);
    }
}

static void azure_without_a_name(void **state)
{
    (void)state;
    char text[LS_NOTICE_TEXT], host[256] = "", body[1024];
    gethostname(host, sizeof host - 1);
    snprintf(body, sizeof body, DOCUMENT(EVENT("Preempt", "\"%s\"", "")), host);
    Service service = {.route = {{NAME, {.code = 400}}, {EVENTS, {.code = 200, .body = body}}}};
    assert_int_equal(ask(LS_NOTICE_AZURE, &service, 1, text), LS_OK);
    assert_non_null(strstr(text, "Preempt"));
    // One that has a name but cannot say it now is asked again.
    Service later = {.route = {{NAME, {.code = 503}}, {EVENTS, {.code = 200, .body = body}}}};
    assert_int_equal(ask(LS_NOTICE_AZURE, &later, 2, text), LS_IO);
    assert_non_null(strstr(ls_status_message(), "503"));
    assert_int_equal(count(later.log, NAME), 2);
}

static void azure_answers_badly(void **state)
{
    (void)state;
    static const struct {
        HttpReply reply;
        const char *says;
    } cases[] = {
        {{.code = 400, .body = "{\"error\": \"Bad Request\"}"}, "400"},
        {{.code = 410}, "410"},
        {{.code = 429}, "429"},
        {{.code = 500}, "500"},
        {{.code = 200, .body = "{}"}, "without Events"},
        {{.code = 200, .body = "{\"Events\": {}}"}, "without Events"},
        {{.code = 200, .body = "{\"Events\": [{\"EventType\": \"Preempt\""}, "JSON"},
        {{.code = 200, .body = "[", .repeat = 60000}, "JSON"},
        {{.code = 0}, "127.0.0.1"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        char text[LS_NOTICE_TEXT];
        Service service = {.route = {{NAME, {.code = 200, .body = "vm"}}, {EVENTS, cases[i].reply}}};
        assert_int_equal(ask(LS_NOTICE_AZURE, &service, 1, text), LS_IO);
        assert_non_null(strstr(ls_status_message(), cases[i].says));
    }
}

// ---- Time -----------------------------------------------------------------------------------------------

static void a_silent_service_is_given_up(void **state)
{
    (void)state;
    char text[LS_NOTICE_TEXT];
    Service service = {.route = {{PREEMPTED, {.silent = true}}}};
    double start = ls_clock_seconds();
    assert_int_equal(ask(LS_NOTICE_GCP, &service, 1, text), LS_IO);
    assert_true(ls_clock_seconds() - start >= 1.5); // it had its two seconds
}

static void nobody_listens(void **state)
{
    (void)state;
    char text[LS_NOTICE_TEXT], url[64];
    Service service = {0};
    HttpServer *server = http_server_start(answer, &service);
    snprintf(url, sizeof url, "%s/", http_server_url(server));
    http_server_stop(server);
    LsNotices *notices = NULL;
    assert_int_equal(ls_notices_create(LS_NOTICE_EC2, url, &notices), LS_OK);
    assert_int_equal(ls_notices_ask(notices, text), LS_IO);
    assert_non_null(strstr(ls_status_message(), url));
    assert_null(strstr(ls_status_message(), "//latest"));
    ls_notices_destroy(notices);
}

// What the environment says about proxies is for other addresses.
static void proxies_are_not_used(void **state)
{
    (void)state;
    char text[LS_NOTICE_TEXT];
    setenv("http_proxy", "http://127.0.0.1:1", 1);
    setenv("all_proxy", "http://127.0.0.1:1", 1);
    Service service = {.route = {{PREEMPTED, {.code = 200, .body = "TRUE"}}}};
    assert_int_equal(ask(LS_NOTICE_GCP, &service, 1, text), LS_OK);
    assert_string_equal(text, "Google Cloud preempts this machine");
    unsetenv("http_proxy");
    unsetenv("all_proxy");
}

static void *interrupt_soon(void *notices)
{
    nanosleep(&(struct timespec){.tv_nsec = 100 * 1000 * 1000}, NULL);
    ls_notices_interrupt(notices);
    return NULL;
}

// Azure's first answer may take two minutes, and a run that ends does not wait for it.
static void a_question_can_be_interrupted(void **state)
{
    (void)state;
    char text[LS_NOTICE_TEXT];
    Service service = {.route = {{NAME, {.code = 200, .body = "vm"}}, {EVENTS, {.silent = true}}}};
    HttpServer *server = http_server_start(answer, &service);
    LsNotices *notices = NULL;
    pthread_t thread;
    assert_int_equal(ls_notices_create(LS_NOTICE_AZURE, http_server_url(server), &notices), LS_OK);
    double start = ls_clock_seconds();
    assert_int_equal(pthread_create(&thread, NULL, interrupt_soon, notices), 0);
    assert_int_equal(ls_notices_ask(notices, text), LS_IO);
    assert_true(ls_clock_seconds() - start < 60);
    assert_int_equal(ls_notices_ask(notices, text), LS_IO);
    pthread_join(thread, NULL);
    ls_notices_destroy(notices);
    http_server_stop(server);
}

int main(void)
{
    LsNotices *notices = NULL;
    if (ls_notices_create(LS_NOTICE_GCP, NULL, &notices) == LS_UNAVAILABLE) {
        print_message("skipped: %s\n", ls_status_message());
        return 77;
    }
    ls_notices_destroy(notices);
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(ec2_says_nothing),
        cmocka_unit_test(ec2_takes_the_machine_away),
        cmocka_unit_test(ec2_advises_to_leave),
        cmocka_unit_test(ec2_renews_a_token_that_is_refused),
        cmocka_unit_test(ec2_gives_no_token),
        cmocka_unit_test(ec2_answers_badly),
        cmocka_unit_test(ec2_text_is_printable),
        cmocka_unit_test(gcp_answers),
        cmocka_unit_test(azure_answers),
        cmocka_unit_test(azure_two_minutes_ahead),
        cmocka_unit_test(azure_without_a_name),
        cmocka_unit_test(azure_answers_badly),
        cmocka_unit_test(a_silent_service_is_given_up),
        cmocka_unit_test(nobody_listens),
        cmocka_unit_test(proxies_are_not_used),
        cmocka_unit_test(a_question_can_be_interrupted),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
