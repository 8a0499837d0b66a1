#include "hosts.h"

#include <ctype.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/memory.h"
#include "base/text.h"

enum { LINE_SIZE = 1024 };

static const double MEMORY_SECONDS = 600, OUT_SECONDS = 30, OUT_MAX_SECONDS = 3600, LEAVING_SECONDS = 600;

void ls_hosts_free(LsHosts *hosts)
{
    free(hosts->host);
    *hosts = (LsHosts){0};
}

static LsHost *find(const LsHosts *hosts, const char *name)
{
    for (size_t i = 0; i < hosts->count; i++)
        if (strcmp(hosts->host[i].name, name) == 0)
            return &hosts->host[i];
    return NULL;
}

static LsStatus append(LsHosts *hosts, const LsHost *host)
{
    LsHost *grown = realloc(hosts->host, (hosts->count + 1) * sizeof *grown);
    if (!grown)
        return LS_FAIL(LS_INTERNAL, "out of memory listing hosts");
    grown[hosts->count++] = *host;
    hosts->host = grown;
    return LS_OK;
}

// ---- Lists ----------------------------------------------------------------------------------------------

static bool is_name(const char *name, size_t length)
{
    if (length == 0 || length >= LS_HOST_NAME_MAX || name[0] == '-')
        return false;
    for (size_t i = 0; i < length; i++)
        if (!isalnum((unsigned char)name[i]) && !strchr("._-@", name[i]))
            return false;
    return true;
}

// A whole number from 0 to LS_SLOTS_MAX that ends where the text ends.
static bool read_slots(const char *text, int *slots)
{
    size_t digits = strspn(text, "0123456789");
    if (digits == 0 || digits > 7 || text[digits] != '\0')
        return false;
    *slots = atoi(text);
    return *slots <= LS_SLOTS_MAX;
}

static LsStatus bad_line(const char *origin, int number, const char *line, const char *form)
{
    char quote[LS_QUOTE_SIZE];
    return LS_FAIL(
        LS_USAGE, "%s:%d: expected `%s`, not %s", origin, number, form, ls_text_quote(quote, line));
}

static LsStatus add(LsHosts *hosts, const char *name, size_t length, int slots, const char *origin)
{
    LsHost host = {.slots = slots};
    memcpy(host.name, name, length);
    LsHost *known = find(hosts, host.name);
    if (known) {
        known->slots = slots > LS_SLOTS_MAX - known->slots ? LS_SLOTS_MAX : known->slots + slots;
        return LS_OK;
    }
    if (hosts->count == LS_HOSTS_MAX)
        return LS_FAIL(LS_USAGE, "%s: more than %d hosts", origin, LS_HOSTS_MAX);
    return append(hosts, &host);
}

static LsStatus hostfile_line(char *line, const char *origin, int number, LsHosts *out)
{
    static const char form[] = "host slots=N";
    char whole[LINE_SIZE], *rest = NULL;
    snprintf(whole, sizeof whole, "%s", line);
    line[strcspn(line, "#")] = '\0';
    const char *name = strtok_r(line, " \t", &rest), *word;
    int slots = 1;
    if (!name)
        return LS_OK;
    if (!is_name(name, strlen(name)))
        return bad_line(origin, number, whole, form);
    while ((word = strtok_r(NULL, " \t", &rest)) != NULL)
        if (strncmp(word, "slots=", 6) == 0 && !read_slots(word + 6, &slots))
            return bad_line(origin, number, whole, form);
    return add(out, name, strlen(name), slots, origin);
}

static LsStatus discovery_line(char *line, const char *origin, int number, LsHosts *out)
{
    char *start = line + strspn(line, " \t");
    start[strcspn(start, " \t")] = '\0';
    if (*start == '\0')
        return LS_OK;
    size_t length = strcspn(start, ":");
    int slots = 1;
    if (!is_name(start, length) || (start[length] == ':' && !read_slots(start + length + 1, &slots)))
        return bad_line(origin, number, start, "host:slots");
    return add(out, start, length, slots, origin);
}

typedef LsStatus ReadLine(char *line, const char *origin, int number, LsHosts *out);

