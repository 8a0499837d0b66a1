// A data set known by its schema alone, as a checkpoint keeps it.
#include <stdlib.h>
#include <string.h>

#include "base/memory.h"
#include "dataset_format.h"

LsStatus ls_dataset_describe(const json_t *schema, const char *name, LsDataset **out)
{
    char *text = ls_json_canonical(schema);
    if (text == NULL)
        return LS_FAIL(LS_BAD_DATA, "%s: the schema is no JSON object", name);
    LsDataset *dataset = NULL;
    LsStatus status = ls_memory_allocate(sizeof *dataset, (void **)&dataset);
    if (status == LS_OK) {
        dataset->fd = -1;
        dataset->path = strdup(name);
        status = dataset->path == NULL ? LS_FAIL(LS_INTERNAL, "%s: out of memory", name)
                                       : ls_schema_read(text, strlen(text), name, dataset);
    }
    free(text);
    if (status != LS_OK) {
        ls_dataset_close(dataset);
        return status;
    }
    *out = dataset;
    return LS_OK;
}
