#include "image_sources.h"

#include <ctype.h>
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <search.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/log.h"
#include "base/text.h"
#include "import_common.h"
#include "tar.h"

enum { DEPTH_MAX = 32, CLASS_FILE_MAX = 1 << 20, CLASS_NAME_MAX = 255 };

static LsStatus no_memory(void)
{
    return LS_FAIL(LS_INTERNAL, "data import: out of memory for the list of images");
}

static int compare_names(const void *a, const void *b)
{
    return strcmp(a, b);
}

// The one copy of a class's name, which is found in `place`.
static LsStatus keep_class(LsImageSources *sources, const char *place, const char *name, const char **out)
{
    char quote[LS_QUOTE_SIZE];
    if (name[0] == '\0' || strlen(name) > CLASS_NAME_MAX || !ls_text_valid(name))
        return LS_FAIL(LS_BAD_DATA, "%s: %s is no name for a class: it must be UTF-8 of 1 to %d bytes", place,
            ls_text_quote(quote, name), CLASS_NAME_MAX);
    void *found = tfind(name, &sources->names, compare_names);
    if (found == NULL) {
        char *copy = strdup(name);
        found = copy == NULL ? NULL : tsearch(copy, &sources->names, compare_names);
        if (found == NULL) {
            free(copy);
            return no_memory();
        }
    }
    *out = *(char *const *)found;
    return LS_OK;
}

// Takes `name`, also on failure.
static LsStatus add(LsImageSources *sources, LsImageSource source)
{
    if (sources->count == sources->capacity) {
        size_t capacity = sources->capacity ? 2 * sources->capacity : 1024;
        LsImageSource *grown = realloc(sources->source, capacity * sizeof *grown);
        if (grown == NULL) {
            free(source.name);
            return no_memory();
        }
        sources->source = grown;
        sources->capacity = capacity;
    }
    sources->divided = sources->divided || source.split != LS_TRAIN;
    sources->source[sources->count++] = source;
    return LS_OK;
}

static bool is_image(const char *extension)
{
    return strcasecmp(extension, "jpg") == 0 || strcasecmp(extension, "jpeg") == 0 ||
           strcasecmp(extension, "png") == 0;
}

// ---- Directories ----------------------------------------------------------------------------------------

static int visible(const struct dirent *entry)
{
    return entry->d_name[0] != '.';
}

static int by_bytes(const struct dirent **a, const struct dirent **b)
{
    return strcmp((*a)->d_name, (*b)->d_name);
}

static void free_entries(struct dirent **entries, int count)
{
    for (int i = 0; i < count; i++)
        free(entries[i]);
    free(entries);
}

// What is being listed.
typedef struct Place {
    LsImageSources *sources;
    size_t input;
    LsSplit split;
    const char *class_; // NULL: in none
} Place;

static LsStatus list_files(const Place *place, const char *directory, int depth);

static LsStatus add_file(const Place *place, const char *path, bool dangling)
{
    char *copy = strdup(path);
    if (copy == NULL)
        return no_memory();
    return add(place->sources, (LsImageSource){.name = copy,
                                   .file = copy,
                                   .size = UINT64_MAX,
                                   .dangling = dangling,
                                   .class_ = place->class_,
                                   .split = place->split,
                                   .input = place->input});
}

static LsStatus list_entry(const Place *place, const char *directory, const char *name, int depth)
{
    char path[LS_PATH_MAX];
    struct stat information;
    LS_TRY(ls_path_join(path, directory, name));
    if (lstat(path, &information) != 0)
        return ls_file_fail("examine", path);
    if (S_ISDIR(information.st_mode))
        return list_files(place, path, depth + 1);
    const char *dot = strrchr(name, '.');
    bool image = dot != NULL && is_image(dot + 1);
    // A link to a file is one; a link to a directory could lead around for ever.
    if (image && S_ISLNK(information.st_mode) && stat(path, &information) != 0) {
        if (errno != ENOENT && errno != ENOTDIR && errno != ELOOP)
            return ls_file_fail("examine", path);
        return add_file(place, path, true);
    }
    if (!image || !S_ISREG(information.st_mode)) {
        place->sources->ignored++;
        return LS_OK;
    }
    return add_file(place, path, false);
}

