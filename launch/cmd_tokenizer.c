// lockstep tokenizer train, encode, decode
#include "command.h"

#include <ctype.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "data/tokenizer.h"
#include "data/utf8.h"

static const char *const formats[] = {"lockstep", "gpt2", "huggingface", "tiktoken", NULL};

static LsStatus train(LsInvocation *invocation)
{
    const char *output = NULL;
    int64_t vocabulary = 0;
    int format = 0;
    const LsFlag flags[] = {
        {"output", 'o', LS_FLAG_TEXT, &output, "OUT", "File to write; for gpt2 and huggingface, a directory.",
            0, NULL},
        {"vocab", 0, LS_FLAG_COUNT, &vocabulary, "N",
            "Number of tokens: 256 bytes, merges, and <|endoftext|>.", 257, NULL},
        {"format", 0, LS_FLAG_CHOICE, &format, "FORMAT",
            "lockstep (default: one JSON file), gpt2 (encoder.json and vocab.bpe), huggingface (vocab.json "
            "and "
            "merges.txt), or tiktoken.",
            0, formats},
    };
    LS_TRY(ls_arguments_read(invocation, LS_FLAG_TABLE(flags), 1, -1));
    if (invocation->helped)
        return LS_OK;
    if (output == NULL || vocabulary == 0)
        return LS_FAIL(LS_USAGE, "%s is missing; see lockstep tokenizer train --help",
            output == NULL ? "-o OUT" : "--vocab N");
    LsTokenizer *tokenizer = NULL;
    LS_TRY(ls_tokenizer_train((const char *const *)invocation->inputs, (size_t)invocation->input_count,
        (size_t)vocabulary, &tokenizer));
    LsStatus status = ls_tokenizer_write(tokenizer, formats[format], output);
    size_t made = ls_tokenizer_vocabulary(tokenizer);
    ls_tokenizer_free(tokenizer);
    if (status == LS_OK)
        printf("%s: %zu tokens%s\n", output, made,
            made < (size_t)vocabulary ? "; no pair of tokens comes twice in the text any more" : "");
    return status;
}

// The whole of a file, or of the standard input when it is "-". The caller frees *text.
static LsStatus read_input(const char *path, char **text, size_t *size)
{
    if (strcmp(path, "-") != 0)
        return ls_file_read(path, SIZE_MAX / 2, text, size);
    size_t room = 0, used = 0;
    char *buffer = NULL;
    for (;;) {
        if (room - used < 2) {
            room = 2 * room + (1 << 16);
            char *larger = realloc(buffer, room);
            if (larger == NULL) {
                free(buffer);
                return LS_FAIL(LS_INTERNAL, "standard input: out of memory");
            }
            buffer = larger;
        }
        ssize_t got = read(STDIN_FILENO, buffer + used, room - used - 1);
        if (got < 0 && errno == EINTR)
            continue;
        if (got < 0) {
            free(buffer);
            return ls_file_fail("read", "standard input");
        }
        used += (size_t)got;
        if (got == 0)
            break;
    }
    buffer[used] = '\0';
    *text = buffer;
    *size = used;
    return LS_OK;
}

static LsStatus print_tokens(const LsTokenizer *tokenizer, const char *name, const char *text, size_t size)
{
    uint32_t *tokens = NULL;
    size_t count = 0;
    LS_TRY(ls_utf8_require(name, 0, text, size));
    LS_TRY(ls_tokenizer_encode(tokenizer, text, size, &tokens, &count));
    for (size_t i = 0; i < count; i++)
        printf("%u\n", tokens[i]);
    free(tokens);
    return LS_OK;
}

static LsStatus print_token(const LsTokenizer *tokenizer, unsigned long token)
{
    const char *bytes;
    size_t count;
    LS_TRY(ls_tokenizer_decode(tokenizer, token < UINT32_MAX ? (uint32_t)token : UINT32_MAX, &bytes, &count));
    fwrite(bytes, 1, count, stdout);
    return LS_OK;
}

static LsStatus print_text(const LsTokenizer *tokenizer, const char *name, const char *text, size_t size)
{
    size_t place = 0;
    for (;;) {
        while (place < size && isspace((unsigned char)text[place]))
            place++;
        if (place == size)
            return LS_OK;
        char *end = (char *)text + place;
        unsigned long token = isdigit((unsigned char)*end) ? strtoul(end, &end, 10) : 0;
        if (end == text + place || (*end != '\0' && !isspace((unsigned char)*end)))
            return LS_FAIL(LS_BAD_DATA,
                "%s: offset %zu: tokens are whole numbers with white space between them", name, place);
        LS_TRY(print_token(tokenizer, token));
        place = (size_t)(end - text);
    }
}

// `name` says where the text is from.
typedef LsStatus Print(const LsTokenizer *tokenizer, const char *name, const char *text, size_t size);

static LsStatus convert(LsInvocation *invocation, Print *print)
{
    const char *path = "bytes";
    const LsFlag flags[] = {
        {"tokenizer", 't', LS_FLAG_TEXT, &path, "T",
            "Tokenizer file (of Lockstep, GPT-2 or tiktoken), or bytes (default).", 0, NULL},
    };
    LS_TRY(ls_arguments_read(invocation, LS_FLAG_TABLE(flags), 0, 1));
    if (invocation->helped)
        return LS_OK;
    LsTokenizer *tokenizer = NULL;
    char *text = NULL;
    size_t size = 0;
    LS_TRY(strcmp(path, "bytes") == 0 ? ls_tokenizer_bytes(&tokenizer) : ls_tokenizer_open(path, &tokenizer));
    const char *input = invocation->input_count > 0 ? invocation->inputs[0] : "-";
    LsStatus status = read_input(input, &text, &size);
    if (status == LS_OK)
        status = print(tokenizer, strcmp(input, "-") == 0 ? "standard input" : input, text, size);
    free(text);
    ls_tokenizer_free(tokenizer);
    return status;
}

static LsStatus encode(LsInvocation *invocation)
{
    return convert(invocation, print_tokens);
}

static LsStatus decode(LsInvocation *invocation)
{
    return convert(invocation, print_text);
}

const LsCommand ls_command_tokenizer_train = {
    .name = "tokenizer train",
    .arguments = "FILE... -o OUT --vocab N [options]",
    .summary = "learns a vocabulary of byte pairs from text",
    .about = "Learns byte-level byte-pair encoding from UTF-8 files (directories: all files below). Lines "
             "that are\n"
             "<|endoftext|> alone stand between documents and are not learnt. The same text gives the same "
             "tokens.",
    .run = train,
};

const LsCommand ls_command_tokenizer_encode = {
    .name = "tokenizer encode",
    .arguments = "[--tokenizer T] [FILE]",
    .summary = "prints the tokens of a text, one a line",
    .about = "Prints the tokens of a UTF-8 file, or of the standard input, one a line.",
    .run = encode,
};

const LsCommand ls_command_tokenizer_decode = {
    .name = "tokenizer decode",
    .arguments = "[--tokenizer T] [FILE]",
    .summary = "prints the text that tokens stand for",
    .about = "Prints the text of tokens (numbers with white space between them) from a file or the standard "
             "input.",
    .run = decode,
};
