/* What several options must fulfil together, and what is allowed but worth a warning. */
#include "build_config.h"

#include <stdlib.h>
#include <string.h>
#include <sys/un.h>
#include <unistd.h>

#include "base/clock.h"
#include "model/config_internal.h"

/* Where an option of a section that is there once was set; line 0 when it wasn't: then the section,
 * or the file as a whole. */
static struct config_position option_at(const struct config_loader *loader,
                                        enum config_section_name section, const char *option)
{
    int index = config_option_find(section, option);
    struct config_position position = loader->seen[section].options[index];
    if (position.line == 0)
        position = loader->section_at[section];
    return position.line == 0 ? loader->position : position;
}

/* ---- keys ------------------------------------------------------------------------------------ */

/* The burst is of the rate that looks at the shortest time; the others are there to bound the sum,
 * and let all of theirs through at once. */
static bool finish_rates(struct config_loader *loader, const struct config_key_options *options,
                         struct config_position position, struct limit_policy *policies)
{
    const struct config_rates *rates = &options->rates;
    size_t shortest = 0;
    for (size_t i = 1; i < rates->count; i++)
        if (rates->items[i].period_ms < rates->items[shortest].period_ms)
            shortest = i;
    for (size_t i = 0; i < rates->count; i++) {
        uint64_t burst =
            i == shortest && options->burst > 0 ? options->burst : rates->items[i].count;
        if (!limit_policy_init(&policies[i], rates->items[i].count,
                               rates->items[i].period_ms * UINT64_C(1000000), burst)) {
            config_error(loader->errors, position,
                         "rate %zu: the burst takes too long at this rate, expected less", i + 1);
            return false;
        }
    }
    return true;
}

/* Lists that most keys don't have hang on pointers: a key must stay small. */
static void *keep(struct config_loader *loader, const void *list, size_t size)
{
    void *kept = config_allocate(loader->config, size);
    if (kept == NULL)
        loader->out_of_memory = true;
    else
        memcpy(kept, list, size);
    return kept;
}

void config_finish_key(struct config_loader *loader, const struct config_key_options *options,
                       struct config_position position, struct config_key *key)
{
    memcpy(key->sha256, options->sha256, sizeof(key->sha256));
    key->operations = options->operations;
    key->burst = options->burst;
    key->concurrency = options->concurrency;
    key->expires_wall_ms = options->expires_wall_ms;
    if (options->endpoints.count > 0)
        key->endpoints = keep(loader, &options->endpoints, sizeof(options->endpoints));
    if (options->allow_from.count > 0)
        key->allow_from = keep(loader, &options->allow_from, sizeof(options->allow_from));
    if (options->burst > 0 && options->rates.count == 0)
        config_warning(loader->errors, position, "burst has no effect without a rate");
    if (key->expires_wall_ms != 0 && key->expires_wall_ms <= clock_wall_ms())
        config_warning(loader->errors, position, "this key has expired");
    /* A bad unit leaves a rate without a period; it was complained about. */
    for (size_t i = 0; i < options->rates.count; i++)
        if (options->rates.items[i].period_ms == 0 || options->rates.items[i].count == 0)
            return;
    if (options->rates.count == 0)
        return;
    struct limit_policy *policies =
        config_allocate(loader->config, options->rates.count * sizeof(*policies));
    if (policies == NULL) {
        loader->out_of_memory = true;
        return;
    }
    if (!finish_rates(loader, options, position, policies))
        return;
    key->rates = policies;
    key->rates_written = options->rates.items;
    key->rate_count = (uint8_t)options->rates.count;
}

/* ---- lists and indexes ----------------------------------------------------------------------- */

/* Fills the index of one kind of section, and complains of names that are there twice. */
static void fill_index(struct config_loader *loader, enum config_section_name section,
                       struct config_index *index, struct view (*name_of)(const void *, size_t),
                       const void *items)
{
    const struct config_opened *opened = &loader->opened[section];
    if (!config_index_prepare(index, opened->read + 1)) {
        loader->out_of_memory = true;
        return;
    }
    for (size_t i = 0; i < opened->read; i++) {
        struct view name = name_of(items, i);
        if (name.length == 0)
            continue; /* a bad one */
        size_t other = config_index_insert(index, name, i, name_of, items);
        if (other == SIZE_MAX)
            continue;
        struct config_position first = opened->items[other];
        config_error(loader->errors, opened->items[i],
                     "%s \"%.*s\" is there already at %s:%u, expected each name once",
                     config_sections[section].name, (int)name.length, name.data,
                     config_errors_file_name(loader->errors, first.file), first.line);
    }
}

