/* What the files of the configuration module share. Nothing outside of config*.c includes it.
 *
 *   config_options.c  the one table of options: names, kinds, defaults, bounds, where they go
 *   config_scan.c     a first look at a file's text: what libconfuse lets through in silence
 *   config_load.c     libconfuse, includes, sections
 *   config_value.c    one option's value from text: numbers, words, defaults
 *   config_texts.c    the same: files, addresses, URLs, patterns
 *   config_units.c    durations, sizes, rates, dates from and to text
 *   config_names.c    addresses, URLs, patterns from text
 *   config_finish.c   what several options must fulfil together; warnings
 *   config_dump.c     the way back to text
 *   config.c          the snapshot: memory, references, look-ups
 *   config_errors.c   what was wrong
 */
#ifndef PODGATE_MODEL_CONFIG_INTERNAL_H
#define PODGATE_MODEL_CONFIG_INTERNAL_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/bytes.h"
#include "base/compiler.h"
#include "model/config.h"

/* ---- the table of options (config_options.c) ------------------------------------------------- */

/* What an option's value is, and the type of the field that it fills. */
enum config_kind {
    CONFIG_KIND_TEXT,         /* struct view */
    CONFIG_KIND_FILE,         /* struct view; a file that can be read */
    CONFIG_KIND_SECRET,       /* the same; a file that others shouldn't be able to read */
    CONFIG_KIND_PATH,         /* struct view; an absolute path that need not exist */
    CONFIG_KIND_CREDENTIAL,   /* struct view; the name of a systemd credential, becomes its path */
    CONFIG_KIND_VARIABLE,     /* struct view; the name of an environment variable that is set */
    CONFIG_KIND_DURATION,     /* uint64_t, milliseconds */
    CONFIG_KIND_SIZE,         /* uint64_t, bytes */
    CONFIG_KIND_COUNT,        /* uint32_t */
    CONFIG_KIND_BIG_COUNT,    /* uint64_t */
    CONFIG_KIND_BOOLEAN,      /* bool */
    CONFIG_KIND_WORD,         /* an enum; the words are its values in order */
    CONFIG_KIND_ADDRESS,      /* struct config_address */
    CONFIG_KIND_ADDRESSES,    /* struct config_addresses */
    CONFIG_KIND_URL,          /* struct config_url */
    CONFIG_KIND_PROXY,        /* struct config_url */
    CONFIG_KIND_STORE_URL,    /* struct view */
    CONFIG_KIND_NETWORKS,     /* struct config_networks */
    CONFIG_KIND_ENDPOINTS,    /* struct config_texts */
    CONFIG_KIND_SERVER_NAMES, /* struct config_texts */
    CONFIG_KIND_ORIGINS,      /* struct config_texts */
    CONFIG_KIND_OPERATIONS,   /* uint32_t, bits */
    CONFIG_KIND_RATES,        /* struct config_rates */
    CONFIG_KIND_SHA256,       /* uint8_t[32] */
    CONFIG_KIND_DATE,         /* uint64_t, wall milliseconds */
};

struct config_option {
    const char *name;
    enum config_kind kind;
    bool later;    /* checked, but nothing acts on it in this version: warned about when set */
    size_t offset; /* of its field in the section's struct */
    const char *fallback; /* the default as one would write it, lists with spaces; NULL: none */
    uint64_t minimum;     /* bounds of numbers, durations, sizes */
    uint64_t maximum;
    const char *const *words; /* of CONFIG_KIND_WORD, NULL-terminated */
};

enum config_section_name {
    CONFIG_SECTION_ROOT,
    CONFIG_SECTION_TLS,
    CONFIG_SECTION_UPSTREAM,
    CONFIG_SECTION_STORE,
    CONFIG_SECTION_MEMORY,
    CONFIG_SECTION_RETENTION,
    CONFIG_SECTION_COLLECTOR,
    CONFIG_SECTION_TIMEOUTS,
    CONFIG_SECTION_LOG,
    CONFIG_SECTION_TEAM,
    CONFIG_SECTION_KEY,
    CONFIG_SECTION_ENDPOINT,
};

enum { CONFIG_SECTIONS = 12, CONFIG_OPTIONS_MAX = 32 };

struct config_section {
    const char *name; /* as written; "" for the root */
    enum config_section_name parent;
    bool titled;   /* name "title" { } */
    bool repeated; /* may be there more than once */
    size_t offset; /* of its struct in struct config, for those that are there once */
    const struct config_option *options;
    size_t option_count;
};

extern const struct config_section config_sections[CONFIG_SECTIONS];

/* Lists as the options of one section fill them, before they get their place in the snapshot. */
struct config_addresses {
    struct config_address *items;
    size_t count;
};

/* As written: `count` requests every `period_ms`. */
struct config_rate {
    uint32_t count;
    uint32_t period_ms;
};

