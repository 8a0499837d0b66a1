// Plans as text, one line each: "LIBRARY/GPU/…:SHAPE ROUTE:ALGORITHM".
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/memory.h"
#include "products.h"

enum { TAG_SIZE = 384, LINE_SIZE = 1024, ALGORITHM_DIGITS = 16 * LS_ALGORITHM_WORDS };

static const char *const route_names[LS_ROUTES] = {
    [LS_ROUTE_FUSED] = "fused", [LS_ROUTE_STORED] = "stored", [LS_ROUTE_WIDE] = "wide"};

// What an algorithm is for besides the shape: another library or GPU has its own.
static void make_tag(const LsProducts *products, char tag[TAG_SIZE])
{
    const struct cudaDeviceProp *gpu = &products->cuda->properties;
    char version[64];
    ls_cublaslt_version(version, sizeof version);
    snprintf(tag, TAG_SIZE, "%s/%s/%d SMs/%s:", version, gpu->name, gpu->multiProcessorCount,
        products->cuda->tf32 ? "tf32" : "fp32");
    for (char *c = tag; *c; c++)
        if (*c == ' ')
            *c = '-';
}

#define KIND_FORMAT(number, flag)                                                                            \
    "m" number ",n" number ",k" number ",ta" flag ",tb" flag ",in" flag ",out" flag ",acc" flag ",bias" flag \
    ",act" flag ",pre" flag ",back" flag ",db" flag

static int print_kind(const LsProductKind *kind, char *text, size_t size)
{
    return snprintf(text, size, KIND_FORMAT("%llu", "%d"), (unsigned long long)kind->m,
        (unsigned long long)kind->n, (unsigned long long)kind->k, kind->transpose_a, kind->transpose_b,
        kind->input_type, kind->output_type, kind->accumulate, kind->bias, kind->activation,
        kind->pre_activation, kind->backward, kind->bias_gradient);
}

static bool scan_kind(const char *text, LsProductKind *kind, size_t *length)
{
    unsigned long long m, n, k;
    int used = 0;
    memset(kind, 0, sizeof *kind);
    if (sscanf(text, KIND_FORMAT("%20llu", "%1hhu") "%n", &m, &n, &k, &kind->transpose_a, &kind->transpose_b,
            &kind->input_type, &kind->output_type, &kind->accumulate, &kind->bias, &kind->activation,
            &kind->pre_activation, &kind->backward, &kind->bias_gradient, &used) != 13 ||
        used == 0)
        return false;
    kind->m = m;
    kind->n = n;
    kind->k = k;
    *length = (size_t)used;
    return m > 0 && n > 0 && k > 0 && kind->input_type <= LS_F16 && kind->output_type <= LS_F16 &&
           kind->activation <= LS_GELU && kind->backward <= LS_GELU;
}

// ---- Out ------------------------------------------------------------------------------------------------

static int print_entry(const LsProductEntry *entry, const char *tag, char line[LINE_SIZE])
{
    char kind[256];
    print_kind(&entry->kind, kind, sizeof kind);
    int used = snprintf(line, LINE_SIZE, "%s%s %s:", tag, kind, route_names[entry->route]);
    for (int i = 0; i < LS_ALGORITHM_WORDS; i++)
        used += snprintf(
            line + used, LINE_SIZE - (size_t)used, "%016llx", (unsigned long long)entry->algorithm.word[i]);
    return used + snprintf(line + used, LINE_SIZE - (size_t)used, "\n");
}

LsStatus ls_products_choices(const LsProducts *products, char **out)
{
    char tag[TAG_SIZE], line[LINE_SIZE], *text;
    size_t size = 1, used = 0;
    make_tag(products, tag);
    for (size_t i = 0; i < products->count; i++)
        size += (size_t)print_entry(products->entries[i], tag, line);
    LS_TRY(ls_memory_allocate(size, (void **)&text));
    for (size_t i = 0; i < products->count; i++) {
        size_t length = (size_t)print_entry(products->entries[i], tag, line);
        memcpy(text + used, line, length);
        used += length;
    }
    *out = text;
    return LS_OK;
}

// ---- In -------------------------------------------------------------------------------------------------

static bool scan_algorithm(const char *text, LsAlgorithm *algorithm)
{
    if (strspn(text, "0123456789abcdef") != ALGORITHM_DIGITS)
        return false;
    for (int i = 0; i < LS_ALGORITHM_WORDS; i++) {
        char digits[17] = "";
        memcpy(digits, text + 16 * i, 16);
        algorithm->word[i] = strtoull(digits, NULL, 16);
    }
    return text[ALGORITHM_DIGITS] == '\n' || text[ALGORITHM_DIGITS] == 0;
}

// What follows the tag in a line.
static bool scan_entry(const char *text, LsProductEntry *entry)
{
    size_t length;
    memset(entry, 0, sizeof *entry);
    if (!scan_kind(text, &entry->kind, &length) || text[length] != ' ')
        return false;
    text += length + 1;
    for (int route = 0; route < LS_ROUTES; route++) {
        size_t name = strlen(route_names[route]);
        entry->route = (LsRoute)route;
        if (strncmp(text, route_names[route], name) == 0 && text[name] == ':')
            return scan_algorithm(text + name + 1, &entry->algorithm);
    }
    return false;
}

static LsStatus take(LsProducts *products, const LsProductEntry *chosen)
{
    LsProductEntry *entry = ls_products_look_up(products, &chosen->kind);
    if (!entry)
        LS_TRY(ls_products_add(products, &chosen->kind, &entry));
    *entry = *chosen; // planned at its first use
    return LS_OK;
}

LsStatus ls_products_choose(LsProducts *products, const char *choices)
{
    char tag[TAG_SIZE];
    LS_TRY(ls_require_choices(choices));
    ls_products_forget(products);
    make_tag(products, tag);
    size_t length = strlen(tag), number = 1;
    for (const char *line = choices; *line; number++) {
        LsProductEntry chosen;
        const char *end = strchr(line, '\n');
        if (strncmp(line, tag, length) == 0) {
            if (!scan_entry(line + length, &chosen))
                return LS_FAIL(LS_BAD_DATA, "line %zu of the kept algorithms is damaged", number);
            LS_TRY(take(products, &chosen));
        }
        line = end ? end + 1 : line + strlen(line);
    }
    return LS_OK;
}