static LsStatus list_files(const Place *place, const char *directory, int depth)
{
    struct dirent **entries = NULL;
    if (depth > DEPTH_MAX)
        return LS_FAIL(
            LS_BAD_DATA, "%s: more than %d directories lie within each other", directory, DEPTH_MAX);
    int count = scandir(directory, &entries, visible, by_bytes);
    if (count < 0)
        return ls_file_fail("list", directory);
    LsStatus status = LS_OK;
    for (int i = 0; status == LS_OK && i < count; i++)
        status = list_entry(place, directory, entries[i]->d_name, depth);
    free_entries(entries, count);
    return status;
}

// Each directory in it is a class.
static LsStatus list_classes(Place place, const char *directory)
{
    struct dirent **entries = NULL;
    char path[LS_PATH_MAX];
    int count = scandir(directory, &entries, visible, by_bytes);
    if (count < 0)
        return ls_file_fail("list", directory);
    LsStatus status = LS_OK;
    for (int i = 0; status == LS_OK && i < count; i++) {
        status = ls_path_join(path, directory, entries[i]->d_name);
        if (status == LS_OK && !ls_directory_exists(path)) {
            place.sources->ignored++;
            continue;
        }
        if (status == LS_OK)
            status = keep_class(place.sources, directory, entries[i]->d_name, &place.class_);
        if (status == LS_OK)
            status = list_files(&place, path, 0);
    }
    free_entries(entries, count);
    return status;
}

// Whether a word means a split.
static bool split_of_word(const char *word, size_t length, LsSplit *split)
{
    static const struct {
        const char *name;
        LsSplit split;
    } names[] = {{"train", LS_TRAIN}, {"val", LS_VALIDATION}, {"valid", LS_VALIDATION},
        {"validation", LS_VALIDATION}, {"test", LS_TEST}};
    for (size_t i = 0; i < sizeof names / sizeof *names; i++)
        if (strlen(names[i].name) == length && strncasecmp(names[i].name, word, length) == 0) {
            *split = names[i].split;
            return true;
        }
    return false;
}

static bool split_of_directory(const char *name, LsSplit *split)
{
    return split_of_word(name, strlen(name), split);
}

// How the directories in one are called.
typedef struct Division {
    bool train;        // one is the training split
    const char *held;  // one that is another split; NULL: none
    const char *other; // one that is none; NULL: none
} Division;

static LsStatus find_division(
    const char *directory, struct dirent *const *entries, int count, Division *division)
{
    char path[LS_PATH_MAX];
    LsSplit split;
    for (int i = 0; i < count; i++) {
        const char *name = entries[i]->d_name;
        LS_TRY(ls_path_join(path, directory, name));
        if (!ls_directory_exists(path))
            continue;
        if (!split_of_directory(name, &split))
            division->other = name;
        else if (split == LS_TRAIN)
            division->train = true;
        else
            division->held = name;
    }
    return LS_OK;
}

static LsStatus list_splits(Place place, const char *directory, struct dirent *const *entries, int count)
{
    char path[LS_PATH_MAX];
    for (int i = 0; i < count; i++) {
        LS_TRY(ls_path_join(path, directory, entries[i]->d_name));
        if (split_of_directory(entries[i]->d_name, &place.split) && ls_directory_exists(path))
            LS_TRY(list_classes(place, path));
        else
            place.sources->ignored++;
    }
    return LS_OK;
}

// Splits when there is "train" and no directory that is none. Else classes, of which one may be called
// "train".
static LsStatus list_directory(LsImageSources *sources, size_t input, const char *directory)
{
    struct dirent **entries = NULL;
    Division division = {0};
    Place place = {.sources = sources, .input = input};
    char quote[LS_QUOTE_SIZE];
    int count = scandir(directory, &entries, visible, by_bytes);
    if (count < 0)
        return ls_file_fail("list", directory);
    LsStatus status = find_division(directory, entries, count, &division);
    bool splits = division.train && division.other == NULL;
    if (status == LS_OK && division.train && division.held != NULL && !splits)
        status = LS_FAIL(LS_BAD_DATA,
            "%s: beside the splits train and %s lies the directory %s, which is none; move it away",
            directory, division.held, ls_text_quote(quote, division.other));
    else if (status == LS_OK)
        status = splits ? list_splits(place, directory, entries, count) : list_classes(place, directory);
    if (status == LS_OK && !splits && (division.train || division.held))
        ls_warn("%s: %s is taken for a class, as every directory in it", directory,
            division.train ? "train" : division.held);
    free_entries(entries, count);
    return status;
}

