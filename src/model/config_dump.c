/* The effective configuration as text, by the same table that it was read by. */
#include "build_config.h"

#include <string.h>

#include "base/clock.h"
#include "model/config_internal.h"

struct dump {
    FILE *stream;
    int indent;
};

static void print_indent(const struct dump *dump)
{
    fprintf(dump->stream, "%*s", dump->indent * 4, "");
}

static void print_text(const struct dump *dump, struct view text)
{
    fputc('"', dump->stream);
    for (size_t i = 0; i < text.length; i++) {
        if (text.data[i] == '"' || text.data[i] == '\\')
            fputc('\\', dump->stream);
        fputc(text.data[i], dump->stream);
    }
    fputc('"', dump->stream);
}

/* Between two entries of a list. */
static void print_comma(const struct dump *dump, size_t index)
{
    if (index > 0)
        fputs(", ", dump->stream);
}

static void print_texts(const struct dump *dump, const struct config_texts *texts)
{
    for (size_t i = 0; i < texts->count; i++) {
        print_comma(dump, i);
        print_text(dump, texts->items[i]);
    }
}

static void print_networks(const struct dump *dump, const struct config_networks *networks)
{
    for (size_t i = 0; i < networks->count; i++) {
        char text[ADDRESS_TEXT_MAXIMUM];
        print_comma(dump, i);
        print_text(dump, address_format_network(&networks->items[i], text));
    }
}

static void print_addresses(const struct dump *dump, const struct config_addresses *addresses)
{
    for (size_t i = 0; i < addresses->count; i++) {
        print_comma(dump, i);
        print_text(dump, addresses->items[i].text);
    }
}

static void print_operations(const struct dump *dump, uint32_t operations)
{
    size_t printed = 0;
    for (unsigned i = 0; i < CONFIG_OPERATIONS; i++) {
        if ((operations & 1u << i) == 0)
            continue;
        print_comma(dump, printed++);
        print_text(dump, view_of_string(config_operation_text((enum config_operation)(1u << i))));
    }
}

static void print_rates(const struct dump *dump, const struct config_rates *rates)
{
    for (size_t i = 0; i < rates->count; i++) {
        char unit = 's';
        if (rates->items[i].period_ms == 60000)
            unit = 'm';
        else if (rates->items[i].period_ms == 3600000)
            unit = 'h';
        print_comma(dump, i);
        fprintf(dump->stream, "\"%u/%c\"", rates->items[i].count, unit);
    }
}

/* Enough to tell two keys apart, and nothing to test guesses against. */
static void print_hash(const struct dump *dump, const uint8_t *sha256)
{
    fprintf(dump->stream, "\"%02x%02x%02x%02x...\"", sha256[0], sha256[1], sha256[2], sha256[3]);
}

static void print_date(const struct dump *dump, uint64_t wall_ms)
{
    char text[CLOCK_RFC3339_LENGTH];
    if (wall_ms == 0) {
        fputs("\"\"", dump->stream);
        return;
    }
    clock_format_rfc3339(wall_ms, text);
    print_text(dump, view_make(text, sizeof(text)));
}

static void print_word(const struct dump *dump, const struct config_option *option,
                       const void *field)
{
    unsigned word;
    memcpy(&word, field, sizeof(word));
    print_text(dump, view_of_string(option->words[word]));
}