static void finish_teams_and_keys(struct config_loader *loader)
{
    struct config *config = loader->config;
    struct config_private *private = config->private;
    struct config_index teams = {NULL, 0};
    fill_index(loader, CONFIG_SECTION_TEAM, &teams, config_team_name, private->teams);
    config_index_clear(&teams);
    fill_index(loader, CONFIG_SECTION_KEY, &private->key_index, config_key_name, private->keys);
    config->teams = private->teams;
    config->team_count = loader->opened[CONFIG_SECTION_TEAM].read;
    config->keys = private->keys;
    config->key_count = loader->opened[CONFIG_SECTION_KEY].read;
    for (size_t i = 0; i < config->key_count; i++)
        if (loader->key_teams[i] < config->team_count)
    private->keys[i].team = &private->teams[loader->key_teams[i]];
    if (config->key_count == 0 && config_errors_count(loader->errors) == 0)
        config_warning(loader->errors, loader->position,
                       "there is no key, nobody can call; \"podgatectl key generate\" makes one");
}

/* Fields that a section leaves out come from the one of "*". */
static void inherit(struct config_endpoint *endpoint, uint32_t set,
                    const struct config_endpoint *from)
{
    const struct config_section *section = &config_sections[CONFIG_SECTION_ENDPOINT];
    for (size_t i = 0; i < section->option_count; i++) {
        if ((set & UINT32_C(1) << i) != 0)
            continue;
        size_t offset = section->options[i].offset;
        size_t size = 0;
        if (section->options[i].kind == CONFIG_KIND_BOOLEAN)
            size = sizeof(bool);
        else if (section->options[i].kind == CONFIG_KIND_WORD)
            size = sizeof(unsigned);
        else
            size = sizeof(uint64_t);
        memcpy((char *)endpoint + offset, (const char *)from + offset, size);
    }
}

static void finish_endpoints(struct config_loader *loader)
{
    struct config *config = loader->config;
    struct config_private *private = config->private;
    struct config_opened *opened = &loader->opened[CONFIG_SECTION_ENDPOINT];
    if (private->endpoints == NULL) {
        /* No file was parsed, so nothing made room. */
        private->endpoints = calloc(1, sizeof(*private->endpoints));
        if (private->endpoints == NULL) {
            loader->out_of_memory = true;
            return;
        }
    }
    struct config_endpoint defaults = loader->defaults[CONFIG_SECTION_ENDPOINT].endpoint;
    defaults.name = VIEW("*");
    defaults.retention_completed_ms = config->retention.completed_ms;
    defaults.retention_failed_ms = config->retention.failed_ms;
    defaults.retention_cancelled_ms = config->retention.cancelled_ms;
    defaults.retention_timed_out_ms = config->retention.timed_out_ms;
    defaults.max_result_bytes = config->retention.max_result_bytes;
    size_t star = SIZE_MAX;
    for (size_t i = 0; star == SIZE_MAX && i < opened->read; i++)
        if (view_equal(private->endpoints[i].name, VIEW("*")))
            star = i;
    if (star != SIZE_MAX) {
        inherit(&private->endpoints[star], loader->endpoint_set[star], &defaults);
        defaults = private->endpoints[star];
    }
    for (size_t i = 0; i < opened->read; i++)
        if (i != star)
            inherit(&private->endpoints[i], loader->endpoint_set[i], &defaults);
    /* The index is made before "*" moves to the front, since it complains by place; "*" is never
     * looked for by name (no endpoint can have it), so its place in the index doesn't matter. */
    fill_index(loader, CONFIG_SECTION_ENDPOINT, &private->endpoint_index, config_endpoint_name,
               private->endpoints);
    config->endpoints = private->endpoints;
    config->endpoint_count = opened->read + (star == SIZE_MAX ? 1 : 0);
    if (star == 0 || loader->out_of_memory)
        return;
    size_t from = star == SIZE_MAX ? opened->read : star;
    memmove(&private->endpoints[1], &private->endpoints[0], from * sizeof(*private->endpoints));
    private->endpoints[0] = defaults;
    config_index_clear(&private->endpoint_index);
    if (!config_index_prepare(&private->endpoint_index, config->endpoint_count)) {
        loader->out_of_memory = true;
        return;
    }
    for (size_t i = 0; i < config->endpoint_count; i++)
        (void)config_index_insert(&private->endpoint_index, private->endpoints[i].name, i,
                                  config_endpoint_name, private->endpoints);
}

