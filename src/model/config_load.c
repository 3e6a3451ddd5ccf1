/* Files, includes and sections: libconfuse parses, the table of options says what it means. */
#include "build_config.h"

#include <confuse.h>
#include <errno.h>
#include <fcntl.h>
#include <glob.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "model/config_internal.h"
#include "model/key.h"

enum { FILE_BYTES_MAX = 256 * 1024 * 1024, FILES_MAX = 1000, READ_BYTES = 64 * 1024 };

/* libconfuse's lexer lives in globals and its callbacks get no argument, so one load at a time, and
 * this is it. */
static pthread_mutex_t load_lock = PTHREAD_MUTEX_INITIALIZER;
static struct config_loader *current;

/* The arrays that libconfuse wants: the table in its form, one more entry as the end. */
struct grammar {
    cfg_opt_t options[CONFIG_SECTIONS][CONFIG_OPTIONS_MAX];
};

/* ---- sections -------------------------------------------------------------------------------- */

static bool is_set(const cfg_opt_t *option)
{
    /* An empty list has no value but was written. */
    return option->nvalues > 0 || (option->flags & CFGF_MODIFIED) != 0;
}

/* Sets one option from what libconfuse collected. */
static void read_option(struct config_loader *loader, enum config_section_name section,
                        const struct config_option *option, const cfg_opt_t *parsed, void *target,
                        struct config_position position)
{
    const struct config_value **values = calloc(parsed->nvalues + 1, sizeof(*values));
    if (values == NULL) {
        loader->out_of_memory = true;
        return;
    }
    size_t count = 0;
    for (unsigned i = 0; i < parsed->nvalues; i++)
        if (parsed->values[i]->ptr != NULL)
            values[count++] = parsed->values[i]->ptr;
    if (count > 0)
        position = values[0]->position;
    if (config_option_set(loader, option, target, values, count, position))
        config_option_warn(loader, section, option, target, position);
    free(values);
}

/* Sets the options of one section that were written; a bit for each in the result. Our options
 * stand first in libconfuse's array, in the order of the table. */
static uint32_t read_options(struct config_loader *loader, enum config_section_name section,
                             const cfg_t *parsed, void *target, struct config_position position)
{
    const struct config_section *description = &config_sections[section];
    uint32_t set = 0;
    for (size_t i = 0; i < description->option_count; i++) {
        if (!is_set(&parsed->opts[i]))
            continue;
        set |= UINT32_C(1) << i;
        if (parsed->opts[i].nvalues == 0 && loader->incomplete)
            continue; /* libconfuse stopped at it */
        struct config_position seen = loader->seen[section].options[i];
        read_option(loader, section, &description->options[i], &parsed->opts[i], target,
                    seen.line > 0 ? seen : position);
    }
    for (size_t i = 0; description->repeated && i < description->option_count; i++) {
        const struct config_option *option = &description->options[i];
        bool needed = option->minimum > 0 && option->fallback == NULL && !option->later &&
                      !config_kind_is_list(option->kind) && option->kind != CONFIG_KIND_DURATION &&
                      option->kind != CONFIG_KIND_SIZE;
        if (needed && (set & UINT32_C(1) << i) == 0)
            config_error(loader->errors, position, "%s%s%s%s has no %s, expected %s = \"...\"",
                         description->name, parsed->title != NULL ? " \"" : "",
                         parsed->title != NULL ? parsed->title : "",
                         parsed->title != NULL ? "\"" : "", option->name, option->name);
    }
    return set;
}

static void *once_target(struct config_loader *loader, enum config_section_name section)
{
    if (section == CONFIG_SECTION_ROOT)
        return &loader->root;
    if (section == CONFIG_SECTION_UPSTREAM)
        return &loader->upstream;
    return (char *)loader->config + config_sections[section].offset;
}

static bool read_title(struct config_loader *loader, const cfg_t *parsed,
                       bool (*is_good)(struct view), const char *expected,
                       struct config_position position, struct view *name)
{
    struct view title = view_of_string(parsed->title);
    *name = VIEW("");
    if (!is_good(title)) {
        config_error(loader->errors, position, "%s \"%.100s\": expected %s", parsed->name,
                     parsed->title != NULL ? parsed->title : "", expected);
        return false;
    }
    if (config_copy(loader->config, title, name))
        return true;
    loader->out_of_memory = true;
    return false;
}

static bool is_endpoint_title(struct view title)
{
    return view_equal(title, VIEW("*")) || config_is_endpoint(title);
}

