#include "base/library.h"

#include <dlfcn.h>
#include <stdlib.h>
#include <string.h>

#include "base/memory.h"

static LsStatus find_all(
    const char *file, void *library, const char *const *names, size_t count, void **functions)
{
    for (size_t i = 0; i < count; i++) {
        functions[i] = dlsym(library, names[i]);
        if (!functions[i])
            return LS_FAIL(
                LS_UNAVAILABLE, "%s has no function %s: another version is needed", file, names[i]);
    }
    return LS_OK;
}

LsStatus ls_library_load(const char *file, const char *const *names, size_t count, void **functions)
{
    void *library = dlopen(file, RTLD_NOW | RTLD_LOCAL);
    if (!library)
        return LS_FAIL(LS_UNAVAILABLE, "cannot load %s: %s", file, dlerror());
    void **found;
    LsStatus status = ls_memory_allocate(count * sizeof *found, (void **)&found);
    if (status == LS_OK)
        status = find_all(file, library, names, count, found);
    if (status == LS_OK)
        memcpy(functions, found, count * sizeof *found);
    else
        dlclose(library);
    free(found);
    return status;
}