// ---- Tar shards -----------------------------------------------------------------------------------------

// Members that follow each other with one key are a sample.
typedef struct Sample {
    char key[LS_PATH_MAX];
    char name[LS_PATH_MAX]; // of the image; "": none yet
    uint64_t offset, size;  // of the image
    char class_[CLASS_NAME_MAX + 1];
} Sample;

// Words are runs of letters: the first that means a split, as in "imagenet-val-0042.tar".
static LsSplit split_of_shard(const char *path)
{
    LsSplit split = LS_TRAIN;
    const char *base = ls_import_base_name(path);
    for (const char *word = base; *word != '\0';) {
        size_t length = 0;
        while (isalpha((unsigned char)word[length]))
            length++;
        if (split_of_word(word, length, &split))
            return split;
        word += length > 0 ? length : 1;
    }
    if (strcasestr(base, "val") != NULL || strcasestr(base, "test") != NULL)
        ls_warn("%s is a shard for training: neither val nor test is a word of its own in its name", path);
    return split;
}

static LsStatus end_sample(const Place *place, const char *path, const Sample *sample)
{
    const char *class_ = NULL;
    char quote[LS_QUOTE_SIZE], *name = NULL;
    if (sample->name[0] == '\0')
        return LS_OK; // something else than an image
    if (sample->class_[0] == '\0')
        return LS_FAIL(LS_BAD_DATA,
            "%s: %s has no class: there is neither a .cls nor a .json with a label beside it", path,
            ls_text_quote(quote, sample->name));
    LS_TRY(keep_class(place->sources, path, sample->class_, &class_));
    if (asprintf(&name, "%s:%s", path, ls_text_quote(quote, sample->name)) < 0)
        return no_memory();
    return add(place->sources, (LsImageSource){.name = name,
                                   .file = path,
                                   .offset = sample->offset,
                                   .size = sample->size,
                                   .class_ = class_,
                                   .split = place->split,
                                   .input = place->input});
}

// The text without the white space around it, or a JSON object's "label", a text or a whole number.
static bool parse_class(char *text, size_t size, bool json, char class_[CLASS_NAME_MAX + 1])
{
    static const char spaces[] = " \t\r\n";
    json_t *object = NULL;
    const char *found = text;
    char number[32] = "";
    if (json) {
        object = json_loadb(text, size, JSON_REJECT_DUPLICATES, NULL);
        const json_t *label = json_object_get(object, "label");
        found = json_string_value(label);
        if (json_is_integer(label)) {
            snprintf(number, sizeof number, "%lld", (long long)json_integer_value(label));
            found = number;
        }
    } else if (strlen(text) != size) {
        found = NULL;
    }
    size_t length = 0;
    if (found != NULL) {
        found += strspn(found, spaces);
        length = strlen(found);
        while (length > 0 && strchr(spaces, found[length - 1]) != NULL)
            length--;
    }
    bool good = length > 0 && length <= CLASS_NAME_MAX;
    if (good)
        snprintf(class_, CLASS_NAME_MAX + 1, "%.*s", (int)length, found);
    json_decref(object);
    return good;
}

static LsStatus read_class(const LsTar *tar, const LsTarMember *member, bool json, Sample *sample)
{
    char quote[LS_QUOTE_SIZE], *text = NULL;
    LsStatus status = LS_OK;
    bool good = member->size <= CLASS_FILE_MAX;
    if (good) {
        text = calloc(1, member->size + 1);
        if (text == NULL)
            return no_memory();
        status = ls_file_read_at(tar->fd, tar->path, text, member->size, member->offset);
        good = status == LS_OK && parse_class(text, member->size, json, sample->class_);
        free(text);
    }
    LS_TRY(status);
    // A .json without a label may be about something else; a .cls is nothing but one.
    if (good || json)
        return LS_OK;
    return LS_FAIL(
        LS_BAD_DATA, "%s: %s holds no class's name or number", tar->path, ls_text_quote(quote, member->name));
}

