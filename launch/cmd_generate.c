// lockstep generate
#include "command.h"

#include <stdlib.h>
#include <string.h>

#include "base/memory.h"
#include "data/tokenizer.h"
#include "data/utf8.h"
#include "inference.h"
#include "models/sample.h"

typedef struct GenerateArguments {
    const char *checkpoint, *prompt, *logits;
    int64_t most, top_k, seed;
    double temperature, top_p;
    LsTextList settings;
} GenerateArguments;

typedef struct Generator {
    LsInference inference;
    LsTokenizer *tokenizer;
    int32_t *tokens; // host: the text so far
    size_t count;
    size_t start;    // the window's first token
    size_t computed; // tokens of the window that the model has seen
    void *window;    // device: int32 [window], zeros behind the text
    LsSampling sampling;
    LsUtf8Stream printed;
    float *logits;        // host [vocabulary]
    LsCandidate *scratch; // host [vocabulary]
    LsFileWrite *record;  // of the logits; NULL: none
    uint64_t recorded;    // bytes
} Generator;

// ---- The model ------------------------------------------------------------------------------------------

static LsStatus copy_tokens(Generator *g, size_t place, const int32_t *from, size_t count)
{
    LsDevice *device = g->inference.device;
    return device->ops->copy_in(device, (int32_t *)g->window + place, from, count * sizeof *from);
}

// All of the window at once. The text need not fill it: what stands behind a token does not matter to it.
static LsStatus compute_window(Generator *g, const LsBatch *batch)
{
    LsModel *model = g->inference.model;
    size_t count = g->count - g->start;
    LS_TRY(copy_tokens(g, 0, g->tokens + g->start, count));
    LS_TRY(model->ops->forward(model, g->inference.weights, batch, false));
    g->computed = count;
    return LS_OK;
}

// The newest tokens on top of what earlier ones left in the model: their keys and values.
static LsStatus compute_newest(Generator *g, const LsBatch *batch)
{
    LsModel *model = g->inference.model;
    for (; g->computed < g->count - g->start; g->computed++) {
        LS_TRY(copy_tokens(g, g->computed, g->tokens + g->start + g->computed, 1));
        LS_TRY(model->ops->step(model, g->inference.weights, batch, g->computed));
    }
    return LS_OK;
}

// The logits of the next token. A text that has grown beyond the window goes on from its newer half.
static LsStatus compute_logits(Generator *g)
{
    LsModel *model = g->inference.model;
    size_t window = model->shape.window;
    LsBatch batch = {.rows = 1, .inputs = g->window};
    if (g->count - g->start > window) {
        g->start = g->count - (g->computed ? (window + 1) / 2 : window);
        g->computed = 0;
    }
    LS_TRY(g->computed ? compute_newest(g, &batch) : compute_window(g, &batch));
    return model->ops->next(model, 0, g->count - g->start - 1, g->logits);
}

// ---- The text -------------------------------------------------------------------------------------------

// What a token adds, at once: who reads sees the text grow, by whole characters.
static LsStatus print_token(Generator *g, uint32_t token)
{
    const char *bytes;
    size_t count;
    LS_TRY(ls_tokenizer_decode(g->tokenizer, token, &bytes, &count));
    if (!ls_utf8_write(&g->printed, bytes, count, stdout) || fflush(stdout) != 0)
        return ls_file_fail("write", "standard output");
    return LS_OK;
}

static LsStatus record_logits(Generator *g)
{
    size_t bytes = g->inference.shape.vocabulary * sizeof *g->logits;
    if (!g->record)
        return LS_OK;
    uint64_t place = g->recorded;
    g->recorded += bytes;
    return ls_file_write_at(g->record->fd, g->record->temporary, g->logits, bytes, place);
}

// `most` tokens, or up to the end of the text.
static LsStatus write_text(Generator *g, size_t most)
{
    size_t vocabulary = g->inference.shape.vocabulary;
    uint32_t token, end = ls_tokenizer_end_of_text(g->tokenizer);
    for (size_t n = 0; n < most; n++) {
        LS_TRY(compute_logits(g));
        LS_TRY(record_logits(g));
        LS_TRY(ls_sample(&g->sampling, g->logits, vocabulary, n, g->scratch, &token));
        if (token == end)
            break;
        LS_TRY(print_token(g, token));
        g->tokens[g->count++] = (int32_t)token;
    }
    ls_utf8_end(&g->printed, stdout);
    putchar('\n');
    return LS_OK;
}

// ---- Preparation ----------------------------------------------------------------------------------------

static LsStatus open_model(Generator *g, const GenerateArguments *a)
{
    LsInference *inference = &g->inference;
    LS_TRY(ls_inference_open(a->checkpoint, &a->settings, inference));
    if (inference->shape.window == 0)
        return LS_FAIL(
            LS_USAGE, "%s is no language model; lockstep predict is for the others", a->checkpoint);
    inference->rows = 1;
    inference->config.model.recompute = LS_RECOMPUTE_NONE; // steps need what every block keeps
    LS_TRY(ls_dataset_tokenizer(inference->described, &g->tokenizer));
    return ls_inference_load(inference, 0);
}

