#include "build_config.h"

#include <criterion/criterion.h>
#include <netinet/in.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/bytes.h"
#include "base/clock.h"
#include "model/address.h"
#include "model/config.h"
#include "model/key_state.h"
#include "model/limit.h"

#define HASH "9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08"
#define GOOD "upstream { api_key_env = \"RUNPOD_API_KEY\" }\n"

static struct config *load_view(struct view text)
{
    struct config_errors *errors = config_errors_create();
    struct config *config = config_load_text("t.conf", text, false, errors);

    cr_assert_not_null(config, "%s",
                       config_errors_count(errors) > 0 ? config_errors_text(errors, 0)
                                                       : "no configuration and no mistake");
    config_errors_destroy(errors);
    return config;
}

static struct config *load(const char *text)
{
    return load_view(view_of_string(text));
}

static bool is(struct view view, const char *text)
{
    return view.data != NULL && view_equal(view, view_of_string(text)) &&
           view.data[view.length] == '\0';
}

static const struct config_key *key_of(const struct config *config, const char *id)
{
    const struct config_key *key = config_find_key(config, view_of_string(id));

    cr_assert_not_null(key);
    return key;
}

static bool allowed(const struct config_key *key, const char *endpoint)
{
    return config_endpoint_allowed(key, view_of_string(endpoint));
}

Test(config, defaults_are_those_of_the_manual)
{
    struct config *config = load(GOOD);

    cr_assert_eq(config->listen_count, 1);
    cr_assert(is(config->listen[0].text, "127.0.0.1:8080"));
    cr_assert(is(config->admin_listen.text, "127.0.0.1:8081"));
    cr_assert(is(config->admin_socket, ""));
    cr_assert_eq(config->workers, 0);
    cr_assert_eq(config->drain_timeout_ms, 30000);
    cr_assert_not(config->server_timing);
    cr_assert(is(config->upstream.url.host, "api.runpod.ai"));
    cr_assert(is(config->upstream.url.path, "/v2"));
    cr_assert(is(config->upstream.url.authority, "api.runpod.ai"));
    cr_assert(config->upstream.url.tls);
    cr_assert_eq(config->upstream.url.port, 443);
    cr_assert(config->upstream.verify);
    cr_assert_not(config->upstream.has_proxy);
    cr_assert_eq(config->upstream.connect_timeout_ms, 5000);
    cr_assert_eq(config->upstream.submit_timeout_ms, 30000);
    cr_assert_eq(config->upstream.read_timeout_ms, 8000);
    cr_assert_eq(config->upstream.retention_run_ms, 1800000);
    cr_assert_eq(config->upstream.retention_runsync_ms, 60000);
    cr_assert(is(config->upstream.api_key_env, "RUNPOD_API_KEY"));
    cr_assert(is(config->upstream.api_key_file, ""));
    cr_assert(is(config->upstream.ca_file, ""));
    cr_assert_eq(config->memory.bodies_bytes, UINT64_C(256) << 20);
    cr_assert_eq(config->memory.connections, 16384);
    cr_assert_eq(config->retention.completed_ms, UINT64_C(7) * 86400000);
    cr_assert_eq(config->timeouts.idle_ms, 120000);
    cr_assert_eq(config->timeouts.head_ms, 10000);
    cr_assert_eq(config->log.level, LOG_LEVEL_INFO);
    cr_assert_eq(config->log.format, LOG_FORMAT_KEY_VALUE);
    cr_assert_eq(config->store.backend, CONFIG_STORE_EMBEDDED);
    cr_assert_eq(config->key_count, 0);
    cr_assert_null(config_find_key(config, VIEW("ci")));
    cr_assert_eq(config->endpoint_count, 1);
    cr_assert_eq(config_find_endpoint(config, VIEW("x"))->status_freshness_ms, 500);
    config_unref(config);
}

