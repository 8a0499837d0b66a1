// Reads a configuration from YAML: a mapping of sections, each a mapping of scalars and lists of scalars.
// What YAML offers beyond that (anchors, tags, nesting, several documents) is refused with its position.
#include "base/config.h"

#include <stdlib.h>
#include <string.h>
#include <yaml.h>

#include "base/file.h"
#include "config_text.h"

enum { FILE_LIMIT = 1 << 20, OPTION_LIMIT = 256 };

typedef struct Reader {
    yaml_parser_t parser;
    yaml_event_t event; // the current one, owned
    const char *name;   // of the file, for messages
    const char *text;
    size_t size;
    LsConfig *config;
    size_t line_of_option[OPTION_LIMIT]; // where each was set, 0: nowhere
    char sections[OPTION_LIMIT][LS_SECTION_SIZE];
    size_t section_count;
} Reader;

// Starts a message with the position of `mark`: "FILE:line:column".
static void write_position(const Reader *reader, yaml_mark_t mark, char *origin, size_t size)
{
    snprintf(origin, size, "%s:%zu:%zu", reader->name, mark.line + 1, mark.column + 1);
}

#define FAIL_AT(reader, mark, format, ...)                                                                   \
    LS_FAIL(                                                                                                 \
        LS_CONFIG, "%s:%zu:%zu: " format, (reader)->name, (mark).line + 1, (mark).column + 1, ##__VA_ARGS__)
#define FAIL_HERE(reader, ...) FAIL_AT(reader, (reader)->event.start_mark, __VA_ARGS__)

// True if the blanks at the start of a line have a tab, which YAML forbids there and reports obscurely.
static bool indented_with_tab(const Reader *reader, size_t line)
{
    const char *at = reader->text, *end = reader->text + reader->size;
    for (; line > 0 && at < end; line--) {
        const char *newline = memchr(at, '\n', (size_t)(end - at));
        at = newline == NULL ? end : newline + 1;
    }
    while (at < end && *at == ' ')
        at++;
    return at < end && *at == '\t';
}

// libyaml gives the place of a byte that it cannot read as an offset only.
static yaml_mark_t mark_of_offset(const Reader *reader, size_t offset)
{
    yaml_mark_t mark = {0};
    for (size_t i = 0; i < offset && i < reader->size; i++) {
        if (reader->text[i] == '\n') {
            mark.line++;
            mark.column = 0;
        } else if (((unsigned char)reader->text[i] & 0xC0) != 0x80) { // the first byte of a character
            mark.column++;
        }
    }
    return mark;
}

static LsStatus fail_syntax(const Reader *reader)
{
    const yaml_parser_t *parser = &reader->parser;
    if (parser->error == YAML_MEMORY_ERROR)
        return LS_FAIL(LS_INTERNAL, "%s: cannot be read: out of memory", reader->name);
    if (parser->error == YAML_READER_ERROR)
        return FAIL_AT(reader, mark_of_offset(reader, parser->problem_offset),
            "not a text file in UTF-8 (%s)", parser->problem);
    if (indented_with_tab(reader, parser->problem_mark.line))
        return FAIL_AT(reader, parser->problem_mark, "the line is indented with a tab; YAML needs spaces");
    return FAIL_AT(reader, parser->problem_mark, "not valid YAML: %s", parser->problem);
}

// Moves to the next event and refuses what no place of a configuration may have.
static LsStatus next(Reader *reader)
{
    yaml_event_delete(&reader->event);
    if (!yaml_parser_parse(&reader->parser, &reader->event)) {
        memset(&reader->event, 0, sizeof reader->event);
        return fail_syntax(reader);
    }
    const yaml_event_t *event = &reader->event;
    const yaml_char_t *anchor = NULL, *tag = NULL;
    if (event->type == YAML_ALIAS_EVENT)
        return FAIL_HERE(reader, "an alias (*…); write the value itself");
    if (event->type == YAML_SCALAR_EVENT) {
        anchor = event->data.scalar.anchor;
        tag = event->data.scalar.tag;
    } else if (event->type == YAML_SEQUENCE_START_EVENT) {
        anchor = event->data.sequence_start.anchor;
        tag = event->data.sequence_start.tag;
    } else if (event->type == YAML_MAPPING_START_EVENT) {
        anchor = event->data.mapping_start.anchor;
        tag = event->data.mapping_start.tag;
    }
    if (anchor != NULL)
        return FAIL_HERE(reader, "an anchor (&…); write the value itself in every place");
    if (tag != NULL)
        return FAIL_HERE(reader, "a tag (!…); write the value alone");
    return LS_OK;
}

// The current event's scalar as C text; a NUL inside would end it early and is refused.
static LsStatus scalar_text(const Reader *reader, const char **text)
{
    const char *value = (const char *)reader->event.data.scalar.value;
    if (strlen(value) != reader->event.data.scalar.length)
        return FAIL_HERE(reader, "a NUL character");
    *text = value;
    return LS_OK;
}

// A scalar that stands for nothing: no text at all, or YAML's words for null.
static bool is_null(const Reader *reader)
{
    if (reader->event.type != YAML_SCALAR_EVENT || reader->event.data.scalar.style != YAML_PLAIN_SCALAR_STYLE)
        return false;
    const char *value = (const char *)reader->event.data.scalar.value;
    return strcmp(value, "") == 0 || strcmp(value, "~") == 0 || strcmp(value, "null") == 0;
}

// Reads the items of a list and sets the option to "[a, b, …]".
static LsStatus read_list(Reader *reader, const LsOption *option, const char *origin)
{
    if (option->type != LS_OPTION_INTS)
        return FAIL_HERE(reader, "%s takes one value, not a list", option->name);
    char list[LS_CONFIG_LIST * 24] = "[";
    size_t used = 1, count = 0;
    for (;;) {
        LS_TRY(next(reader));
        if (reader->event.type == YAML_SEQUENCE_END_EVENT)
            break;
        const char *item;
        if (reader->event.type != YAML_SCALAR_EVENT)
            return FAIL_HERE(reader, "an item of %s must be a number, not a list or a mapping", option->name);
        LS_TRY(scalar_text(reader, &item));
        char quote[LS_QUOTE_SIZE];
        // Checked here, since a quoted item could hold a comma and pass for two.
        if (strlen(item) > 20 || item[0] == '\0' || item[strspn(item, "-0123456789")] != '\0')
            return FAIL_HERE(
                reader, "%s: the item %s is not a whole number", option->name, ls_text_quote(quote, item));
        if (++count > LS_CONFIG_LIST)
            return FAIL_HERE(reader, "%s takes at most %d numbers", option->name, LS_CONFIG_LIST);
        used += (size_t)snprintf(list + used, sizeof list - used, "%s%s", count > 1 ? ", " : "", item);
    }
    snprintf(list + used, sizeof list - used, "]");
    return ls_config_set(reader->config, option->name, list, origin);
}

// Reads "key: value" of a section; the current event is the key.
static LsStatus read_option(Reader *reader, const char *section)
{
    const char *key;
    char name[256], quote[LS_QUOTE_SIZE], origin[LS_PATH_MAX + 48];
    if (reader->event.type != YAML_SCALAR_EVENT)
        return FAIL_HERE(reader, "a key of section %s must be a name", section);
    LS_TRY(scalar_text(reader, &key));
    snprintf(name, sizeof name, "%s.%.200s", section, key);
    const LsOption *option = ls_option_find(name);
    if (option == NULL)
        return FAIL_HERE(reader, "unknown option %s; did you mean %s? (`lockstep config options` lists all)",
            ls_text_quote(quote, name), ls_option_nearest(name));

    size_t count;
    size_t index = (size_t)(option - ls_options(&count));
    if (reader->line_of_option[index] != 0)
        return FAIL_HERE(
            reader, "%s is given twice; the first is in line %zu", name, reader->line_of_option[index]);
    reader->line_of_option[index] = reader->event.start_mark.line + 1;

    yaml_mark_t key_mark = reader->event.start_mark;
    LS_TRY(next(reader));
    if (is_null(reader))
        return FAIL_AT(reader, key_mark, "%s has no value", name);
    write_position(reader, reader->event.start_mark, origin, sizeof origin);
    if (reader->event.type == YAML_SEQUENCE_START_EVENT)
        return read_list(reader, option, origin);
    if (reader->event.type != YAML_SCALAR_EVENT)
        return FAIL_HERE(reader, "%s takes a value, not a mapping", name);
    const char *value;
    LS_TRY(scalar_text(reader, &value));
    return ls_config_set(reader->config, name, value, origin);
}

// Checks the name of a section, which the current event is, and copies it to the list of those seen.
static LsStatus enter_section(Reader *reader, const char **section)
{
    const char *text;
    char quote[LS_QUOTE_SIZE], nearest[LS_SECTION_SIZE];
    if (reader->event.type != YAML_SCALAR_EVENT)
        return FAIL_HERE(reader, "the name of a section must be a word");
    LS_TRY(scalar_text(reader, &text));
    if (ls_option_find(text) != NULL)
        return FAIL_HERE(reader, "%s is written as a section: \"%.*s:\", and below it, indented, \"%s: …\"",
            text, (int)ls_section_length(text), text, text + ls_section_length(text) + 1);
    if (!ls_section_known(text)) {
        ls_section_nearest(text, nearest);
        return FAIL_HERE(reader, "unknown section %s; did you mean %s?", ls_text_quote(quote, text), nearest);
    }
    for (size_t i = 0; i < reader->section_count; i++)
        if (strcmp(reader->sections[i], text) == 0)
            return FAIL_HERE(reader, "section %s is given twice; put its options in one place", text);
    char *copy = reader->sections[reader->section_count++];
    snprintf(copy, LS_SECTION_SIZE, "%s", text);
    *section = copy;
    return LS_OK;
}

static LsStatus read_section(Reader *reader)
{
    const char *section;
    LS_TRY(enter_section(reader, &section));
    LS_TRY(next(reader));
    if (is_null(reader)) // all its options are commented out
        return LS_OK;
    if (reader->event.type != YAML_MAPPING_START_EVENT)
        return FAIL_HERE(reader, "section %s must hold options, one a line: \"key: value\"", section);
    for (;;) {
        LS_TRY(next(reader));
        if (reader->event.type == YAML_MAPPING_END_EVENT)
            return LS_OK;
        LS_TRY(read_option(reader, section));
    }
}

static LsStatus read_document(Reader *reader)
{
    LS_TRY(next(reader)); // start of the stream
    LS_TRY(next(reader));
    if (reader->event.type == YAML_STREAM_END_EVENT) // an empty file changes nothing
        return LS_OK;
    LS_TRY(next(reader));
    if (reader->event.type != YAML_MAPPING_START_EVENT)
        return FAIL_HERE(reader, "a configuration is a mapping of sections, for example \"train:\"");
    for (;;) {
        LS_TRY(next(reader));
        if (reader->event.type == YAML_MAPPING_END_EVENT)
            break;
        LS_TRY(read_section(reader));
    }
    LS_TRY(next(reader)); // end of the document
    LS_TRY(next(reader));
    if (reader->event.type != YAML_STREAM_END_EVENT)
        return FAIL_HERE(reader, "a second document; a configuration is one");
    return LS_OK;
}

LsStatus ls_config_parse_yaml(LsConfig *config, const char *text, size_t size, const char *name)
{
    size_t count;
    ls_options(&count);
    if (count > OPTION_LIMIT)
        return LS_FAIL(LS_INTERNAL, "the YAML reader has room for %d options", OPTION_LIMIT);
    LsConfig changed = *config;
    Reader *reader = calloc(1, sizeof *reader);
    if (reader == NULL || !yaml_parser_initialize(&reader->parser)) {
        free(reader);
        return LS_FAIL(LS_INTERNAL, "%s: cannot be read: out of memory", name);
    }
    reader->name = name;
    reader->text = text;
    reader->size = size;
    reader->config = &changed;
    yaml_parser_set_encoding(&reader->parser, YAML_UTF8_ENCODING);
    yaml_parser_set_input_string(&reader->parser, (const unsigned char *)text, size);

    LsStatus status = read_document(reader);
    yaml_event_delete(&reader->event);
    yaml_parser_delete(&reader->parser);
    free(reader);
    if (status == LS_OK)
        *config = changed;
    return status;
}

LsStatus ls_config_read_yaml(LsConfig *config, const char *path)
{
    char *text;
    size_t size;
    LsStatus status = ls_file_read(path, FILE_LIMIT, &text, &size);
    if (status == LS_BAD_DATA) // too large
        return ls_status_adopt(LS_CONFIG, ls_status_message());
    LS_TRY(status);
    status = ls_config_parse_yaml(config, text, size, path);
    free(text);
    return status;
}