static LsStatus allocate(Generator *g, size_t tokens)
{
    LsDevice *device = g->inference.device;
    const LsDataShape *shape = &g->inference.shape;
    size_t bytes = shape->window * sizeof(int32_t), text;
    if (!ls_size_multiply(tokens, sizeof *g->tokens, &text))
        return LS_FAIL(LS_USAGE, "a text of %zu tokens is too long", tokens);
    LS_TRY(ls_memory_allocate(text, (void **)&g->tokens));
    LS_TRY(ls_memory_allocate(shape->vocabulary * sizeof *g->logits, (void **)&g->logits));
    LS_TRY(ls_memory_allocate(shape->vocabulary * sizeof *g->scratch, (void **)&g->scratch));
    LS_TRY(device->ops->allocate(device, bytes, &g->window));
    return device->ops->zero(device, g->window, bytes);
}

// A text without a prompt begins like a document: behind the end of another one.
static LsStatus read_prompt(Generator *g, const char *prompt, size_t most)
{
    uint32_t *tokens = NULL;
    size_t count = 0, room;
    LS_TRY(ls_utf8_require("--prompt", 0, prompt, strlen(prompt)));
    LS_TRY(ls_tokenizer_encode(g->tokenizer, prompt, strlen(prompt), &tokens, &count));
    LsStatus status = ls_size_add(count + 1, most, &room)
                          ? allocate(g, room)
                          : LS_FAIL(LS_USAGE, "a text of %zu more tokens is too long", most);
    for (size_t i = 0; status == LS_OK && i < count; i++)
        g->tokens[g->count++] = (int32_t)tokens[i];
    free(tokens);
    if (status == LS_OK && count == 0)
        g->tokens[g->count++] = (int32_t)ls_tokenizer_end_of_text(g->tokenizer);
    return status;
}

static LsStatus write_recorded(Generator *g, const GenerateArguments *a)
{
    LsFileWrite record;
    if (!a->logits)
        return write_text(g, (size_t)a->most);
    LS_TRY(ls_file_begin(a->logits, &record));
    g->record = &record;
    LsStatus status = ls_file_finish(&record, write_text(g, (size_t)a->most));
    g->record = NULL;
    return status;
}

static LsStatus generate(Generator *g, const GenerateArguments *a)
{
    const char *prompt = a->prompt ? a->prompt : "";
    LS_TRY(open_model(g, a));
    LS_TRY(read_prompt(g, prompt, (size_t)a->most));
    fputs(prompt, stdout);
    return write_recorded(g, a);
}

static LsStatus read_arguments(LsInvocation *invocation, GenerateArguments *a)
{
    const LsFlag flags[] = {
        {"checkpoint", 0, LS_FLAG_TEXT, &a->checkpoint, "DIR",
            "A checkpoint, or a run: then its newest checkpoint.", 0, NULL},
        {"prompt", 0, LS_FLAG_TEXT, &a->prompt, "TEXT", "What the text begins with (default: nothing).", 0,
            NULL},
        {"max-tokens", 0, LS_FLAG_COUNT, &a->most, "N",
            "Tokens to write, fewer where the text ends (default: 200).", 1, NULL},
        {"temperature", 0, LS_FLAG_REAL, &a->temperature, "T",
            "What logits are divided by: above 1 more daring, 0 always the likeliest token (default: 0.8).",
            0, NULL},
        {"top-k", 0, LS_FLAG_COUNT, &a->top_k, "N",
            "Chooses among the N likeliest tokens only; 0: among all (default).", 0, NULL},
        {"top-p", 0, LS_FLAG_REAL, &a->top_p, "P",
            "Chooses among the likeliest tokens that together have this probability (default: 1, all).", 0,
            NULL},
        {"seed", 0, LS_FLAG_COUNT, &a->seed, "N", "The same seed writes the same text (default: 1).", 0,
            NULL},
        {"logits", 0, LS_FLAG_TEXT, &a->logits, "FILE",
            "Also writes the logits that each token is chosen by: a row of float32, one for each token there "
            "is.",
            0, NULL},
        {"set", 0, LS_FLAG_LIST, &a->settings, "A.B=V",
            "Sets an option over the checkpoint's configuration; may be repeated.", 0, NULL},
    };
    LS_TRY(ls_arguments_read(invocation, LS_FLAG_TABLE(flags), 0, 0));
    if (!invocation->helped && !a->checkpoint)
        return LS_FAIL(LS_USAGE, "--checkpoint DIR is missing; see lockstep generate --help");
    if (!invocation->helped && a->top_p > 1)
        return LS_FAIL(LS_USAGE, "--top-p %g is no probability; it is at most 1", a->top_p);
    return LS_OK;
}

static void destroy(Generator *g)
{
    if (g->window)
        g->inference.device->ops->release(g->inference.device, g->window);
    free(g->scratch);
    free(g->logits);
    free(g->tokens);
    ls_tokenizer_free(g->tokenizer);
    ls_inference_close(&g->inference);
}

static LsStatus run(LsInvocation *invocation)
{
    GenerateArguments arguments = {.most = 200, .temperature = 0.8, .top_p = 1, .seed = 1};
    LS_TRY(read_arguments(invocation, &arguments));
    if (invocation->helped)
        return LS_OK;
    Generator g = {
        .sampling = {.temperature = arguments.temperature,
            .top_k = (size_t)arguments.top_k,
            .top_p = arguments.top_p,
            .seed = (uint64_t)arguments.seed},
    };
    LsStatus status = generate(&g, &arguments);
    destroy(&g);
    return status;
}

const LsCommand ls_command_generate = {
    .name = "generate",
    .arguments = "--checkpoint DIR [--prompt TEXT] [--max-tokens N]",
    .summary = "writes text with a trained language model",
    .about = "Continues a prompt, or begins a text, and prints it as it grows. The same checkpoint, prompt, "
             "options\n"
             "and seed give the same text on the same machine.",
    .run = run,
};
