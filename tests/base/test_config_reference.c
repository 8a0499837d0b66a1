// docs/configuration.md is what the table of options generates.
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <stdlib.h>
#include <string.h>

#include "base/config.h"
#include "base/file.h"

static void test_committed_file_is_current(void **state)
{
    (void)state;
    char *generated = NULL, *committed = NULL;
    size_t generated_size = 0, committed_size = 0;
    FILE *out = open_memstream(&generated, &generated_size);
    assert_non_null(out);
    ls_config_write_reference(out);
    assert_int_equal(fclose(out), 0);
    LsStatus status =
        ls_file_read(LOCKSTEP_SOURCE_DIR "/docs/configuration.md", 1 << 20, &committed, &committed_size);
    if (status != LS_OK || committed_size != generated_size ||
        memcmp(committed, generated, generated_size) != 0)
        fail_msg("docs/configuration.md is stale; run: build/lockstep config options --markdown > "
                 "docs/configuration.md");
    free(committed);
    free(generated);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_committed_file_is_current)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