Test(config, addresses_are_parsed)
{
    struct config *config = load(
        GOOD "listen = {\"0.0.0.0:80\", \"tls:[::1]:8443\", \"unix:/run/x\", \"tls:unix:/run/y\"}\n"
             "tls { certificate = \"/c\" key = \"/k\" names = {\"a.example\", \"*.b.example\"} }\n"
             "tls { certificate = \"/c2\" key = \"/k2\" }\n"
             "admin_listen = \"\"\nproxy_protocol_from = {\"10.0.0.0/8\", \"::1\"}\n");
    const struct sockaddr_in *v4 = (const struct sockaddr_in *)&config->listen[0].address;
    const struct sockaddr_in6 *v6 = (const struct sockaddr_in6 *)&config->listen[1].address;

    cr_assert_eq(config->listen_count, 4);
    cr_assert_eq(v4->sin_family, AF_INET);
    cr_assert_eq(ntohs(v4->sin_port), 80);
    cr_assert_eq(config->listen[0].address_length, sizeof(*v4));
    cr_assert_not(config->listen[0].tls);
    cr_assert(config->listen[1].tls);
    cr_assert_eq(v6->sin6_family, AF_INET6);
    cr_assert_eq(ntohs(v6->sin6_port), 8443);
    cr_assert(is(config->listen[2].unix_path, "/run/x"));
    cr_assert_eq(config->listen[2].address_length, 0);
    cr_assert(config->listen[3].tls);
    cr_assert(is(config->listen[3].unix_path, "/run/y"));
    cr_assert_eq(config->admin_listen.address_length, 0);
    cr_assert_eq(config->admin_listen.unix_path.length, 0);
    cr_assert_eq(config->tls_count, 2);
    cr_assert(is(config->tls[0].names.items[1], "*.b.example"));
    cr_assert(is(config->tls[1].certificate, "/c2"));
    cr_assert_eq(config->tls[1].names.count, 0);
    cr_assert_eq(config->proxy_protocol_from.count, 2);
    cr_assert_eq(config->proxy_protocol_from.items[0].prefix, 8);
    config_unref(config);
}

Test(config, urls_are_taken_apart)
{
    struct config *config = load("upstream { api_key_env = \"A\" url = \"http://[::1]:8900/v2/\" "
                                 "proxy = \"http://proxy.example:3128\" }\n");

    cr_assert(is(config->upstream.url.text, "http://[::1]:8900/v2"));
    cr_assert(is(config->upstream.url.host, "::1"));
    cr_assert(is(config->upstream.url.authority, "[::1]:8900"));
    cr_assert(is(config->upstream.url.path, "/v2"));
    cr_assert_not(config->upstream.url.tls);
    cr_assert(config->upstream.has_proxy);
    cr_assert(is(config->upstream.proxy.host, "proxy.example"));
    cr_assert_eq(config->upstream.proxy.port, 3128);
    config_unref(config);
    config = load("upstream { api_key_env = \"A\" url = \"HTTPS://h:443\" }\n");
    cr_assert(is(config->upstream.url.authority, "h"));
    cr_assert(is(config->upstream.url.path, ""));
    config_unref(config);
}

Test(config, words_and_units)
{
    struct config *config =
        load(GOOD "drain_timeout = 0 server_timing = yes log { format = json level = debug }\n"
                  "store { backend = redis on_outage = refuse user = podgate password_file = /p\n"
                  "        url = \"redis+sentinel://a:1,b:2/main/3\" }\n"
                  "memory { bodies = \"1GiB\" hot_results = 0 }\n"
                  "timeouts { idle = \"1h\" body = '1500ms' }\n"
                  "cors_origins = {\"https://a.example\", \"*\"}\n");

    cr_assert_eq(config->drain_timeout_ms, 0);
    cr_assert(config->server_timing);
    cr_assert_eq(config->log.format, LOG_FORMAT_JSON);
    cr_assert_eq(config->log.level, LOG_LEVEL_DEBUG);
    cr_assert_eq(config->store.backend, CONFIG_STORE_REDIS);
    cr_assert(is(config->store.url, "redis+sentinel://a:1,b:2/main/3"));
    cr_assert(is(config->store.password_file, "/p"));
    cr_assert_eq(config->store.on_outage, CONFIG_ON_OUTAGE_REFUSE);
    cr_assert_eq(config->memory.bodies_bytes, UINT64_C(1) << 30);
    cr_assert_eq(config->memory.hot_results_bytes, 0);
    cr_assert_eq(config->timeouts.idle_ms, 3600000);
    cr_assert_eq(config->timeouts.body_ms, 1500);
    cr_assert_eq(config->cors_origins.count, 2);
    config_unref(config);
}