static void read_team(struct config_loader *loader, const cfg_t *parsed,
                      struct config_position position, size_t place)
{
    struct config_team *team = &loader->config->private->teams[place];
    *team = loader->defaults[CONFIG_SECTION_TEAM].team;
    team->index = (uint32_t)place;
    (void)read_options(loader, CONFIG_SECTION_TEAM, parsed, team, position);
    (void)read_title(loader, parsed, config_team_name_valid,
                     "a name of at most 64 letters, digits and _.-", position, &team->name);
}

static void read_key(struct config_loader *loader, const cfg_t *parsed,
                     struct config_position position, size_t place)
{
    struct config_key_options options = loader->key_defaults;
    struct config_key *key = &loader->config->private->keys[place];
    *key = (struct config_key){.index = (uint32_t)place};
    (void)read_options(loader, CONFIG_SECTION_KEY, parsed, &options, position);
    (void)read_title(loader, parsed, key_id_valid,
                     "an id of at most 32 small letters, digits and -", position, &key->id);
    config_finish_key(loader, &options, position, key);
    /* Its team is the one that is open: teams don't nest. */
    loader->key_teams[place] = (uint32_t)loader->opened[CONFIG_SECTION_TEAM].read;
}

static void read_endpoint(struct config_loader *loader, const cfg_t *parsed,
                          struct config_position position, size_t place)
{
    struct config_endpoint *endpoint = &loader->config->private->endpoints[place];
    *endpoint = loader->defaults[CONFIG_SECTION_ENDPOINT].endpoint;
    loader->endpoint_set[place] =
        read_options(loader, CONFIG_SECTION_ENDPOINT, parsed, endpoint, position);
    (void)read_title(loader, parsed, is_endpoint_title, "an endpoint's id, or \"*\" for all",
                     position, &endpoint->name);
}

static void read_section(struct config_loader *loader, enum config_section_name section,
                         const cfg_t *parsed)
{
    if (!config_sections[section].repeated) {
        (void)read_options(loader, section, parsed, once_target(loader, section),
                           loader->section_at[section]);
        return;
    }
    struct config_opened *opened = &loader->opened[section];
    if (opened->read >= opened->room || opened->read >= opened->count)
        return; /* the scan saw fewer; never, but no reason to write beyond */
    struct config_position position = opened->items[opened->read];
    if (section == CONFIG_SECTION_TEAM)
        read_team(loader, parsed, position, opened->read);
    else if (section == CONFIG_SECTION_KEY)
        read_key(loader, parsed, position, opened->read);
    else if (section == CONFIG_SECTION_ENDPOINT)
        read_endpoint(loader, parsed, position, opened->read);
    else
        (void)read_options(loader, section, parsed, &loader->config->private->tls[opened->read],
                           position);
    opened->read++;
}

/* ---- libconfuse's callbacks ------------------------------------------------------------------ */

static int on_value(cfg_t *parsed, cfg_opt_t *option, const char *text, void *result)
{
    (void)option;
    size_t length = strlen(text);
    struct config_value *value = malloc(sizeof(*value) + length + 1);
    if (value == NULL) {
        current->out_of_memory = true;
        return -1;
    }
    value->position =
        (struct config_position){.file = current->position.file, .line = (uint32_t)parsed->line};
    value->length = length;
    memcpy(value->text, text, length + 1);
    *(void **)result = value;
    return 0;
}

/* A section has ended. It is read and thrown away at once: libconfuse compares each title with all
 * before it, which takes minutes for 100,000 keys. */
static int on_section(cfg_t *outer, cfg_opt_t *option)
{
    enum config_section_name parent =
        strcmp(outer->name, config_sections[CONFIG_SECTION_TEAM].name) == 0 ? CONFIG_SECTION_TEAM
                                                                            : CONFIG_SECTION_ROOT;
    int section = config_section_find(parent, option->name);
    if (section >= 0 && option->nvalues > 0) {
        unsigned last = option->nvalues - 1;
        read_section(current, (enum config_section_name)section, option->values[last]->section);
        (void)cfg_opt_rmnsec(option, last);
    }
    return current->out_of_memory ? -1 : 0;
}

static struct config_include *include_create(struct config_position position, const char *path)
{
    struct config_include *include = calloc(1, sizeof(*include));
    if (include == NULL)
        return NULL;
    include->position = position;
    include->path = strdup(path);
    if (include->path == NULL) {
        free(include);
        return NULL;
    }
    return include;
}

static void includes_append(struct config_include **list, struct config_include *include)
{
    while (*list != NULL)
        list = &(*list)->next;
    include->next = NULL;
    *list = include;
}