struct config_rates {
    struct config_rate *items;
    size_t count;
};

/* The options of the root that aren't plain fields of struct config. */
struct config_root {
    struct config_addresses listen;
    struct config_networks proxy_protocol_from;
    struct config_address admin_listen;
    struct view admin_socket;
    struct view admin_token_file;
    uint32_t workers;
    uint64_t drain_timeout_ms;
    struct config_texts cors_origins;
    bool server_timing;
};

struct config_upstream_options {
    struct config_upstream fields;
    struct view api_key_credential;
};

struct config_key_options {
    uint8_t sha256[32];
    uint32_t operations;
    struct config_texts endpoints;
    struct config_rates rates;
    uint32_t burst;
    uint32_t concurrency;
    uint64_t expires_wall_ms;
    struct config_networks allow_from;
};

/* The option or section of a name within a section; -1 when there is none. */
int config_option_find(enum config_section_name section, const char *name);
int config_section_find(enum config_section_name parent, const char *name);

/* The known option, section or `include` of a section whose name is nearest to `name`, or NULL when
 * none is near. */
const char *config_option_suggest(enum config_section_name section, const char *name);

/* The word among `words` (NULL-terminated) that is nearest to `word`, or NULL when none is near. */
const char *config_word_suggest(const char *const *words, const char *word);

/* ---- mistakes (config_errors.c) -------------------------------------------------------------- */

struct config_position {
    uint32_t file; /* index of config_errors_file() */
    uint32_t line; /* 0: the file as a whole */
};

/* Takes a file's name up, for messages; its index. Memory lost makes messages lose it. */
uint32_t config_errors_file(struct config_errors *errors, const char *name);

/* The name of a file by its index. */
const char *config_errors_file_name(const struct config_errors *errors, uint32_t file);

/* Notes a mistake or a warning. Texts are clipped at some length, and the list at some number. */
void config_error(struct config_errors *errors, struct config_position position, const char *format,
                  ...) __attribute__((format(printf, 3, 4)));
void config_warning(struct config_errors *errors, struct config_position position,
                    const char *format, ...) __attribute__((format(printf, 3, 4)));

/* Brings the mistakes into the order of files and lines. */
void config_errors_sort(struct config_errors *errors);

/* ---- memory and indexes of the snapshot (config.c) ------------------------------------------- */

/* Names to positions in an array: open addressing, made once, then read by all threads. */
struct config_index {
    uint32_t *slots; /* position + 1; 0: free */
    size_t mask;
};

struct config_block {
    struct config_block *next;
    size_t used;
    size_t size;
    max_align_t data[];
};

struct config_private {
    _Atomic uint32_t references;
    struct config_block *blocks;
    struct config_tls *tls;
    struct config_team *teams;
    struct config_key *keys;
    struct config_endpoint *endpoints;
    struct config_index key_index;
    struct config_index endpoint_index;
    struct key_state_table *states; /* set by config_adopt() */
};

/* An empty configuration with one reference, or NULL without memory. */
MUST_CHECK struct config *config_create(void);

/* Zeroed memory that lives as long as the configuration; NULL without memory. */
MUST_CHECK void *config_allocate(struct config *config, size_t size);

/* A copy with a NUL behind it that lives as long as the configuration. False without memory. */
MUST_CHECK bool config_copy(struct config *config, struct view text, struct view *copy);

/* Prepares an index for `count` names. False without memory. */
MUST_CHECK bool config_index_prepare(struct config_index *index, size_t count);

/* Puts `position` in for `name`, unless `name_of(items, n)` of one that is in already is the same
 * name: then that one's position, else SIZE_MAX. */
size_t config_index_insert(struct config_index *index, struct view name, size_t position,
                           struct view (*name_of)(const void *, size_t), const void *items);

/* Frees the slots. */
void config_index_clear(struct config_index *index);

/* The names of keys, teams and endpoints in their arrays. */
struct view config_key_name(const void *keys, size_t position);
struct view config_team_name(const void *teams, size_t position);
struct view config_endpoint_name(const void *endpoints, size_t position);

/* ---- text (config_units.c, config_names.c) --------------------------------------------------- */

/* "10MiB" in B, KiB, MiB, GiB or TiB; "0" needs no unit. False: not that, or too large. */
MUST_CHECK bool config_parse_size(struct view text, uint64_t *size_bytes);

/* "100/s", "100/m" or "100/h". False: not that; `unit_bad` then says if it is the unit's fault. */
MUST_CHECK bool config_parse_rate(struct view text, struct config_rate *rate, bool *unit_bad);

enum { CONFIG_UNIT_ROOM = 32 };

/* The way back, in the largest unit without a fraction; `text` has CONFIG_UNIT_ROOM bytes. */
const char *config_format_duration(uint64_t duration_ms, char *text);
const char *config_format_size(uint64_t size_bytes, char *text);