Test(config, keys_and_teams)
{
    struct config *config =
        load(GOOD "team \"vision\" {\n weight = 3\n"
                  "  key \"ci\" { sha256 = \"" HASH "\" operations = {\"run\", \"purge-all\"} "
                  "    rate = {\"100/s\", \"5000/h\"} burst = 200 concurrency = 4 expires = "
                  "\"2027-01-01\" }\n"
                  "  endpoints = {\"a\", \"b*\"}\n}\n"
                  "team \"audio\" { key \"x-1\" { sha256 = \"" HASH "\" } }\n");
    const struct config_key *key = key_of(config, "ci");
    const struct config_key *other = key_of(config, "x-1");

    cr_assert_eq(config->team_count, 2);
    cr_assert_eq(config->key_count, 2);
    cr_assert(is(key->id, "ci"));
    cr_assert(is(key->team->name, "vision"));
    cr_assert_eq(key->team->weight, 3);
    cr_assert(is(other->team->name, "audio"));
    cr_assert_eq(other->team->index, 1);
    cr_assert_eq(other->index, 1);
    cr_assert_eq(key->sha256[0], 0x9f);
    cr_assert_eq(key->sha256[31], 0x08);
    cr_assert_eq(key->operations, (uint32_t)(CONFIG_OPERATION_RUN | CONFIG_OPERATION_PURGE_ALL));
    cr_assert_eq(other->operations, CONFIG_OPERATIONS_DEFAULT);
    cr_assert_eq(key->concurrency, 4);
    cr_assert_eq(key->expires_wall_ms, UINT64_C(1798761600000));
    cr_assert_eq(other->expires_wall_ms, 0);
    cr_assert_eq(other->rate_count, 0);
    cr_assert_eq(key->rate_count, 2);
    cr_assert_eq(key->rates[0].burst, 200, "the burst is the shorter rate's");
    cr_assert_eq(key->rates[0].interval_ns, 10000000);
    cr_assert_eq(key->rates[1].burst, 5000);
    cr_assert_null(config_find_key(config, VIEW("CI")));
    cr_assert_null(config_find_key(config, VIEW("")));
    config_unref(config);
}

Test(config, endpoints_are_allowed_by_team_and_key)
{
    struct config *config =
        load(GOOD "team \"t\" { endpoints = {\"abc\", \"pre*\"}\n"
                  "  key \"team-only\" { sha256 = \"" HASH "\" }\n"
                  "  key \"both\" { sha256 = \"" HASH "\" endpoints = {\"prefix\", \"other\"} } }\n"
                  "team \"all\" { key \"any\" { sha256 = \"" HASH "\" }\n"
                  "  key \"named\" { sha256 = \"" HASH "\" endpoints = {\"flash\"} }\n"
                  "  key \"prefix\" { sha256 = \"" HASH "\" endpoints = {\"fl*\", \"*\"} } }\n"
                  "team \"flashy\" { endpoints = {\"flash\"}  key \"by-team\" { sha256 = \"" HASH
                  "\" } }\n");

    cr_assert(allowed(key_of(config, "team-only"), "abc"));
    cr_assert_not(allowed(key_of(config, "team-only"), "abcd"));
    cr_assert_not(allowed(key_of(config, "team-only"), "ab"));
    cr_assert(allowed(key_of(config, "team-only"), "pre"));
    cr_assert(allowed(key_of(config, "team-only"), "prefix"));
    cr_assert(allowed(key_of(config, "both"), "prefix"));
    cr_assert_not(allowed(key_of(config, "both"), "other"), "the team doesn't allow it");
    cr_assert_not(allowed(key_of(config, "both"), "abc"), "the key doesn't allow it");
    cr_assert(allowed(key_of(config, "any"), "whatever"));
    /* flash reaches any endpoint by headers, so that no pattern may open it. */
    cr_assert_not(allowed(key_of(config, "any"), "flash"));
    cr_assert_not(allowed(key_of(config, "prefix"), "flash"));
    cr_assert(allowed(key_of(config, "prefix"), "flashlight"));
    cr_assert(allowed(key_of(config, "named"), "flash"));
    cr_assert(allowed(key_of(config, "by-team"), "flash"));
    config_unref(config);
}