/* Relative names start from the directory of the file that includes them. */
static char *include_pattern(struct config_loader *loader, const char *name)
{
    const char *from = config_errors_file_name(loader->errors, loader->position.file);
    const char *slash = strrchr(from, '/');
    char *pattern = NULL;
    int length = *name == '/' || slash == NULL
                     ? asprintf(&pattern, "%s", name)
                     : asprintf(&pattern, "%.*s/%s", (int)(slash - from), from, name);
    return length < 0 ? NULL : pattern;
}

/* include("FILE or pattern"): taken up here, read after this file. libconfuse's own include would
 * continue in the middle of this file's sections, and frees a name twice when a section doesn't end
 * in the file that began it. */
static int on_include(cfg_t *parsed, cfg_opt_t *option, int count, const char **arguments)
{
    (void)option;
    struct config_loader *loader = current;
    struct config_position position = {.file = loader->position.file,
                                       .line = (uint32_t)parsed->line};
    if (count != 1 || *arguments[0] == '\0') {
        config_error(loader->errors, position, "expected include(\"FILE\"), with one name");
        return 0;
    }
    if (!loader->check_files)
        return 0;
    char *pattern = include_pattern(loader, arguments[0]);
    glob_t found = {0};
    int result = pattern == NULL ? GLOB_NOSPACE : glob(pattern, GLOB_ERR, NULL, &found);
    /* A pattern may find nothing (an empty conf.d); a name must be there. */
    bool is_pattern = strpbrk(arguments[0], "*?[") != NULL;
    if (result == GLOB_NOSPACE)
        loader->out_of_memory = true;
    else if (result == GLOB_ABORTED || (result == GLOB_NOMATCH && !is_pattern))
        config_error(loader->errors, position,
                     "include \"%.200s\": %s, expected a file that can be "
                     "read",
                     arguments[0], result == GLOB_NOMATCH ? "not found" : strerror(errno));
    for (size_t i = 0; result == 0 && i < found.gl_pathc; i++) {
        struct config_include *include = include_create(position, found.gl_pathv[i]);
        if (include == NULL)
            loader->out_of_memory = true;
        else
            includes_append(&loader->includes, include);
    }
    if (result != GLOB_NOSPACE)
        globfree(&found);
    free(pattern);
    return loader->out_of_memory ? -1 : 0;
}

/* What the scan let through and libconfuse doesn't like: its words, and the place. */
static void on_error(cfg_t *parsed, const char *format, va_list arguments)
    __attribute__((format(printf, 2, 0)));
static void on_error(cfg_t *parsed, const char *format, va_list arguments)
{
    char message[200];
    vsnprintf(message, sizeof(message), format, arguments);
    struct config_position position = {.file = current->position.file,
                                       .line = parsed != NULL ? (uint32_t)parsed->line : 0};
    config_error(current->errors, position,
                 "%s, expected name = \"value\", name = { list } or a "
                 "section { ... }",
                 message);
}

static void grammar_make(struct grammar *grammar)
{
    static const cfg_opt_t end = CFG_END();
    for (size_t i = 0; i < CONFIG_SECTIONS; i++) {
        const struct config_section *section = &config_sections[i];
        cfg_opt_t *next = grammar->options[i];
        for (size_t j = 0; j < section->option_count; j++) {
            const cfg_opt_t option =
                CFG_PTR_CB(section->options[j].name, NULL, CFGF_NODEFAULT, on_value, free);
            *next = option;
            if (config_kind_is_list(section->options[j].kind))
                next->flags |= CFGF_LIST;
            next++;
        }
        for (size_t j = CONFIG_SECTION_ROOT + 1; j < CONFIG_SECTIONS; j++) {
            if (config_sections[j].parent != i)
                continue;
            const cfg_opt_t option =
                CFG_SEC(config_sections[j].name, grammar->options[j],
                        CFGF_MULTI | (config_sections[j].titled ? CFGF_TITLE : 0));
            *next = option;
            next->validcb = on_section;
            next++;
        }
        if (i == CONFIG_SECTION_ROOT) {
            const cfg_opt_t option = CFG_FUNC("include", on_include);
            *next++ = option;
        }
        *next = end;
    }
}

/* ---- files ----------------------------------------------------------------------------------- */

