// Configuration files: a mapping of sections, each a mapping of scalars and lists of scalars, read event by
// event.
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <yaml.h>

#include "base/config.h"
#include "base/file.h"
#include "config_text.h"

enum { FILE_LIMIT = 1 << 20, OPTIONS_MAX = 128 };

typedef struct Reader {
    yaml_parser_t parser;
    LsConfig *config;
    const char *name;
    char section[LS_SECTION_SIZE];
    char seen_sections[32][LS_SECTION_SIZE];
    size_t sections;
    bool seen[OPTIONS_MAX]; // by the option's place in the table
} Reader;

// "file:line:column" of a mark; libyaml counts from 0.
static void place_text(const Reader *reader, yaml_mark_t mark, char *text, size_t size)
{
    snprintf(text, size, "%s:%zu:%zu", reader->name, mark.line + 1, mark.column + 1);
}

#define FAIL_AT(reader, mark, ...) fail_at((reader), (mark), __FILE__, __LINE__, __VA_ARGS__)

__attribute__((format(printf, 5, 6))) static LsStatus fail_at(
    const Reader *reader, yaml_mark_t mark, const char *file, int line, const char *format, ...)
{
    char place[LS_PATH_MAX + 64], sentence[1024];
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(sentence, sizeof sentence, format, arguments);
    va_end(arguments);
    place_text(reader, mark, place, sizeof place);
    return ls_status_fail(LS_CONFIG, file, line, "%s: %s", place, sentence);
}

static LsStatus next_event(Reader *reader, yaml_event_t *event)
{
    if (!yaml_parser_parse(&reader->parser, event)) {
        const yaml_parser_t *parser = &reader->parser;
        char quote[LS_QUOTE_SIZE];
        const char *problem = parser->problem ? parser->problem : "out of memory";
        return FAIL_AT(reader, parser->problem_mark, "not valid YAML: %s", ls_text_quote(quote, problem));
    }
    if (event->type == YAML_ALIAS_EVENT) {
        yaml_mark_t mark = event->start_mark;
        yaml_event_delete(event);
        return FAIL_AT(reader, mark, "aliases are not supported: write the value out");
    }
    return LS_OK;
}

// A scalar's text, which must hold no NUL byte.
static LsStatus scalar_text(const Reader *reader, const yaml_event_t *event, const char **out)
{
    const char *text = (const char *)event->data.scalar.value;
    if (strlen(text) != event->data.scalar.length)
        return FAIL_AT(reader, event->start_mark, "a NUL byte in a value");
    *out = text;
    return LS_OK;
}

// Appends an item of a list, in the form that ls_config_set reads.
static LsStatus append_item(const Reader *reader, const yaml_event_t *event, char *list, size_t size)
{
    const char *text = NULL;
    LS_TRY(scalar_text(reader, event, &text));
    size_t used = strlen(list);
    if (used + strlen(text) + 4 > size)
        return FAIL_AT(reader, event->start_mark, "the list is too long");
    snprintf(list + used, size - used, "%s%s", used > 1 ? ", " : "", text[0] ? text : "''");
    return LS_OK;
}

static LsStatus read_list(Reader *reader, char *list, size_t size)
{
    snprintf(list, size, "[");
    for (;;) {
        yaml_event_t event;
        LS_TRY(next_event(reader, &event));
        yaml_event_type_t type = event.type;
        LsStatus status = LS_OK;
        if (type == YAML_SCALAR_EVENT)
            status = append_item(reader, &event, list, size);
        else if (type != YAML_SEQUENCE_END_EVENT)
            status = FAIL_AT(reader, event.start_mark, "a list holds plain values only");
        yaml_event_delete(&event);
        LS_TRY(status);
        if (type == YAML_SEQUENCE_END_EVENT)
            break;
    }
    strcat(list, "]"); // append_item left room
    return LS_OK;
}

static LsStatus set_value(Reader *reader, const char *option, yaml_mark_t key_mark)
{
    yaml_event_t event;
    char list[LS_CONFIG_TEXT], place[LS_PATH_MAX + 64];
    const char *value = NULL;
    LS_TRY(next_event(reader, &event));
    place_text(reader, event.start_mark, place, sizeof place);
    LsStatus status = LS_OK;
    if (event.type == YAML_SCALAR_EVENT) {
        status = scalar_text(reader, &event, &value);
    } else if (event.type == YAML_SEQUENCE_START_EVENT) {
        status = read_list(reader, list, sizeof list);
        value = list;
    } else {
        status = FAIL_AT(reader, key_mark, "%s takes a value or a list, not a mapping", option);
    }
    if (status == LS_OK)
        status = ls_config_set(reader->config, option, value, place);
    yaml_event_delete(&event);
    return status;
}

// Marks the option as seen; a second time is an error.
static LsStatus note_option(Reader *reader, const char *option, yaml_mark_t mark)
{
    size_t count = 0;
    const LsOption *options = ls_options(&count);
    const LsOption *found = ls_option_find(option);
    char quote[LS_QUOTE_SIZE];
    if (!found)
        return FAIL_AT(reader, mark, "unknown option %s, did you mean %s?", ls_text_quote(quote, option),
            ls_option_nearest(option));
    size_t index = (size_t)(found - options);
    if (index < OPTIONS_MAX && reader->seen[index])
        return FAIL_AT(reader, mark, "%s is set twice", option);
    if (index < OPTIONS_MAX)
        reader->seen[index] = true;
    return LS_OK;
}

