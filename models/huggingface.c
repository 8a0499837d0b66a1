#include "models/huggingface.h"

#include <stdio.h>
#include <string.h>

// Parts of a block, and how its linear layers and normalisations are called.
static const struct {
    const char *ours, *theirs;
    bool linear;
} parts[] = {
    {"ln1", "ln_1", false},
    {"ln2", "ln_2", false},
    {"attention.qkv", "attn.c_attn", true},
    {"attention.projection", "attn.c_proj", true},
    {"mlp.up", "mlp.c_fc", true},
    {"mlp.down", "mlp.c_proj", true},
};

// "blocks.7.mlp.up.weight" → "h.7.mlp.c_fc.weight"; false for anything else.
static bool translate_block(const char *ours, char theirs[LS_NAME_MAX], bool *transposed)
{
    unsigned block;
    int digits = 0;
    if (sscanf(ours, "blocks.%u.%n", &block, &digits) != 1 || digits == 0)
        return false;
    const char *rest = ours + digits, *kind = strrchr(rest, '.');
    for (size_t i = 0; kind && i < sizeof parts / sizeof parts[0]; i++) {
        size_t length = strlen(parts[i].ours);
        if ((size_t)(kind - rest) != length || strncmp(rest, parts[i].ours, length) != 0)
            continue;
        snprintf(theirs, LS_NAME_MAX, "h.%u.%s%s", block, parts[i].theirs, kind);
        *transposed = parts[i].linear && strcmp(kind, ".weight") == 0;
        return true;
    }
    return false;
}

void ls_huggingface_name(const char *ours, char theirs[LS_NAME_MAX], bool *transposed)
{
    bool embedding = strcmp(ours, "wte") == 0 || strcmp(ours, "wpe") == 0;
    *transposed = false;
    if (!translate_block(ours, theirs, transposed))
        snprintf(theirs, LS_NAME_MAX, "%s%s", ours, embedding ? ".weight" : "");
}

bool ls_huggingface_constant(const char *theirs)
{
    static const char count[] = ".num_batches_tracked";
    size_t length = strlen(theirs), end = sizeof count - 1;
    if (length > end && strcmp(theirs + length - end, count) == 0)
        return true;
    int digits = 0; // up to which the block's number goes, whatever it is
    if (sscanf(theirs, "h.%*u.attn.%n", &digits) != 0 || digits == 0)
        return false;
    return strcmp(theirs + digits, "bias") == 0 || strcmp(theirs + digits, "masked_bias") == 0;
}