Test(config, allow_from_restricts_addresses)
{
    struct config *config = load(GOOD "team \"t\" { key \"a\" { sha256 = \"" HASH
                                      "\" allow_from = {\"10.0.0.0/8\", \"::1\"} }\n"
                                      "           key \"b\" { sha256 = \"" HASH "\" } }\n");
    struct address address;
    struct address unix_peer = {.family = ADDRESS_UNIX};

    cr_assert(address_parse(VIEW("10.200.0.1"), &address));
    cr_assert(config_key_allowed_from(key_of(config, "a"), &address));
    cr_assert(address_parse(VIEW("11.0.0.1"), &address));
    cr_assert_not(config_key_allowed_from(key_of(config, "a"), &address));
    cr_assert(config_key_allowed_from(key_of(config, "b"), &address));
    cr_assert_not(config_key_allowed_from(key_of(config, "a"), &unix_peer));
    cr_assert(config_key_allowed_from(key_of(config, "b"), &unix_peer));
    config_unref(config);
}

Test(config, endpoint_sections_inherit_from_star_wherever_it_stands)
{
    struct config *config =
        load(GOOD "endpoint \"a\" { status_freshness = \"1s\" }\n"
                  "endpoint \"*\" { phantom_grace = \"10s\" status_freshness = \"2s\" }\n"
                  "endpoint \"b\" { phantom_grace = 0 }\n"
                  "retention { completed = \"1d\" }\n");

    cr_assert_eq(config->endpoint_count, 3);
    cr_assert(is(config->endpoints[0].name, "*"));
    cr_assert_eq(config_find_endpoint(config, VIEW("a"))->status_freshness_ms, 1000);
    cr_assert_eq(config_find_endpoint(config, VIEW("a"))->phantom_grace_ms, 10000);
    cr_assert_eq(config_find_endpoint(config, VIEW("b"))->status_freshness_ms, 2000);
    cr_assert_eq(config_find_endpoint(config, VIEW("b"))->phantom_grace_ms, 0);
    cr_assert_eq(config_find_endpoint(config, VIEW("zzz"))->status_freshness_ms, 2000);
    cr_assert_eq(config_find_endpoint(config, VIEW("zzz"))->retention_completed_ms, 86400000);
    config_unref(config);
}

static uint64_t keep_ms(const struct config *config, const char *endpoint, enum job_state state)
{
    return config_endpoint_keep_ms(config_find_endpoint(config, view_of_string(endpoint)), state);
}

Test(config, retention_is_by_endpoint_and_state)
{
    const uint64_t day = 86400000;
    struct config *config =
        load(GOOD "endpoint \"a\" { retention_failed = \"30d\" max_result = \"1MiB\" }\n"
                  "endpoint \"b\" { retention_cancelled = \"3d\" retention_timed_out = 0\n"
                  "               retention_completed = \"9d\" }\n"
                  "retention { completed = \"2d\" timed_out = \"4d\" max_result = \"5MiB\" }\n");

    cr_assert_eq(keep_ms(config, "x", JOB_COMPLETED), 2 * day);
    cr_assert_eq(keep_ms(config, "x", JOB_FAILED), 7 * day);
    cr_assert_eq(keep_ms(config, "x", JOB_CANCELLED), 7 * day, "as failed");
    cr_assert_eq(keep_ms(config, "x", JOB_TIMED_OUT), 4 * day);
    cr_assert_eq(keep_ms(config, "a", JOB_CANCELLED), 30 * day, "as this endpoint's failed");
    cr_assert_eq(keep_ms(config, "a", JOB_TIMED_OUT), 4 * day);
    cr_assert_eq(keep_ms(config, "b", JOB_COMPLETED), 9 * day);
    cr_assert_eq(keep_ms(config, "b", JOB_CANCELLED), 3 * day);
    cr_assert_eq(keep_ms(config, "b", JOB_TIMED_OUT), 7 * day, "0: as failed");
    cr_assert_eq(config_find_endpoint(config, VIEW("a"))->max_result_bytes, UINT64_C(1) << 20);
    cr_assert_eq(config_find_endpoint(config, VIEW("b"))->max_result_bytes, UINT64_C(5) << 20);
    config_unref(config);
}

