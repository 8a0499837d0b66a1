// fuzz: base
// Configuration files: whatever the bytes, they are refused in one line that changes nothing, or read to a
// configuration that is written and read back unchanged.
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/config.h"
#include "require.h"

static void check_written(const LsConfig *config)
{
    char *text = NULL;
    size_t size = 0;
    FILE *out = open_memstream(&text, &size);
    require(out != NULL);
    ls_config_write_yaml(config, out);
    require(fclose(out) == 0);
    LsConfig back;
    ls_config_defaults(&back);
    require(ls_config_parse_yaml(&back, text, size, "written.yaml") == LS_OK);
    require(memcmp(&back, config, sizeof back) == 0);
    free(text);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    LsConfig config, defaults;
    ls_config_defaults(&config);
    defaults = config;
    LsStatus status = ls_config_parse_yaml(&config, (const char *)data, size, "input.yaml");
    if (status == LS_OK) {
        check_written(&config);
        ls_config_validate(&config);
        return 0;
    }
    require(status == LS_CONFIG);
    require(strncmp(ls_status_message(), "input.yaml:", 11) == 0);
    require(strchr(ls_status_message(), '\n') == NULL);
    require(memcmp(&config, &defaults, sizeof config) == 0);
    return 0;
}
