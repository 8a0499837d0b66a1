// What several commands share.
#include "command.h"

#include <string.h>
#include <unistd.h>

// A malformed setting is a mistake on the command line, whatever the files hold.
static LsStatus check_settings(const LsTextList *settings)
{
    for (size_t i = 0; i < settings->count; i++) {
        const char *text = settings->text[i], *equals = strchr(text, '=');
        if (!equals || equals == text)
            return LS_FAIL(LS_USAGE, "--set %s: expected section.key=value", text);
    }
    return LS_OK;
}

static LsStatus apply_settings(const LsTextList *settings, LsConfig *config)
{
    for (size_t i = 0; i < settings->count; i++) {
        const char *text = settings->text[i];
        char name[LS_CONFIG_TEXT];
        size_t length = strcspn(text, "=");
        snprintf(name, sizeof name, "%.*s", (int)length, text);
        LS_TRY(ls_config_set(config, name, text + length + 1, "--set"));
    }
    return LS_OK;
}

LsStatus ls_launch_configure(const char *file, const LsTextList *settings, LsConfig *config)
{
    LS_TRY(check_settings(settings));
    ls_config_defaults(config);
    if (file)
        LS_TRY(ls_config_read_yaml(config, file));
    return ls_launch_override(settings, config);
}

LsStatus ls_launch_override(const LsTextList *settings, LsConfig *config)
{
    LS_TRY(check_settings(settings));
    LS_TRY(ls_config_read_environment(config, environ));
    return apply_settings(settings, config);
}