/* "https://host:port/path". NULL: `url` is filled, with views into `text` except for `authority`,
 * which the caller makes; else what was expected. */
const char *config_parse_url(struct view text, struct config_url *url);

/* Whether a text has the form of: an endpoint or a pattern of endpoints; an endpoint alone; the
 * name of a server, "*." in front allowed; an origin of CORS; a variable; a credential. */
bool config_is_endpoint_pattern(struct view text);
bool config_is_endpoint(struct view text);
bool config_is_server_name(struct view text);
bool config_is_origin(struct view text);
bool config_is_variable(struct view text);
bool config_is_credential(struct view text);

/* ---- loading (config_load.c, config_scan.c, config_value.c, config_finish.c) ----------------- */

/* One value as libconfuse gave it, with its place. */
struct config_value {
    struct config_position position;
    size_t length;
    char text[]; /* NUL behind */
};

/* Where each option of one section was set. */
struct config_seen {
    struct config_position options[CONFIG_OPTIONS_MAX]; /* line 0: not */
};

struct config_include {
    struct config_include *next;
    struct config_position position; /* of include() */
    char *path;
};

/* One load. Lives on the stack of config_load(). */
struct config_loader {
    struct config *config;
    struct config_errors *errors;
    bool check_files;
    bool out_of_memory;
    bool incomplete; /* some of the text couldn't be parsed: what is missing may be there */
    struct config_position position; /* the file being read; its line where there is no better */

    struct config_root root;
    struct config_upstream_options upstream;
    struct config_key_options key_defaults;
    union config_section_room {
        struct config_root root;
        struct config_upstream_options upstream;
        struct config_store store;
        struct config_memory memory;
        struct config_retention retention;
        struct config_collector collector;
        struct config_timeouts timeouts;
        struct config_log log;
        struct config_tls tls;
        struct config_team team;
        struct config_key_options key;
        struct config_endpoint endpoint;
    } defaults[CONFIG_SECTIONS];

    struct config_seen seen[CONFIG_SECTIONS];           /* of the sections that are there once */
    struct config_position section_at[CONFIG_SECTIONS]; /* where those were opened */

    /* Of the sections that may be repeated, in the order of the files: where the scan saw them, and
     * how many of them libconfuse has handed over so far. */
    struct config_opened {
        struct config_position *items;
        size_t count;
        size_t size;
        size_t read;
        size_t room; /* in the array of the snapshot */
    } opened[CONFIG_SECTIONS];
    uint32_t *key_teams;    /* the team of each key */
    uint32_t *endpoint_set; /* of each endpoint: bit per option that isn't inherited from "*" */

    struct config_include *includes; /* still to be read, in order */
    struct config_include *included; /* read */
    size_t file_count;
};

/* Looks through the text of a file before libconfuse does: finds unknown and repeated options,
 * strings and comments without an end, stray bytes; notes them with their line; and blanks
 * comments, unknown and repeated options (with spaces, so that lines stay), which libconfuse would
 * stop at or count wrongly. False when libconfuse can't go on with the text. */
MUST_CHECK bool config_scan(struct config_loader *loader, char *text, size_t length);

/* What one call of config_option_set() works with. */
struct config_setting {
    struct config_loader *loader;
    const struct config_option *option;
    void *field;
    const struct config_value *const *values;
    size_t count;
};

/* The text of a value. */
static inline struct view config_value_view(const struct config_value *value)
{
    return view_make(value->text, value->length);
}

/* Notes that the option's value is wrong and what was expected. Always false. */
bool config_refuse(const struct config_setting *setting, const struct config_value *value,
                   const char *expected);

/* Notes that memory was lost. Always false. */
bool config_setting_lost_memory(const struct config_setting *setting);

/* Sets a field of one of the kinds that are texts. False: a mistake was noted. */
MUST_CHECK bool config_set_text(const struct config_setting *setting);

/* True when an option of this kind takes { several } values. */
bool config_kind_is_list(enum config_kind kind);

/* Sets the option's field in `target` from its values; notes what is wrong. False then. */
MUST_CHECK bool config_option_set(struct config_loader *loader, const struct config_option *option,
                                  void *target, const struct config_value *const *values,
                                  size_t count, struct config_position position);

/* Warns when the option is one that this version doesn't act on and its field differs from the
 * default. */
void config_option_warn(struct config_loader *loader, enum config_section_name section,
                        const struct config_option *option, const void *target,
                        struct config_position position);

/* Sets all fields of a section to their defaults. */
void config_section_default(struct config_loader *loader, enum config_section_name section,
                            void *target);

/* Makes a key's limits from what it was given. */
void config_finish_key(struct config_loader *loader, const struct config_key_options *options,
                       struct config_position position, struct config_key *key);

/* Checks what only the whole shows, fills the snapshot's lists and indexes, warns. Mistakes are
 * noted. */
void config_finish(struct config_loader *loader);

#endif