/* ---- sections that belong together ----------------------------------------------------------- */

/* A service has a directory for it; whoever starts podgate by hand may have none that it can write
 * to, and shall not fail for what wasn't asked for. */
static void default_admin_socket(struct config_loader *loader)
{
    int option = config_option_find(CONFIG_SECTION_ROOT, "admin_socket");
    const char *directories = getenv("RUNTIME_DIRECTORY");
    char *path;
    if (!loader->check_files || loader->seen[CONFIG_SECTION_ROOT].options[option].line > 0 ||
        directories == NULL || *directories != '/')
        return;
    /* Several are separated by colons; the first one is podgate's. */
    if (asprintf(&path, "%.*s/admin.sock", (int)strcspn(directories, ":"), directories) < 0) {
        loader->out_of_memory = true;
        return;
    }
    if (!config_copy(loader->config, view_of_string(path), &loader->config->admin_socket))
        loader->out_of_memory = true;
    free(path);
}

/* The address of a Unix socket has room for so much only. */
static void check_admin_socket(struct config_loader *loader)
{
    struct sockaddr_un name;
    if (loader->config->admin_socket.length >= sizeof name.sun_path)
        config_error(loader->errors, option_at(loader, CONFIG_SECTION_ROOT, "admin_socket"),
                     "admin_socket has %zu bytes, expected at most %zu",
                     loader->config->admin_socket.length, sizeof name.sun_path - 1);
}

static void finish_root(struct config_loader *loader)
{
    struct config *config = loader->config;
    const struct config_root *root = &loader->root;
    config->listen = root->listen.items;
    config->listen_count = root->listen.count;
    config->proxy_protocol_from = root->proxy_protocol_from;
    config->admin_listen = root->admin_listen;
    config->admin_socket = root->admin_socket;
    default_admin_socket(loader);
    config->admin_token_file = root->admin_token_file;
    check_admin_socket(loader);
    config->workers = root->workers;
    config->drain_timeout_ms = root->drain_timeout_ms;
    config->cors_origins = root->cors_origins;
    config->server_timing = root->server_timing;
    config->tls = config->private->tls;
    config->tls_count = loader->opened[CONFIG_SECTION_TLS].read;

    struct config_position listen = option_at(loader, CONFIG_SECTION_ROOT, "listen");
    bool tls = false;
    for (size_t i = 0; i < root->listen.count; i++) {
        tls = tls || root->listen.items[i].tls;
        if (root->listen.items[i].text.length > 0 &&
            view_equal(root->listen.items[i].text, root->admin_listen.text))
            config_error(loader->errors, option_at(loader, CONFIG_SECTION_ROOT, "admin_listen"),
                         "admin_listen \"%.100s\" is an address of listen too, expected another",
                         root->admin_listen.text.data);
    }
    if (tls && loader->opened[CONFIG_SECTION_TLS].read == 0 && !loader->incomplete)
        config_error(loader->errors, listen,
                     "listen has an address with \"tls:\", expected a "
                     "section tls { certificate = \"...\"  key = \"...\" }");
    if (!tls && config->tls_count > 0 && !loader->incomplete)
        config_warning(loader->errors, loader->opened[CONFIG_SECTION_TLS].items[0],
                       "tls is not used, no address of listen begins with \"tls:\"");
}

static bool is_this_machine(struct view host)
{
    return view_equal_ignore_case(host, VIEW("localhost")) || view_equal(host, VIEW("::1")) ||
           view_starts_with(host, VIEW("127."));
}

/* The path of the credential that systemd passes under the usual name, if it does. */
static bool find_credential(struct config_loader *loader, struct view *path)
{
    const char *directory = getenv("CREDENTIALS_DIRECTORY");
    if (directory == NULL || !loader->check_files)
        return false;
    char *text = NULL;
    if (asprintf(&text, "%s/runpod_api_key", directory) < 0) {
        loader->out_of_memory = true;
        return false;
    }
    bool found = access(text, R_OK) == 0;
    if (found && !config_copy(loader->config, view_of_string(text), path)) {
        loader->out_of_memory = true;
        found = false;
    }
    free(text);
    return found;
}