static LsStatus take_member(const Place *place, const LsTar *tar, const LsTarMember *member, Sample *sample)
{
    const char *dot = strchr(ls_import_base_name(member->name), '.');
    if (dot == NULL || dot == ls_import_base_name(member->name)) {
        place->sources->ignored++;
        return LS_OK;
    }
    size_t length = (size_t)(dot - member->name);
    if (strlen(sample->key) != length || memcmp(sample->key, member->name, length) != 0) {
        LS_TRY(end_sample(place, tar->path, sample));
        sample->name[0] = sample->class_[0] = '\0';
        snprintf(sample->key, sizeof sample->key, "%.*s", (int)length, member->name);
    }
    if (is_image(dot + 1)) {
        strcpy(sample->name, member->name);
        sample->offset = member->offset;
        sample->size = member->size;
        return LS_OK;
    }
    bool json = strcasecmp(dot, ".json") == 0;
    if (strcasecmp(dot, ".cls") == 0 || (json && sample->class_[0] == '\0'))
        return read_class(tar, member, json, sample);
    place->sources->ignored += !json;
    return LS_OK;
}

static LsStatus list_shard(LsImageSources *sources, size_t input, const char *path)
{
    struct stat information;
    int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
    if (fd < 0)
        return ls_file_fail("open", path);
    LsTar tar = {.path = path, .fd = fd};
    Place place = {.sources = sources, .input = input, .split = split_of_shard(path)};
    LsTarMember *member = malloc(sizeof *member);
    Sample *sample = calloc(1, sizeof *sample);
    bool end = false;
    LsStatus status = member == NULL || sample == NULL ? no_memory() : LS_OK;
    if (status == LS_OK && fstat(fd, &information) != 0)
        status = ls_file_fail("examine", path);
    else if (status == LS_OK && !S_ISREG(information.st_mode))
        status = LS_FAIL(LS_BAD_DATA, "%s is neither a directory nor a regular file", path);
    else if (status == LS_OK)
        tar.size = (uint64_t)information.st_size;
    while (status == LS_OK && !end) {
        status = ls_tar_next(&tar, member, &end);
        if (status == LS_OK)
            status = end ? end_sample(&place, path, sample) : take_member(&place, &tar, member, sample);
    }
    free(sample);
    free(member);
    close(fd);
    return status;
}

// ---- All inputs -----------------------------------------------------------------------------------------

LsStatus ls_image_sources_list(const char *const *inputs, size_t count, LsImageSources *out)
{
    LsImageSources sources = {0};
    LsStatus status = LS_OK;
    for (size_t i = 0; status == LS_OK && i < count; i++)
        status = ls_directory_exists(inputs[i]) ? list_directory(&sources, i, inputs[i])
                                                : list_shard(&sources, i, inputs[i]);
    if (status == LS_OK && sources.count == 0)
        status = LS_FAIL(LS_BAD_DATA,
            "%s: there are no images in it: directories of classes with .jpg, .jpeg or .png files, or tar "
            "shards",
            inputs[0]);
    if (status != LS_OK) {
        ls_image_sources_free(&sources);
        return status;
    }
    *out = sources;
    return LS_OK;
}

LsStatus ls_image_sources_find(const char *path, LsImageSources *out)
{
    LsImageSources sources = {0};
    const Place place = {.sources = &sources};
    LsStatus status = ls_directory_exists(path) ? list_files(&place, path, 0) : add_file(&place, path, false);
    if (status == LS_OK && sources.count == 0)
        status = LS_FAIL(LS_BAD_DATA, "%s: there are no .jpg, .jpeg or .png files in it", path);
    if (status != LS_OK) {
        ls_image_sources_free(&sources);
        return status;
    }
    *out = sources;
    return LS_OK;
}

void ls_image_sources_free(LsImageSources *sources)
{
    for (size_t i = 0; i < sources->count; i++)
        free(sources->source[i].name);
    free(sources->source);
    tdestroy(sources->names, free);
    *sources = (LsImageSources){0};
}
