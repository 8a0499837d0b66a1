// What only token data sets have: windows, and a tokenizer.
#include "data/loader.h"
#include "data/tokenizer.h"
#include "dataset_format.h"

LsStatus ls_dataset_set_window(LsDataset *dataset, size_t window)
{
    LsDatasetInfo *info = &dataset->info;
    if (!ls_dataset_tokens(info))
        return LS_FAIL(LS_BAD_DATA,
            "%s holds samples with features, not tokens; make a token data set with 'lockstep data import "
            "text'",
            dataset->path);
    if (window == 0 || window > LS_ROW_BYTES_LIMIT / sizeof(int32_t))
        return LS_FAIL(LS_CONFIG, "%s: a window of %zu tokens is impossible", dataset->path, window);
    for (LsSplit split = LS_TRAIN; split < LS_SPLITS; split++)
        if (ls_dataset_has(info, split) && info->token_counts[split] <= window)
            return LS_FAIL(LS_BAD_DATA,
                "%s: the %s split has %zu tokens, and a window of %zu needs %zu; use a shorter window or "
                "more text",
                dataset->path, ls_split_name(split), info->token_counts[split], window, window + 1);
    info->window = window;
    for (LsSplit split = LS_TRAIN; split < LS_SPLITS; split++)
        if (ls_dataset_has(info, split))
            info->samples[split] = split == LS_TRAIN ? ls_stream_windows(info->token_counts[split], window)
                                                     : (info->token_counts[split] - 1) / window;
    return LS_OK;
}

LsStatus ls_dataset_tokenizer(const LsDataset *dataset, LsTokenizer **out)
{
    const json_t *json = json_object_get(dataset->schema, "tokenizer");
    if (!ls_dataset_tokens(&dataset->info) || json == NULL)
        return LS_FAIL(LS_BAD_DATA, "%s has no tokenizer; import its tokens with --tokenizer", dataset->path);
    LsTokenizer *tokenizer = NULL;
    LS_TRY(ls_tokenizer_parse(json, dataset->path, &tokenizer));
    if (ls_tokenizer_vocabulary(tokenizer) != dataset->info.vocabulary) {
        ls_tokenizer_free(tokenizer);
        return LS_FAIL(
            LS_BAD_DATA, "%s: the tokenizer has not the vocabulary of the data set", dataset->path);
    }
    *out = tokenizer;
    return LS_OK;
}