static LsStatus read_lines(const char *text, const char *origin, ReadLine *read_line, LsHosts *out)
{
    LsHosts hosts = {0};
    LsStatus status = LS_OK;
    for (int number = 1; *text && status == LS_OK; number++) {
        char line[LINE_SIZE];
        size_t length = strcspn(text, "\n");
        snprintf(line, sizeof line, "%.*s", (int)(length < sizeof line ? length : sizeof line - 1), text);
        line[strcspn(line, "\r")] = '\0';
        if (length >= sizeof line)
            status = LS_FAIL(LS_USAGE, "%s:%d: the line is too long", origin, number);
        else
            status = read_line(line, origin, number, &hosts);
        text += length + (text[length] == '\n');
    }
    if (status != LS_OK) {
        ls_hosts_free(&hosts);
        return status;
    }
    *out = hosts;
    return LS_OK;
}

LsStatus ls_hosts_read_hostfile(const char *text, const char *origin, LsHosts *out)
{
    return read_lines(text, origin, hostfile_line, out);
}

LsStatus ls_hosts_read_discovery(const char *text, const char *origin, LsHosts *out)
{
    return read_lines(text, origin, discovery_line, out);
}

// ---- What is known of them --------------------------------------------------------------------------------

bool ls_host_same(const char *a, const char *b)
{
    if (strcmp(a, b) == 0)
        return true;
    size_t length = strcspn(a, ".");
    bool numbers = strspn(a, "0123456789.") == strlen(a); // addresses have no short form
    return !numbers && length == strcspn(b, ".") && strncmp(a, b, length) == 0 && (!a[length] || !b[length]);
}

bool ls_host_is_local(const char *name)
{
    char own[LS_HOST_NAME_MAX] = "";
    gethostname(own, sizeof own - 1);
    return strcmp(name, "localhost") == 0 || strncmp(name, "127.", 4) == 0 || ls_host_same(name, own);
}

LsStatus ls_hosts_update(LsHosts *book, const LsHosts *list, double now)
{
    for (size_t i = 0; i < book->count; i++)
        if (!find(list, book->host[i].name))
            book->host[i].here = false;
    for (size_t i = 0; i < list->count; i++) {
        LsHost *known = find(book, list->host[i].name);
        if (!known) {
            LsHost fresh = {.slots = list->host[i].slots};
            memcpy(fresh.name, list->host[i].name, sizeof fresh.name);
            LS_TRY(append(book, &fresh));
            known = &book->host[book->count - 1];
        }
        // More slots are as good as a host that came: they, too, have to stay for a while.
        if (!known->here || list->host[i].slots > known->slots)
            known->since = now;
        known->here = true;
        known->slots = list->host[i].slots;
    }
    return LS_OK;
}

static LsHost *find_same(const LsHosts *book, const char *name)
{
    for (size_t i = 0; i < book->count; i++)
        if (ls_host_same(book->host[i].name, name) ||
            (ls_host_is_local(book->host[i].name) && ls_host_is_local(name)))
            return &book->host[i];
    return NULL;
}

static void leave_out(LsHost *host, double until)
{
    host->out_until = until;
    host->since = until; // then it has just come
}

void ls_hosts_leave(LsHosts *book, const char *name, double now)
{
    LsHost *host = find_same(book, name);
    if (host)
        leave_out(host, now + LEAVING_SECONDS);
}

bool ls_hosts_blame(LsHosts *book, const char *name, int least, double now)
{
    LsHost *host = find_same(book, name);
    if (!host)
        return false;
    host->failures = host->failures && now - host->failed > MEMORY_SECONDS ? 1 : host->failures + 1;
    host->failed = now;
    int others = ls_hosts_slots(book, 0, now) - (ls_host_usable(host, 0, now) ? host->slots : 0);
    if (host->failures < 2 || others < least || others == 0)
        return false;
    double seconds = OUT_SECONDS;
    for (int i = 2; i < host->failures && seconds < OUT_MAX_SECONDS; i++)
        seconds *= 2;
    leave_out(host, now + seconds);
    return true;
}

bool ls_host_usable(const LsHost *host, double settled, double now)
{
    return host->here && host->out_until <= now && now - host->since >= settled;
}

int ls_hosts_slots(const LsHosts *book, double settled, double now)
{
    int slots = 0;
    for (size_t i = 0; i < book->count; i++)
        if (ls_host_usable(&book->host[i], settled, now))
            slots = book->host[i].slots > LS_SLOTS_MAX - slots ? LS_SLOTS_MAX : slots + book->host[i].slots;
    return slots;
}