static uint64_t expiry(const char *date)
{
    char text[300];
    snprintf(text, sizeof(text),
             GOOD "team \"t\" { key \"k\" { sha256 = \"" HASH "\" expires = \"%s\" } }", date);
    struct config *config = load(text);
    uint64_t wall_ms = config->keys[0].expires_wall_ms;
    config_unref(config);
    return wall_ms;
}

Test(config, dates_are_rfc_3339)
{
    cr_assert_eq(expiry("1970-01-02"), 86400000);
    cr_assert_eq(expiry("2000-02-29"), UINT64_C(951782400000));
    cr_assert_eq(expiry("2027-01-31T18:00:00Z"), UINT64_C(1801418400000));
    cr_assert_eq(expiry("2027-01-31T18:00:00.999+02:00"), UINT64_C(1801411200999));
    cr_assert_eq(expiry("2027-01-31T18:00:00-00:30"), UINT64_C(1801420200000));
}

/* ---- the snapshot ---------------------------------------------------------------------------- */

Test(config, adopted_key_state_survives_a_reload_by_id)
{
    struct key_state_table *states = key_state_table_create();
    const char *text =
        GOOD "team \"t\" { key \"a\" { sha256 = \"" HASH "\" rate = {\"1/h\"} burst = 1 } }\n";
    const char *moved = GOOD "team \"u\" { key \"n\" { sha256 = \"" HASH "\" }\n"
                             " key \"a\" { sha256 = \"" HASH "\" rate = {\"1/h\"} burst = 1 } }\n";
    struct config *before = load(text);

    cr_assert(config_adopt(before, states));
    struct key_state *state = before->keys[0].state;
    struct limit_charge charge = {.policy = &before->keys[0].rates[0], .state = &state->limits[0]};
    cr_assert(limit_take(&charge, 1, 1000).allowed);
    cr_assert_not(limit_take(&charge, 1, 1000).allowed);
    struct config *after = load(moved);
    cr_assert(config_adopt(after, states));
    cr_assert_eq(key_state_count(states), 2);
    config_unref(before);
    cr_assert_eq(key_of(after, "a")->state, state);
    charge.policy = &key_of(after, "a")->rates[0];
    cr_assert_not(limit_take(&charge, 1, 1000).allowed, "a reload gives nothing back");
    config_unref(after);
    cr_assert_eq(key_state_count(states), 0, "and an id that is gone is forgotten");
    key_state_table_destroy(states);
}

Test(config, lives_until_the_last_reference_is_gone)
{
    struct config *config = load(GOOD "team \"t\" { key \"a\" { sha256 = \"" HASH "\" } }\n");
    const struct config *held = config_ref(config);

    config_unref(config);
    cr_assert(is(key_of(held, "a")->team->name, "t"));
    config_unref(held);
    config_unref(NULL);
}

static char *dump(const struct config *config)
{
    char *text = NULL;
    size_t length = 0;
    FILE *stream = open_memstream(&text, &length);

    config_dump(config, stream);
    fclose(stream);
    return text;
}

