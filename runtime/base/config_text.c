#include "config_text.h"

#include <string.h>

#include "base/config.h"

size_t ls_section_length(const char *option_name)
{
    return strcspn(option_name, ".");
}

const char *ls_option_nearest(const char *name)
{
    size_t count;
    const LsOption *options = ls_options(&count);
    const char *key = name + ls_section_length(name);
    const char *nearest = options[0].name;
    size_t nearest_distance = SIZE_MAX;
    for (size_t i = 0; i < count; i++) {
        if (key[0] == '.' && strcmp(options[i].name + ls_section_length(options[i].name), key) == 0)
            return options[i].name;
        size_t distance = ls_text_distance(name, options[i].name);
        if (distance < nearest_distance) {
            nearest_distance = distance;
            nearest = options[i].name;
        }
    }
    return nearest;
}

static void copy_section(const char *option_name, char section[LS_SECTION_SIZE])
{
    size_t length = ls_section_length(option_name);
    length = length < LS_SECTION_SIZE ? length : LS_SECTION_SIZE - 1;
    memcpy(section, option_name, length);
    section[length] = '\0';
}

void ls_section_nearest(const char *name, char section[LS_SECTION_SIZE])
{
    size_t count;
    const LsOption *options = ls_options(&count);
    size_t nearest_distance = SIZE_MAX;
    for (size_t i = 0; i < count; i++) {
        char candidate[LS_SECTION_SIZE];
        copy_section(options[i].name, candidate);
        size_t distance = ls_text_distance(name, candidate);
        if (distance < nearest_distance) {
            nearest_distance = distance;
            memcpy(section, candidate, sizeof candidate);
        }
    }
}

bool ls_section_known(const char *name)
{
    size_t count;
    const LsOption *options = ls_options(&count);
    size_t length = strlen(name);
    for (size_t i = 0; i < count; i++)
        if (ls_section_length(options[i].name) == length && strncmp(options[i].name, name, length) == 0)
            return true;
    return false;
}