/* Room in the snapshot for all sections that the scan saw. */
static bool make_room(struct config_loader *loader)
{
    struct config_private *private = loader->config->private;
    struct {
        enum config_section_name section;
        void **array;
        size_t size;
    } arrays[] = {
        {CONFIG_SECTION_TLS, (void **)&private->tls, sizeof(*private->tls)},
        {CONFIG_SECTION_TEAM, (void **)&private->teams, sizeof(*private->teams)},
        {CONFIG_SECTION_KEY, (void **)&private->keys, sizeof(*private->keys)},
        {CONFIG_SECTION_KEY, (void **)&loader->key_teams, sizeof(*loader->key_teams)},
        {CONFIG_SECTION_ENDPOINT, (void **)&private->endpoints, sizeof(*private->endpoints)},
        {CONFIG_SECTION_ENDPOINT, (void **)&loader->endpoint_set, sizeof(*loader->endpoint_set)},
    };
    for (size_t i = 0; i < ARRAY_LENGTH(arrays); i++) {
        struct config_opened *opened = &loader->opened[arrays[i].section];
        /* One more than there are: config_finish() may add the endpoint "*". */
        char *grown = realloc(*arrays[i].array, (opened->count + 1) * arrays[i].size);
        if (grown == NULL)
            return false;
        memset(grown + opened->read * arrays[i].size, 0,
               (opened->count + 1 - opened->read) * arrays[i].size);
        *arrays[i].array = grown;
    }
    for (size_t i = 0; i < CONFIG_SECTIONS; i++)
        loader->opened[i].room = loader->opened[i].count;
    return true;
}

/* Parses a text that has a NUL behind it; changes it. */
static void read_text(struct config_loader *loader, char *text, size_t length)
{
    size_t mistakes = config_errors_count(loader->errors);
    if (!config_scan(loader, text, length)) {
        loader->incomplete = true;
        return;
    }
    struct grammar *grammar = calloc(1, sizeof(*grammar));
    if (grammar == NULL || !make_room(loader)) {
        loader->out_of_memory = true;
        free(grammar);
        return;
    }
    grammar_make(grammar);
    cfg_t *parsed = cfg_init(grammar->options[CONFIG_SECTION_ROOT], CFGF_NONE);
    if (parsed == NULL) {
        loader->out_of_memory = true;
    } else {
        (void)cfg_set_error_function(parsed, on_error);
        int result = cfg_parse_buf(parsed, text);
        loader->incomplete = loader->incomplete || result != CFG_SUCCESS;
        (void)read_options(loader, CONFIG_SECTION_ROOT, parsed, &loader->root, loader->position);
        /* libconfuse gives a reason for all but lost memory (where its lexer doesn't exit). */
        if (result != CFG_SUCCESS && config_errors_count(loader->errors) == mistakes)
            loader->out_of_memory = true;
        /* After a failed allocation it has freed sections that it still points to: rather lose
         * memory than free them twice. */
        if (!loader->out_of_memory)
            cfg_free(parsed);
    }
    free(grammar);
    /* What was opened and not handed over, because libconfuse stopped, is nobody's any more. */
    for (size_t i = 0; i < CONFIG_SECTIONS; i++)
        loader->opened[i].count = loader->opened[i].read;
}

static char *read_whole(int descriptor, size_t *length)
{
    struct builder builder;
    builder_init(&builder, NULL, 0);
    ssize_t got = -1;
    do {
        char *room = builder_reserve(&builder, READ_BYTES);
        if (room == NULL)
            break;
        got = read(descriptor, room, READ_BYTES);
        if (got > 0)
            builder_commit(&builder, (size_t)got);
        if (builder_view(&builder).length > FILE_BYTES_MAX) {
            errno = EFBIG;
            got = -1;
        }
    } while (got > 0 || (got < 0 && errno == EINTR));
    if (builder_failed(&builder))
        errno = ENOMEM;
    else if (got == 0) {
        builder_append_byte(&builder, '\0');
        char *text = builder_detach(&builder, length);
        if (text != NULL)
            (*length)--;
        return text;
    }
    int saved = errno;
    builder_clear(&builder);
    errno = saved;
    return NULL;
}

/* Reads one file; `from` is where it is named: an include(), or nothing. */
static void read_file(struct config_loader *loader, const char *path, struct config_position from)
{
    int descriptor = open(path, O_RDONLY | O_CLOEXEC | O_NOCTTY);
    size_t length = 0;
    char *text = descriptor >= 0 ? read_whole(descriptor, &length) : NULL;
    if (text == NULL && from.line > 0)
        config_error(loader->errors, from, "include \"%.300s\": %s", path, strerror(errno));
    else if (text == NULL)
        config_error(loader->errors, from, "%s, expected a configuration file", strerror(errno));
    loader->incomplete = loader->incomplete || text == NULL;
    if (descriptor >= 0)
        close(descriptor);
    if (text == NULL)
        return;
    loader->position = (struct config_position){.file = config_errors_file(loader->errors, path)};
    read_text(loader, text, length);
    free(text);
}