Test(config, dump_is_a_configuration_that_says_the_same)
{
    struct config *config =
        load(GOOD "listen = {\"127.0.0.1:1\", \"unix:/run/x\"}\ntimeouts { idle = \"90s\" }\n"
                  "proxy_protocol_from = {\"fd00::/8\"}\n"
                  "team \"t\" { key \"a\" { sha256 = \"" HASH
                  "\" rate = {\"7/m\"} allow_from = {\"10.0.0.0/8\"} "
                  "expires = \"2090-01-01\" } }\nendpoint \"e\" { keep_input = true }\n");
    char *first = dump(config);
    char *masked = strstr(first, "9f86d081...");

    cr_assert_not_null(masked, "the hash is shortened");
    cr_assert_null(strstr(first, HASH));
    /* With the whole hash in its place it loads, and dumps as the same text. */
    struct builder whole;
    builder_init(&whole, NULL, 0);
    builder_append(&whole, view_make(first, (size_t)(masked - first)));
    builder_append(&whole, VIEW(HASH));
    builder_append(&whole, view_of_string(masked + strlen("9f86d081...")));
    struct config *again = load_view(builder_view(&whole));
    char *second = dump(again);
    cr_assert_str_eq(first, second);
    free(first);
    free(second);
    builder_clear(&whole);
    config_unref(config);
    config_unref(again);
}

/* What counts is that nothing is quadratic: 20,000 keys in one team would take minutes then. */
Test(config, many_keys_in_one_team_load, .timeout = 60)
{
    struct builder text;
    char key[200];

    builder_init(&text, NULL, 0);
    builder_append(&text, VIEW(GOOD "team \"t\" {\n"));
    for (int i = 0; i < 20000; i++) {
        snprintf(key, sizeof(key), "key \"k-%d\" { sha256 = \"" HASH "\" rate = {\"9/s\"} }\n", i);
        builder_append(&text, view_of_string(key));
    }
    builder_append(&text, VIEW("}\n"));
    struct config *config = load_view(builder_view(&text));
    cr_assert_eq(config->key_count, 20000);
    for (int i = 0; i < 20000; i++) {
        snprintf(key, sizeof(key), "k-%d", i);
        cr_assert_eq(key_of(config, key)->index, (uint32_t)i);
    }
    cr_assert_null(config_find_key(config, VIEW("k-20000")));
    config_unref(config);
    builder_clear(&text);
}

/* ---- files ----------------------------------------------------------------------------------- */

struct place {
    char directory[64];
    char main[128];
};

static void write_file(const struct place *place, const char *name, mode_t mode, const char *text)
{
    char path[256];
    snprintf(path, sizeof(path), "%s/%s", place->directory, name);
    FILE *file = fopen(path, "w");
    cr_assert_not_null(file);
    fputs(text, file);
    fclose(file);
    cr_assert_eq(chmod(path, mode), 0);
}

static struct place make_place(void)
{
    struct place place;
    char path[256];
    snprintf(place.directory, sizeof(place.directory), "/tmp/podgate-test-XXXXXX");
    cr_assert_not_null(mkdtemp(place.directory));
    snprintf(place.main, sizeof(place.main), "%s/podgate.conf", place.directory);
    snprintf(path, sizeof(path), "%s/conf.d", place.directory);
    cr_assert_eq(mkdir(path, 0700), 0);
    write_file(&place, "secret", 0600, "x\n");
    return place;
}

static void remove_place(const struct place *place)
{
    static const char *const names[] = {"conf.d/10.conf", "conf.d/20.conf", "conf.d",
                                        "podgate.conf",   "secret",         "other.conf"};
    char path[256];
    for (size_t i = 0; i < sizeof(names) / sizeof(names[0]); i++) {
        snprintf(path, sizeof(path), "%s/%s", place->directory, names[i]);
        (void)remove(path);
    }
    cr_assert_eq(rmdir(place->directory), 0);
}

/* Writes the main file with the directory's secret as the upstream's key. */
static void write_main(const struct place *place, const char *text)
{
    char whole[1000];
    snprintf(whole, sizeof(whole), "upstream { api_key_file = \"%s/secret\" }\n%s",
             place->directory, text);
    write_file(place, "podgate.conf", 0644, whole);
}

/* The first mistake, behind the directory's name and a slash. */
static void expect_file_mistake(const struct place *place, const char *expected)
{
    struct config_errors *errors = config_errors_create();
    cr_assert_null(config_load(place->main, errors));
    const char *text = config_errors_text(errors, 0);
    size_t length = strlen(place->directory);
    cr_assert_eq(strncmp(text, place->directory, length), 0, "%s", text);
    cr_assert_str_eq(text + length + 1, expected);
    config_errors_destroy(errors);
}

