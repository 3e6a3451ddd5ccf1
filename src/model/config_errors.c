/* The list of mistakes of one load. */
#include "build_config.h"

#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

#include "model/config_internal.h"

/* Beyond this a file isn't a configuration; the rest helps nobody. */
enum { ERRORS_MAX = 200, TEXT_MAX = 600 };

struct entry {
    struct config_position position;
    size_t order;
    char *text;
};

struct list {
    struct entry *entries;
    size_t count;
};

struct config_errors {
    struct list mistakes;
    struct list warnings;
    char **files;
    uint32_t file_count;
    size_t lost; /* mistakes that found no place */
};

struct config_errors *config_errors_create(void)
{
    return calloc(1, sizeof(struct config_errors));
}

static void list_clear(struct list *list)
{
    for (size_t i = 0; i < list->count; i++)
        free(list->entries[i].text);
    free(list->entries);
}

void config_errors_destroy(struct config_errors *errors)
{
    if (errors == NULL)
        return;
    list_clear(&errors->mistakes);
    list_clear(&errors->warnings);
    for (uint32_t i = 0; i < errors->file_count; i++)
        free(errors->files[i]);
    free(errors->files);
    free(errors);
}

uint32_t config_errors_file(struct config_errors *errors, const char *name)
{
    char **files = realloc(errors->files, (errors->file_count + 1) * sizeof(*files));
    if (files == NULL)
        return UINT32_MAX;
    errors->files = files;
    files[errors->file_count] = strdup(name);
    if (files[errors->file_count] == NULL)
        return UINT32_MAX;
    return errors->file_count++;
}

const char *config_errors_file_name(const struct config_errors *errors, uint32_t file)
{
    return file < errors->file_count ? errors->files[file] : "configuration";
}

/* A caller's bytes may be anything: what a terminal or journal could take for more than text is
 * shown as "?". */
static void make_printable(char *text)
{
    for (; *text != '\0'; text++)
        if ((unsigned char)*text < 0x20 || (unsigned char)*text == 0x7f)
            *text = '?';
}

static bool list_add(struct config_errors *errors, struct list *list,
                     struct config_position position, const char *kind, const char *format,
                     va_list arguments)
{
    if (list->count >= ERRORS_MAX)
        return false;
    struct entry *entries = realloc(list->entries, (list->count + 1) * sizeof(*entries));
    if (entries == NULL)
        return false;
    list->entries = entries;
    char message[TEXT_MAX];
    vsnprintf(message, sizeof(message), format, arguments);
    const char *file = config_errors_file_name(errors, position.file);
    char *text = NULL;
    int length = position.line > 0
                     ? asprintf(&text, "%s:%u: %s%s", file, position.line, kind, message)
                     : asprintf(&text, "%s: %s%s", file, kind, message);
    if (length < 0)
        return false;
    make_printable(text);
    list->entries[list->count] =
        (struct entry){.position = position, .order = list->count, .text = text};
    list->count++;
    return true;
}

void config_error(struct config_errors *errors, struct config_position position, const char *format,
                  ...)
{
    va_list arguments;
    va_start(arguments, format);
    if (!list_add(errors, &errors->mistakes, position, "", format, arguments))
        errors->lost++;
    va_end(arguments);
}

void config_warning(struct config_errors *errors, struct config_position position,
                    const char *format, ...)
{
    va_list arguments;
    va_start(arguments, format);
    (void)list_add(errors, &errors->warnings, position, "warning: ", format, arguments);
    va_end(arguments);
}

static int compare_entries(const void *left, const void *right)
{
    const struct entry *a = left;
    const struct entry *b = right;
    if (a->position.file != b->position.file)
        return a->position.file < b->position.file ? -1 : 1;
    if (a->position.line != b->position.line)
        return a->position.line < b->position.line ? -1 : 1;
    return a->order < b->order ? -1 : a->order > b->order;
}

void config_errors_sort(struct config_errors *errors)
{
    if (errors->mistakes.count > 1)
        qsort(errors->mistakes.entries, errors->mistakes.count, sizeof(struct entry),
              compare_entries);
    if (errors->warnings.count > 1)
        qsort(errors->warnings.entries, errors->warnings.count, sizeof(struct entry),
              compare_entries);
}

size_t config_errors_count(const struct config_errors *errors)
{
    return errors->mistakes.count + errors->lost;
}

const char *config_errors_text(const struct config_errors *errors, size_t index)
{
    if (index < errors->mistakes.count)
        return errors->mistakes.entries[index].text;
    return errors->mistakes.count == 0 ? "out of memory" : "and more mistakes that are not listed";
}

size_t config_warnings_count(const struct config_errors *errors)
{
    return errors->warnings.count;
}

const char *config_warnings_text(const struct config_errors *errors, size_t index)
{
    return index < errors->warnings.count ? errors->warnings.entries[index].text : "";
}

void config_errors_print(const struct config_errors *errors, FILE *stream)
{
    for (size_t i = 0; i < errors->mistakes.count; i++)
        fprintf(stream, "%s\n", errors->mistakes.entries[i].text);
    if (errors->lost > 0)
        fprintf(stream, "%s\n", config_errors_text(errors, errors->mistakes.count));
    for (size_t i = 0; i < errors->warnings.count; i++)
        fprintf(stream, "%s\n", errors->warnings.entries[i].text);
}