static void print_value(const struct dump *dump, const struct config_option *option,
                        const void *field)
{
    char text[CONFIG_UNIT_ROOM];
    switch (option->kind) {
    case CONFIG_KIND_TEXT:
    case CONFIG_KIND_FILE:
    case CONFIG_KIND_SECRET:
    case CONFIG_KIND_PATH:
    case CONFIG_KIND_CREDENTIAL:
    case CONFIG_KIND_VARIABLE:
    case CONFIG_KIND_STORE_URL: print_text(dump, *(const struct view *)field); return;
    case CONFIG_KIND_DURATION:
        print_text(dump, view_of_string(config_format_duration(*(const uint64_t *)field, text)));
        return;
    case CONFIG_KIND_SIZE:
        print_text(dump, view_of_string(config_format_size(*(const uint64_t *)field, text)));
        return;
    case CONFIG_KIND_COUNT: fprintf(dump->stream, "%u", *(const uint32_t *)field); return;
    case CONFIG_KIND_BIG_COUNT:
        fprintf(dump->stream, "%llu", (unsigned long long)*(const uint64_t *)field);
        return;
    case CONFIG_KIND_BOOLEAN: fputs(*(const bool *)field ? "true" : "false", dump->stream); return;
    case CONFIG_KIND_WORD: print_word(dump, option, field); return;
    case CONFIG_KIND_ADDRESS:
        print_text(dump, ((const struct config_address *)field)->text);
        return;
    case CONFIG_KIND_ADDRESSES: print_addresses(dump, field); return;
    case CONFIG_KIND_URL:
    case CONFIG_KIND_PROXY: print_text(dump, ((const struct config_url *)field)->text); return;
    case CONFIG_KIND_NETWORKS: print_networks(dump, field); return;
    case CONFIG_KIND_ENDPOINTS:
    case CONFIG_KIND_SERVER_NAMES:
    case CONFIG_KIND_ORIGINS: print_texts(dump, field); return;
    case CONFIG_KIND_OPERATIONS: print_operations(dump, *(const uint32_t *)field); return;
    case CONFIG_KIND_RATES: print_rates(dump, field); return;
    case CONFIG_KIND_SHA256: print_hash(dump, field); return;
    case CONFIG_KIND_DATE: print_date(dump, *(const uint64_t *)field); return;
    }
}

/* A key's empty list means "not restricted" and can't be written: an empty one is left out. */
static bool is_left_out(const struct config_option *option, const void *field)
{
    switch (option->kind) {
    case CONFIG_KIND_NETWORKS: return ((const struct config_networks *)field)->count == 0;
    case CONFIG_KIND_ENDPOINTS:
    case CONFIG_KIND_SERVER_NAMES:
    case CONFIG_KIND_ORIGINS: return ((const struct config_texts *)field)->count == 0;
    case CONFIG_KIND_DATE: return *(const uint64_t *)field == 0;
    case CONFIG_KIND_CREDENTIAL: return ((const struct view *)field)->length == 0;
    case CONFIG_KIND_TEXT:
    case CONFIG_KIND_FILE:
    case CONFIG_KIND_SECRET:
    case CONFIG_KIND_PATH:
    case CONFIG_KIND_VARIABLE:
    case CONFIG_KIND_DURATION:
    case CONFIG_KIND_SIZE:
    case CONFIG_KIND_COUNT:
    case CONFIG_KIND_BIG_COUNT:
    case CONFIG_KIND_BOOLEAN:
    case CONFIG_KIND_WORD:
    case CONFIG_KIND_ADDRESS:
    case CONFIG_KIND_ADDRESSES:
    case CONFIG_KIND_URL:
    case CONFIG_KIND_PROXY:
    case CONFIG_KIND_STORE_URL:
    case CONFIG_KIND_OPERATIONS:
    case CONFIG_KIND_RATES:
    case CONFIG_KIND_SHA256: return false;
    }
    return false;
}

static void print_options(const struct dump *dump, enum config_section_name section,
                          const void *target)
{
    for (size_t i = 0; i < config_sections[section].option_count; i++) {
        const struct config_option *option = &config_sections[section].options[i];
        const void *field = (const char *)target + option->offset;
        if (is_left_out(option, field))
            continue;
        bool list = config_kind_is_list(option->kind);
        print_indent(dump);
        fprintf(dump->stream, "%s = %s", option->name, list ? "{" : "");
        print_value(dump, option, field);
        fputs(list ? "}\n" : "\n", dump->stream);
    }
}