Test(config, includes_files_and_directories_relative_to_itself)
{
    struct place place = make_place();
    struct config_errors *errors = config_errors_create();

    write_main(&place, "include(\"conf.d/*.conf\")\ninclude(\"other.conf\")\n"
                       "team \"main\" { key \"m\" { sha256 = \"" HASH "\" } }\n");
    write_file(&place, "conf.d/10.conf", 0644,
               "team \"a\" { key \"a\" { sha256 = \"" HASH "\" } }\n");
    write_file(&place, "conf.d/20.conf", 0644,
               "team \"b\" { key \"b\" { sha256 = \"" HASH "\" } }\n");
    write_file(&place, "other.conf", 0644, "workers = 7\n");
    struct config *config = config_load(place.main, errors);
    cr_assert_not_null(config, "%s", config_errors_text(errors, 0));
    cr_assert_eq(config->workers, 7);
    cr_assert_eq(config->key_count, 3);
    cr_assert(is(key_of(config, "m")->team->name, "main"));
    cr_assert(is(key_of(config, "b")->team->name, "b"));
    config_unref(config);
    config_errors_destroy(errors);
    remove_place(&place);
}

Test(config, an_empty_conf_d_is_fine_and_a_missing_file_is_not)
{
    struct place place = make_place();
    struct config_errors *errors = config_errors_create();

    write_main(&place, "include(\"conf.d/*.conf\")\n");
    struct config *config = config_load(place.main, errors);
    cr_assert_not_null(config);
    config_unref(config);
    config_errors_destroy(errors);
    write_main(&place, "include(\"other.conf\")\n");
    expect_file_mistake(&place,
                        "podgate.conf:2: include \"other.conf\": not found, expected a file "
                        "that can be read");
    remove_place(&place);
}

Test(config, a_mistake_in_an_included_file_names_that_file)
{
    struct place place = make_place();

    write_main(&place, "include(\"other.conf\")\n");
    write_file(&place, "other.conf", 0644, "\nworkers = x\n");
    expect_file_mistake(&place,
                        "other.conf:2: workers \"x\": expected a whole number without a unit");
    write_main(&place, "workers = 1\ninclude(\"other.conf\")\n");
    write_file(&place, "other.conf", 0644, "team \"a\" {\n");
    expect_file_mistake(&place, "other.conf:1: section team has no end, expected \"}\"");
    remove_place(&place);
}

Test(config, a_file_that_includes_itself_is_an_error)
{
    struct place place = make_place();

    write_main(&place, "include(\"other.conf\")\n");
    write_file(&place, "other.conf", 0644, "include(\"other.conf\")\n");
    struct config_errors *errors = config_errors_create();
    cr_assert_null(config_load(place.main, errors));
    cr_assert_eq(config_errors_count(errors), 1);
    cr_assert_not_null(strstr(config_errors_text(errors, 0), "was read already"));
    config_errors_destroy(errors);
    remove_place(&place);
}

Test(config, a_main_file_that_includes_itself_is_an_error)
{
    struct place place = make_place();

    write_main(&place, "include(\"podgate.conf\")\n");
    struct config_errors *errors = config_errors_create();
    cr_assert_null(config_load(place.main, errors));
    cr_assert_not_null(strstr(config_errors_text(errors, 0), "was read already"));
    config_errors_destroy(errors);
    remove_place(&place);
}

Test(config, a_secret_that_others_can_read_is_warned_about)
{
    struct place place = make_place();
    struct config_errors *errors = config_errors_create();

    write_main(&place, "team \"a\" { key \"a\" { sha256 = \"" HASH "\" } }\n");
    write_file(&place, "secret", 0644, "x\n");
    struct config *config = config_load(place.main, errors);
    cr_assert_not_null(config);
    cr_assert_eq(config_warnings_count(errors), 1);
    cr_assert_not_null(strstr(config_warnings_text(errors, 0), "mode 0644 lets others read"));
    config_unref(config);
    config_errors_destroy(errors);
    remove_place(&place);
}