static LsStatus read_key(Reader *reader, const yaml_event_t *event)
{
    const char *key = NULL;
    char option[LS_CONFIG_TEXT];
    if (event->type != YAML_SCALAR_EVENT)
        return FAIL_AT(reader, event->start_mark, "a key must be a plain name");
    LS_TRY(scalar_text(reader, event, &key));
    snprintf(option, sizeof option, "%s.%s", reader->section, key);
    LS_TRY(note_option(reader, option, event->start_mark));
    return set_value(reader, option, event->start_mark);
}

static LsStatus read_section_body(Reader *reader)
{
    for (;;) {
        yaml_event_t event;
        LS_TRY(next_event(reader, &event));
        bool end = event.type == YAML_MAPPING_END_EVENT;
        LsStatus status = end ? LS_OK : read_key(reader, &event);
        yaml_event_delete(&event);
        if (end || status != LS_OK)
            return status;
    }
}

static LsStatus note_section(Reader *reader, const char *name, yaml_mark_t mark)
{
    char quote[LS_QUOTE_SIZE], nearest[LS_SECTION_SIZE];
    if (!ls_section_known(name)) {
        ls_section_nearest(name, nearest);
        return FAIL_AT(
            reader, mark, "unknown section %s, did you mean %s?", ls_text_quote(quote, name), nearest);
    }
    for (size_t i = 0; i < reader->sections; i++)
        if (strcmp(reader->seen_sections[i], name) == 0)
            return FAIL_AT(reader, mark, "section %s stands here a second time", name);
    if (reader->sections < sizeof reader->seen_sections / sizeof *reader->seen_sections)
        snprintf(reader->seen_sections[reader->sections++], LS_SECTION_SIZE, "%s", name);
    snprintf(reader->section, sizeof reader->section, "%s", name);
    return LS_OK;
}

static LsStatus read_section(Reader *reader, const yaml_event_t *event)
{
    const char *name = NULL;
    if (event->type != YAML_SCALAR_EVENT)
        return FAIL_AT(reader, event->start_mark, "a section must have a plain name");
    LS_TRY(scalar_text(reader, event, &name));
    LS_TRY(note_section(reader, name, event->start_mark));
    yaml_event_t body;
    LS_TRY(next_event(reader, &body));
    LsStatus status = LS_OK;
    bool empty = body.type == YAML_SCALAR_EVENT && body.data.scalar.length == 0;
    if (body.type != YAML_MAPPING_START_EVENT && !empty)
        status =
            FAIL_AT(reader, body.start_mark, "section %s must hold \"key: value\" lines", reader->section);
    yaml_event_delete(&body);
    LS_TRY(status);
    return empty ? LS_OK : read_section_body(reader);
}

// The top mapping; an empty document is an empty configuration.
static LsStatus read_document(Reader *reader)
{
    for (bool inside = false;;) {
        yaml_event_t event;
        LS_TRY(next_event(reader, &event));
        LsStatus status = LS_OK;
        bool end = event.type == YAML_MAPPING_END_EVENT || event.type == YAML_STREAM_END_EVENT;
        bool empty = event.type == YAML_SCALAR_EVENT && event.data.scalar.length == 0;
        if (!inside && event.type == YAML_MAPPING_START_EVENT)
            inside = true;
        else if (inside && !end)
            status = read_section(reader, &event);
        else if (!end && !empty && event.type != YAML_STREAM_START_EVENT &&
                 event.type != YAML_DOCUMENT_START_EVENT && event.type != YAML_DOCUMENT_END_EVENT)
            status = FAIL_AT(
                reader, event.start_mark, "a configuration is a mapping of sections such as \"train:\"");
        yaml_event_delete(&event);
        if (end || status != LS_OK)
            return status;
    }
}

// Nothing but the document's end may follow.
static LsStatus read_end(Reader *reader)
{
    for (;;) {
        yaml_event_t event;
        LS_TRY(next_event(reader, &event));
        yaml_event_type_t type = event.type;
        LsStatus status = LS_OK;
        if (type == YAML_DOCUMENT_START_EVENT)
            status =
                FAIL_AT(reader, event.start_mark, "a second document begins here; a configuration is one");
        yaml_event_delete(&event);
        if (status != LS_OK || type == YAML_STREAM_END_EVENT || type == YAML_NO_EVENT)
            return status;
    }
}

LsStatus ls_config_parse_yaml(LsConfig *config, const char *text, size_t size, const char *name)
{
    // The caller's configuration changes only when all of the file is good.
    LsConfig parsed = *config;
    Reader reader = {.config = &parsed, .name = name};
    if (!yaml_parser_initialize(&reader.parser))
        return LS_FAIL(LS_INTERNAL, "out of memory");
    yaml_parser_set_input_string(&reader.parser, (const unsigned char *)text, size);
    LsStatus status = read_document(&reader);
    if (status == LS_OK)
        status = read_end(&reader);
    yaml_parser_delete(&reader.parser);
    if (status == LS_OK)
        *config = parsed;
    return status;
}

LsStatus ls_config_read_yaml(LsConfig *config, const char *path)
{
    char *text = NULL;
    size_t size = 0;
    LsStatus status = ls_file_read(path, FILE_LIMIT, &text, &size);
    if (status == LS_BAD_DATA) // too large for a configuration
        status = ls_status_adopt(LS_CONFIG, ls_status_message());
    LS_TRY(status);
    status = ls_config_parse_yaml(config, text, size, path);
    free(text);
    return status;
}