static bool is_same_file(const char *left, const char *right)
{
    struct stat one;
    struct stat other;
    return stat(left, &one) == 0 && stat(right, &other) == 0 && one.st_dev == other.st_dev &&
           one.st_ino == other.st_ino;
}

static void read_includes(struct config_loader *loader)
{
    while (loader->includes != NULL && !loader->out_of_memory) {
        struct config_include *include = loader->includes;
        loader->includes = include->next;
        bool twice = false;
        for (struct config_include *other = loader->included; other != NULL; other = other->next)
            twice = twice || is_same_file(other->path, include->path);
        includes_append(&loader->included, include);
        if (twice || ++loader->file_count > FILES_MAX)
            config_error(loader->errors, include->position, "include \"%.200s\": %s", include->path,
                         twice ? "was read already, expected each file once"
                               : "too many files, expected at most 1000");
        else
            read_file(loader, include->path, include->position);
    }
}

/* ---- the whole ------------------------------------------------------------------------------- */

static void loader_begin(struct config_loader *loader, const char *name)
{
    loader->position.file = config_errors_file(loader->errors, name);
    for (int i = 0; i < CONFIG_SECTIONS; i++)
        config_section_default(loader, (enum config_section_name)i, &loader->defaults[i]);
    loader->root = loader->defaults[CONFIG_SECTION_ROOT].root;
    loader->upstream = loader->defaults[CONFIG_SECTION_UPSTREAM].upstream;
    loader->key_defaults = loader->defaults[CONFIG_SECTION_KEY].key;
    loader->config->store = loader->defaults[CONFIG_SECTION_STORE].store;
    loader->config->memory = loader->defaults[CONFIG_SECTION_MEMORY].memory;
    loader->config->retention = loader->defaults[CONFIG_SECTION_RETENTION].retention;
    loader->config->collector = loader->defaults[CONFIG_SECTION_COLLECTOR].collector;
    loader->config->timeouts = loader->defaults[CONFIG_SECTION_TIMEOUTS].timeouts;
    loader->config->log = loader->defaults[CONFIG_SECTION_LOG].log;
    if (!config_copy(loader->config, view_of_string(name), &loader->config->file))
        loader->out_of_memory = true;
}

static void includes_free(struct config_include *include)
{
    while (include != NULL) {
        struct config_include *next = include->next;
        free(include->path);
        free(include);
        include = next;
    }
}

/* Frees what only the load needed; gives the configuration if all went well. */
static struct config *loader_end(struct config_loader *loader)
{
    includes_free(loader->includes);
    includes_free(loader->included);
    for (size_t i = 0; i < CONFIG_SECTIONS; i++)
        free(loader->opened[i].items);
    free(loader->key_teams);
    free(loader->endpoint_set);
    config_errors_sort(loader->errors);
    if (loader->out_of_memory)
        config_error(loader->errors, (struct config_position){.file = 0}, "out of memory");
    if (config_errors_count(loader->errors) == 0)
        return loader->config;
    config_unref(loader->config);
    return NULL;
}

static struct config *load(const char *name, const struct view *text, bool check_files,
                           struct config_errors *errors)
{
    if (errors == NULL)
        return NULL;
    struct config_loader *loader = calloc(1, sizeof(*loader));
    if (loader != NULL)
        loader->config = config_create();
    if (loader == NULL || loader->config == NULL) {
        config_error(errors, (struct config_position){.file = UINT32_MAX}, "out of memory");
        free(loader);
        return NULL;
    }
    loader->errors = errors;
    loader->check_files = check_files;
    pthread_mutex_lock(&load_lock);
    current = loader;
    loader_begin(loader, name);
    char *copy = text != NULL ? calloc(1, text->length + 1) : NULL;
    if (copy != NULL && text->length > 0)
        memcpy(copy, text->data, text->length);
    struct config_position nowhere = {.file = loader->position.file};
    if (text == NULL) {
        /* It counts as read, for an include that leads back to it. */
        loader->included = include_create(nowhere, name);
        loader->out_of_memory = loader->out_of_memory || loader->included == NULL;
        read_file(loader, name, nowhere);
    } else if (copy == NULL) {
        loader->out_of_memory = true;
    } else {
        read_text(loader, copy, text->length);
    }
    free(copy);
    read_includes(loader);
    loader->position = nowhere;
    config_finish(loader);
    struct config *config = loader_end(loader);
    current = NULL;
    pthread_mutex_unlock(&load_lock);
    free(loader);
    return config;
}

struct config *config_load(const char *path, struct config_errors *errors)
{
    return load(path, NULL, true, errors);
}

struct config *config_load_text(const char *name, struct view text, bool check_files,
                                struct config_errors *errors)
{
    return load(name, &text, check_files, errors);
}