/* Exactly one source of the upstream's key; a credential of the usual name counts without being
 * asked for. */
static void finish_api_key(struct config_loader *loader)
{
    struct config_upstream_options *options = &loader->upstream;
    struct config_upstream *upstream = &options->fields;
    const struct config_seen *seen = &loader->seen[CONFIG_SECTION_UPSTREAM];
    static const char *const names[] = {"api_key_file", "api_key_env", "api_key_credential"};
    const struct view *const values[] = {&upstream->api_key_file, &upstream->api_key_env,
                                         &options->api_key_credential};
    size_t given = 0;
    size_t tried = 0;
    size_t last = 0;
    for (size_t i = 0; i < ARRAY_LENGTH(names); i++) {
        if (seen->options[config_option_find(CONFIG_SECTION_UPSTREAM, names[i])].line > 0)
            tried++;
        if (values[i]->length > 0) {
            given++;
            last = i;
        }
    }
    if (given > 1) {
        config_error(loader->errors, option_at(loader, CONFIG_SECTION_UPSTREAM, names[last]),
                     "the upstream's key is given %zu times, expected one of api_key_file, "
                     "api_key_env and api_key_credential",
                     given);
        return;
    }
    if (given == 0 && tried > 0 && config_errors_count(loader->errors) > 0)
        return; /* its mistake has been told */
    if (given == 0 && find_credential(loader, &upstream->api_key_file))
        return;
    if (given == 0 && !loader->incomplete) {
        config_error(loader->errors, option_at(loader, CONFIG_SECTION_UPSTREAM, "url"),
                     "upstream has no key, expected one of api_key_file, api_key_env and "
                     "api_key_credential");
    } else if (options->api_key_credential.length > 0) {
        upstream->api_key_file = options->api_key_credential;
    }
}

static void finish_upstream(struct config_loader *loader)
{
    struct config_upstream *upstream = &loader->upstream.fields;
    finish_api_key(loader);
    upstream->has_proxy = upstream->proxy.host.length > 0;
    if (!upstream->url.tls && !is_this_machine(upstream->url.host) && upstream->url.host.length > 0)
        config_warning(loader->errors, option_at(loader, CONFIG_SECTION_UPSTREAM, "url"),
                       "the upstream's key goes unencrypted to %.200s", upstream->url.host.data);
    if (!upstream->verify)
        config_warning(
            loader->errors, option_at(loader, CONFIG_SECTION_UPSTREAM, "verify"),
            "the upstream's certificate is not checked, anybody in between gets the key");
    loader->config->upstream = *upstream;
}

static void check_pairs(struct config_loader *loader)
{
    const struct config *config = loader->config;
    if (config->collector.first_poll_ms > config->collector.max_poll_ms)
        config_error(loader->errors, option_at(loader, CONFIG_SECTION_COLLECTOR, "first_poll"),
                     "first_poll is above max_poll, expected at most max_poll");
    if (config->retention.max_result_bytes > config->retention.max_total_bytes)
        config_error(loader->errors, option_at(loader, CONFIG_SECTION_RETENTION, "max_result"),
                     "max_result is above max_total, expected at most max_total");
    for (size_t i = 0; i < config->endpoint_count; i++)
        if (config->endpoints[i].max_result_bytes > config->retention.max_total_bytes &&
            config->retention.max_result_bytes <= config->retention.max_total_bytes)
            config_error(loader->errors, loader->position,
                         "max_result of endpoint \"%.64s\" is above max_total, expected at most "
                         "max_total",
                         config->endpoints[i].name.data);
    if (config->store.user.length > 0 && config->store.password_file.length == 0)
        config_error(loader->errors, option_at(loader, CONFIG_SECTION_STORE, "user"),
                     "user has no password, expected password_file");
    /* 20 MiB is the largest body of one /runsync. */
    if (config->memory.bodies_bytes < UINT64_C(20) << 20)
        config_warning(loader->errors, option_at(loader, CONFIG_SECTION_MEMORY, "bodies"),
                       "bodies is below the 20MiB of the largest /runsync");
}

void config_finish(struct config_loader *loader)
{
    finish_root(loader);
    finish_upstream(loader);
    finish_teams_and_keys(loader);
    finish_endpoints(loader);
    check_pairs(loader);
}