Test(config, files_that_are_named_must_be_there)
{
    struct place place = make_place();

    write_file(&place, "podgate.conf", 0644, "\nupstream { api_key_file = \"/no/such\" }\n");
    expect_file_mistake(&place,
                        "podgate.conf:2: api_key_file \"/no/such\": No such file or directory, "
                        "expected a file that can be read");
    write_main(
        &place,
        "listen = \"tls:127.0.0.1:1\"\ntls { certificate = \"/tmp\"\nkey = \"/no/such\" }\n");
    expect_file_mistake(&place,
                        "podgate.conf:3: certificate \"/tmp\": is a directory, expected a file");
    cr_assert_eq(remove(place.main), 0);
    expect_file_mistake(&place,
                        "podgate.conf: No such file or directory, expected a configuration file");
    remove_place(&place);
}

Test(config, the_upstream_key_as_a_systemd_credential)
{
    struct place place = make_place();
    struct config_errors *errors = config_errors_create();
    char path[200];

    write_file(&place, "podgate.conf", 0644, "upstream { api_key_credential = \"secret\" }\n");
    cr_assert_eq(unsetenv("CREDENTIALS_DIRECTORY"), 0);
    expect_file_mistake(&place,
                        "podgate.conf:1: api_key_credential \"secret\": no such credential, "
                        "expected to be started by systemd with LoadCredential=");
    cr_assert_eq(setenv("CREDENTIALS_DIRECTORY", place.directory, 1), 0);
    struct config *config = config_load(place.main, errors);
    cr_assert_not_null(config);
    snprintf(path, sizeof(path), "%s/secret", place.directory);
    cr_assert(is(config->upstream.api_key_file, path));
    config_unref(config);
    /* A file that only root can read (here: that isn't there) is taken from the credential of its
     * name, so that the same line does for the service and for a shell. */
    write_file(&place, "podgate.conf", 0644, "upstream { api_key_file = \"/no/such/secret\" }\n");
    config = config_load(place.main, errors);
    cr_assert_not_null(config);
    cr_assert(is(config->upstream.api_key_file, path));
    config_unref(config);
    config_errors_destroy(errors);
    remove_place(&place);
}

Test(config, the_operator_socket_is_there_by_default_for_a_service_only)
{
    struct place place = make_place();
    struct config_errors *errors = config_errors_create();

    write_file(&place, "podgate.conf", 0644, "upstream { api_key_env = \"PATH\" }\n");
    cr_assert_eq(unsetenv("RUNTIME_DIRECTORY"), 0);
    struct config *config = config_load(place.main, errors);
    cr_assert(is(config->admin_socket, ""));
    config_unref(config);
    cr_assert_eq(setenv("RUNTIME_DIRECTORY", "/run/podgate:/run/other", 1), 0);
    config = config_load(place.main, errors);
    cr_assert(is(config->admin_socket, "/run/podgate/admin.sock"));
    config_unref(config);
    write_file(&place, "podgate.conf", 0644,
               "upstream { api_key_env = \"PATH\" }\nadmin_socket = \"\"\n");
    config = config_load(place.main, errors);
    cr_assert(is(config->admin_socket, ""), "whoever says so has none");
    config_unref(config);
    config_errors_destroy(errors);
    remove_place(&place);
}

Test(config, environment_variables_must_be_set)
{
    struct place place = make_place();

    cr_assert_eq(unsetenv("PODGATE_TEST_UNSET"), 0);
    write_file(&place, "podgate.conf", 0644, "upstream { api_key_env = \"PODGATE_TEST_UNSET\" }\n");
    expect_file_mistake(&place,
                        "podgate.conf:1: api_key_env \"PODGATE_TEST_UNSET\": this environment "
                        "variable is not set");
    write_main(&place, "workers = ${PODGATE_TEST_UNSET}\n");
    expect_file_mistake(&place,
                        "podgate.conf:2: the environment variable PODGATE_TEST_UNSET is not set");
    write_main(&place, "workers = \"${PODGATE_TEST_UNSET:-5}\"\n");
    struct config_errors *errors = config_errors_create();
    struct config *config = config_load(place.main, errors);
    cr_assert_not_null(config);
    cr_assert_eq(config->workers, 5);
    config_unref(config);
    config_errors_destroy(errors);
    remove_place(&place);
}