static void print_section_begin(struct dump *dump, enum config_section_name section,
                                struct view title)
{
    print_indent(dump);
    fputs(config_sections[section].name, dump->stream);
    if (title.length > 0) {
        fputc(' ', dump->stream);
        print_text(dump, title);
    }
    fputs(" {\n", dump->stream);
    dump->indent++;
}

static void print_section_end(struct dump *dump)
{
    dump->indent--;
    print_indent(dump);
    fputs("}\n", dump->stream);
}

static void print_section(struct dump *dump, enum config_section_name section, struct view title,
                          const void *target)
{
    print_section_begin(dump, section, title);
    print_options(dump, section, target);
    print_section_end(dump);
}

static void print_key(struct dump *dump, const struct config_key *key)
{
    struct config_key_options options = {
        .operations = key->operations,
        .burst = key->burst,
        .concurrency = key->concurrency,
        .expires_wall_ms = key->expires_wall_ms,
    };
    memcpy(options.sha256, key->sha256, sizeof(options.sha256));
    if (key->endpoints != NULL)
        options.endpoints = *key->endpoints;
    if (key->allow_from != NULL)
        options.allow_from = *key->allow_from;
    /* The printers only read, so the list's owner stays the snapshot. */
    union {
        const struct config_rate *read;
        struct config_rate *items;
    } rates = {.read = key->rates_written};
    options.rates = (struct config_rates){.items = rates.items, .count = key->rate_count};
    print_section(dump, CONFIG_SECTION_KEY, key->id, &options);
}

static void print_teams(struct dump *dump, const struct config *config)
{
    /* Keys stand in the order of the file, so each team's are together. */
    size_t key = 0;
    for (size_t i = 0; i < config->team_count; i++) {
        print_section_begin(dump, CONFIG_SECTION_TEAM, config->teams[i].name);
        print_options(dump, CONFIG_SECTION_TEAM, &config->teams[i]);
        for (; key < config->key_count && config->keys[key].team == &config->teams[i]; key++)
            print_key(dump, &config->keys[key]);
        print_section_end(dump);
    }
}

static void print_root(const struct dump *dump, const struct config *config)
{
    union {
        const struct config_address *read;
        struct config_address *items;
    } listen = {.read = config->listen};
    struct config_root root = {
        .listen = {.items = listen.items, .count = config->listen_count},
        .proxy_protocol_from = config->proxy_protocol_from,
        .admin_listen = config->admin_listen,
        .admin_socket = config->admin_socket,
        .admin_token_file = config->admin_token_file,
        .workers = config->workers,
        .drain_timeout_ms = config->drain_timeout_ms,
        .cors_origins = config->cors_origins,
        .server_timing = config->server_timing,
    };
    print_options(dump, CONFIG_SECTION_ROOT, &root);
}

void config_dump(const struct config *config, FILE *stream)
{
    struct dump dump = {.stream = stream};
    static const enum config_section_name once[] = {
        CONFIG_SECTION_STORE,     CONFIG_SECTION_MEMORY,   CONFIG_SECTION_RETENTION,
        CONFIG_SECTION_COLLECTOR, CONFIG_SECTION_TIMEOUTS, CONFIG_SECTION_LOG,
    };
    struct config_upstream_options upstream = {
        .fields = config->upstream,
        .api_key_credential = VIEW(""), /* it is a path by now, in api_key_file */
    };
    print_root(&dump, config);
    for (size_t i = 0; i < config->tls_count; i++)
        print_section(&dump, CONFIG_SECTION_TLS, VIEW(""), &config->tls[i]);
    print_section(&dump, CONFIG_SECTION_UPSTREAM, VIEW(""), &upstream);
    for (size_t i = 0; i < ARRAY_LENGTH(once); i++)
        print_section(&dump, once[i], VIEW(""),
                      (const char *)config + config_sections[once[i]].offset);
    print_teams(&dump, config);
    for (size_t i = 0; i < config->endpoint_count; i++)
        print_section(&dump, CONFIG_SECTION_ENDPOINT, config->endpoints[i].name,
                      &config->endpoints[i]);
}
