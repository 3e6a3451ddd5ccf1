/* The one table of options. Parsing, defaults, validation, `--dump` and the check of the manual
 * page read it: an option that is here exists everywhere. */
#include "build_config.h"

#include <string.h>

#include "model/config_internal.h"

#define MS UINT64_C(1)
#define SECOND (1000 * MS)
#define MINUTE (60 * SECOND)
#define HOUR (60 * MINUTE)
#define DAY (24 * HOUR)
#define KIB UINT64_C(1024)
#define MIB (1024 * KIB)
#define TIB (1024 * 1024 * MIB)

static const char *const words_backend[] = {"embedded", "redis", NULL};
static const char *const words_on_outage[] = {"spool", "refuse", NULL};
static const char *const words_dedupe[] = {"off", "input", NULL};
static const char *const words_runsync[] = {"passthrough", "durable", NULL};
static const char *const words_stream_cancelled[] = {"failed", "faithful", NULL};
static const char *const words_log_format[] = {"logfmt", "json", NULL};
static const char *const words_log_level[] = {"error", "warning", "info", "debug", NULL};

/* One line an option; what isn't named is zero. */
#define OPTION(NAME, KIND, TYPE, FIELD, FALLBACK, ...)                                             \
    {                                                                                              \
        .name = NAME, .kind = CONFIG_KIND_##KIND, .offset = offsetof(TYPE, FIELD),                 \
        .fallback = FALLBACK, __VA_ARGS__                                                          \
    }
#define BOUNDS(MINIMUM, MAXIMUM) .minimum = (MINIMUM), .maximum = (MAXIMUM)
#define LATER .later = true

#define R struct config_root
static const struct config_option root_options[] = {
    OPTION("listen", ADDRESSES, R, listen, "127.0.0.1:8080", BOUNDS(1, 64)),
    OPTION("proxy_protocol_from", NETWORKS, R, proxy_protocol_from, NULL, BOUNDS(0, 256)),
    OPTION("admin_listen", ADDRESS, R, admin_listen, "127.0.0.1:8081", BOUNDS(0, 1)),
    OPTION("admin_socket", PATH, R, admin_socket, NULL, BOUNDS(0, 1)),
    OPTION("admin_token_file", SECRET, R, admin_token_file, NULL, LATER),
    OPTION("workers", COUNT, R, workers, "0", BOUNDS(0, 256)),
    OPTION("drain_timeout", DURATION, R, drain_timeout_ms, "30s", BOUNDS(0, HOUR)),
    OPTION("cors_origins", ORIGINS, R, cors_origins, NULL, BOUNDS(0, 64)),
    OPTION("server_timing", BOOLEAN, R, server_timing, "false", BOUNDS(0, 1)),
};
#undef R

#define T struct config_tls
static const struct config_option tls_options[] = {
    OPTION("certificate", FILE, T, certificate, NULL, BOUNDS(1, 1)),
    OPTION("key", SECRET, T, key, NULL, BOUNDS(1, 1)),
    OPTION("names", SERVER_NAMES, T, names, NULL, BOUNDS(0, 256)),
};
#undef T

#define U struct config_upstream_options
static const struct config_option upstream_options[] = {
    OPTION("url", URL, U, fields.url, "https://api.runpod.ai/v2", BOUNDS(1, 1)),
    OPTION("api_key_file", SECRET, U, fields.api_key_file, NULL, BOUNDS(0, 1)),
    OPTION("api_key_env", VARIABLE, U, fields.api_key_env, NULL, BOUNDS(0, 1)),
    OPTION("api_key_credential", CREDENTIAL, U, api_key_credential, NULL, BOUNDS(0, 1)),
    OPTION("ca_file", FILE, U, fields.ca_file, NULL, BOUNDS(0, 1)),
    OPTION("verify", BOOLEAN, U, fields.verify, "true", BOUNDS(0, 1)),
    OPTION("proxy", PROXY, U, fields.proxy, NULL, BOUNDS(0, 1)),
    OPTION("connect_timeout", DURATION, U, fields.connect_timeout_ms, "5s", BOUNDS(10, MINUTE)),
    OPTION("submit_timeout", DURATION, U, fields.submit_timeout_ms, "30s", BOUNDS(100, HOUR)),
    OPTION("read_timeout", DURATION, U, fields.read_timeout_ms, "8s", BOUNDS(100, HOUR)),
    OPTION("runsync_margin", DURATION, U, fields.runsync_margin_ms, "10s", BOUNDS(100, HOUR)),
    OPTION("idle_timeout", DURATION, U, fields.idle_timeout_ms, "5m", BOUNDS(SECOND, DAY)),
    OPTION("keepalive", DURATION, U, fields.keepalive_ms, "50s", BOUNDS(SECOND, HOUR)),
    OPTION("dns_refresh", DURATION, U, fields.dns_refresh_ms, "30s", BOUNDS(SECOND, DAY)),
    OPTION("max_connections", COUNT, U, fields.max_connections, "1024", BOUNDS(1, 1000000)),
    OPTION("max_waiting", COUNT, U, fields.max_waiting, "4096", BOUNDS(0, 1000000)),
    OPTION("waiting_timeout", DURATION, U, fields.waiting_timeout_ms, "2s", BOUNDS(10, HOUR)),
    OPTION("retention_run", DURATION, U, fields.retention_run_ms, "30m", BOUNDS(100, 365 * DAY)),
    OPTION("retention_runsync", DURATION, U, fields.retention_runsync_ms, "60s",
           BOUNDS(100, 365 * DAY)),
};
#undef U

#define S struct config_store
static const struct config_option store_options[] = {
    OPTION("backend", WORD, S, backend, "embedded", .words = words_backend),
    OPTION("path", PATH, S, path, PODGATE_LOCALSTATEDIR "/lib/podgate/podgate.db", BOUNDS(0, 1)),
    OPTION("url", STORE_URL, S, url, "redis://127.0.0.1:6379/0", BOUNDS(0, 1)),
    OPTION("user", TEXT, S, user, NULL, BOUNDS(0, 128)),
    OPTION("password_file", SECRET, S, password_file, NULL, BOUNDS(0, 1)),
    OPTION("prefix", TEXT, S, prefix, "podgate", BOUNDS(1, 64)),
    OPTION("on_outage", WORD, S, on_outage, "spool", .words = words_on_outage),
    OPTION("require_durable", BOOLEAN, S, require_durable, "false", BOUNDS(0, 1)),
    OPTION("instances", COUNT, S, instances, "1", BOUNDS(1, 1000)),
    OPTION("input_key_file", SECRET, S, input_key_file, NULL, BOUNDS(0, 1)),
};
#undef S

#define M struct config_memory
static const struct config_option memory_options[] = {
    OPTION("bodies", SIZE, M, bodies_bytes, "256MiB", BOUNDS(MIB, TIB)),
    OPTION("hot_results", SIZE, M, hot_results_bytes, "128MiB", BOUNDS(0, TIB)),
    OPTION("connections", COUNT, M, connections, "16384", BOUNDS(1, 10000000)),
    OPTION("connections_per_address", COUNT, M, connections_per_address, "4096",
           BOUNDS(0, 10000000)),
};
#undef M

#define N struct config_retention
static const struct config_option retention_options[] = {
    OPTION("completed", DURATION, N, completed_ms, "7d", BOUNDS(SECOND, 3650 * DAY)),
    OPTION("failed", DURATION, N, failed_ms, "7d", BOUNDS(SECOND, 3650 * DAY)),
    OPTION("cancelled", DURATION, N, cancelled_ms, "0", BOUNDS(0, 3650 * DAY)),
    OPTION("timed_out", DURATION, N, timed_out_ms, "0", BOUNDS(0, 3650 * DAY)),
    OPTION("max_result", SIZE, N, max_result_bytes, "32MiB", BOUNDS(KIB, 1024 * MIB)),
    OPTION("max_total", SIZE, N, max_total_bytes, "10GiB", BOUNDS(MIB, 1024 * TIB)),
};
#undef N

#define C struct config_collector
static const struct config_option collector_options[] = {
    OPTION("first_poll", DURATION, C, first_poll_ms, "1s", BOUNDS(10, HOUR)),
    OPTION("max_poll", DURATION, C, max_poll_ms, "20s", BOUNDS(100, HOUR)),
};
#undef C

#define O struct config_timeouts
static const struct config_option timeouts_options[] = {
    OPTION("head", DURATION, O, head_ms, "10s", BOUNDS(100, HOUR)),
    OPTION("body", DURATION, O, body_ms, "10s", BOUNDS(100, HOUR)),
    OPTION("idle", DURATION, O, idle_ms, "120s", BOUNDS(100, DAY)),
    OPTION("send", DURATION, O, send_ms, "30s", BOUNDS(100, DAY)),
    OPTION("handshake", DURATION, O, handshake_ms, "10s", BOUNDS(100, HOUR)),
};
#undef O

#define L struct config_log
static const struct config_option log_options[] = {
    OPTION("format", WORD, L, format, "logfmt", .words = words_log_format),
    OPTION("level", WORD, L, level, "info", .words = words_log_level),
};
#undef L

#define G struct config_team
static const struct config_option team_options[] = {
    OPTION("weight", COUNT, G, weight, "1", LATER, BOUNDS(1, 1000)),
    OPTION("endpoints", ENDPOINTS, G, endpoints, "*", BOUNDS(1, 10000)),
    OPTION("jobs_outstanding", BIG_COUNT, G, jobs_outstanding, "10000", LATER,
           BOUNDS(0, 1000000000)),
    OPTION("gpu_seconds_per_day", BIG_COUNT, G, gpu_seconds_per_day, "0", LATER,
           BOUNDS(0, UINT64_C(1000000000000))),
};
#undef G

#define K struct config_key_options
static const struct config_option key_options[] = {
    OPTION("sha256", SHA256, K, sha256, NULL, BOUNDS(1, 1)),
    OPTION("operations", OPERATIONS, K, operations,
           "run runsync status stream cancel retry health purge openai", BOUNDS(1, 64)),
    OPTION("endpoints", ENDPOINTS, K, endpoints, NULL, BOUNDS(1, 10000)),
    OPTION("rate", RATES, K, rates, NULL, BOUNDS(0, KEY_STATE_LIMITS)),
    OPTION("burst", COUNT, K, burst, "0", BOUNDS(0, 1000000)),
    OPTION("concurrency", COUNT, K, concurrency, "0", BOUNDS(0, 1000000)),
    OPTION("expires", DATE, K, expires_wall_ms, NULL, BOUNDS(0, 1)),
    OPTION("allow_from", NETWORKS, K, allow_from, NULL, BOUNDS(1, 10000)),
};
#undef K

#define E struct config_endpoint
static const struct config_option endpoint_options[] = {
    OPTION("retention_completed", DURATION, E, retention_completed_ms, NULL,
           BOUNDS(SECOND, 3650 * DAY)),
    OPTION("retention_failed", DURATION, E, retention_failed_ms, NULL, BOUNDS(SECOND, 3650 * DAY)),
    OPTION("retention_cancelled", DURATION, E, retention_cancelled_ms, NULL, BOUNDS(0, 3650 * DAY)),
    OPTION("retention_timed_out", DURATION, E, retention_timed_out_ms, NULL, BOUNDS(0, 3650 * DAY)),
    OPTION("max_result", SIZE, E, max_result_bytes, NULL, BOUNDS(KIB, 1024 * MIB)),
    OPTION("dedupe", WORD, E, dedupe, "off", .words = words_dedupe),
    OPTION("runsync", WORD, E, runsync, "passthrough", .words = words_runsync),
    OPTION("keep_input", BOOLEAN, E, keep_input, "false", BOUNDS(0, 1)),
    OPTION("status_freshness", DURATION, E, status_freshness_ms, "500ms", BOUNDS(0, MINUTE)),
    OPTION("capture_stream", BOOLEAN, E, capture_stream, "false", BOUNDS(0, 1)),
    OPTION("phantom_grace", DURATION, E, phantom_grace_ms, "150s", BOUNDS(0, HOUR)),
    OPTION("stream_cancelled", WORD, E, stream_cancelled, "failed",
           .words = words_stream_cancelled),
};
#undef E

#define SECTION(NAME, PARENT, OPTIONS, ...)                                                        \
    {                                                                                              \
        .name = NAME, .parent = CONFIG_SECTION_##PARENT, .options = OPTIONS,                       \
        .option_count = sizeof(OPTIONS) / sizeof((OPTIONS)[0]), __VA_ARGS__                        \
    }
#define ONCE(FIELD) .offset = offsetof(struct config, FIELD)

const struct config_section config_sections[CONFIG_SECTIONS] = {
    [CONFIG_SECTION_ROOT] = SECTION("", ROOT, root_options, .offset = 0),
    [CONFIG_SECTION_TLS] = SECTION("tls", ROOT, tls_options, .repeated = true),
    [CONFIG_SECTION_UPSTREAM] = SECTION("upstream", ROOT, upstream_options, ONCE(upstream)),
    [CONFIG_SECTION_STORE] = SECTION("store", ROOT, store_options, ONCE(store)),
    [CONFIG_SECTION_MEMORY] = SECTION("memory", ROOT, memory_options, ONCE(memory)),
    [CONFIG_SECTION_RETENTION] = SECTION("retention", ROOT, retention_options, ONCE(retention)),
    [CONFIG_SECTION_COLLECTOR] = SECTION("collector", ROOT, collector_options, ONCE(collector)),
    [CONFIG_SECTION_TIMEOUTS] = SECTION("timeouts", ROOT, timeouts_options, ONCE(timeouts)),
    [CONFIG_SECTION_LOG] = SECTION("log", ROOT, log_options, ONCE(log)),
    [CONFIG_SECTION_TEAM] = SECTION("team", ROOT, team_options, .titled = true, .repeated = true),
    [CONFIG_SECTION_KEY] = SECTION("key", TEAM, key_options, .titled = true, .repeated = true),
    [CONFIG_SECTION_ENDPOINT] =
        SECTION("endpoint", ROOT, endpoint_options, .titled = true, .repeated = true),
};

int config_option_find(enum config_section_name section, const char *name)
{
    for (size_t i = 0; i < config_sections[section].option_count; i++)
        if (strcmp(config_sections[section].options[i].name, name) == 0)
            return (int)i;
    return -1;
}

int config_section_find(enum config_section_name parent, const char *name)
{
    for (int i = CONFIG_SECTION_ROOT + 1; i < CONFIG_SECTIONS; i++)
        if (config_sections[i].parent == parent && strcmp(config_sections[i].name, name) == 0)
            return i;
    return -1;
}

enum { NAME_MAX_LENGTH = 40 };

/* Levenshtein's distance with swaps of neighbours (optimal string alignment): "expries" is one
 * mistake from "expires". Names above NAME_MAX_LENGTH are near to nothing. */
static size_t distance_between(const char *left, const char *right)
{
    size_t rows = strlen(left);
    size_t columns = strlen(right);
    if (rows > NAME_MAX_LENGTH || columns > NAME_MAX_LENGTH)
        return SIZE_MAX;
    size_t table[NAME_MAX_LENGTH + 1][NAME_MAX_LENGTH + 1];
    for (size_t i = 0; i <= rows; i++)
        table[i][0] = i;
    for (size_t j = 0; j <= columns; j++)
        table[0][j] = j;
    for (size_t i = 1; i <= rows; i++) {
        for (size_t j = 1; j <= columns; j++) {
            size_t best = table[i - 1][j - 1] + (left[i - 1] == right[j - 1] ? 0 : 1);
            if (table[i - 1][j] + 1 < best)
                best = table[i - 1][j] + 1;
            if (table[i][j - 1] + 1 < best)
                best = table[i][j - 1] + 1;
            if (i > 1 && j > 1 && left[i - 1] == right[j - 2] && left[i - 2] == right[j - 1] &&
                table[i - 2][j - 2] + 1 < best)
                best = table[i - 2][j - 2] + 1;
            table[i][j] = best;
        }
    }
    return table[rows][columns];
}

struct suggestion {
    const char *name;
    const char *best;
    size_t distance;
};

/* Near is: at most a third of the letters (and one in any case) are wrong. */
static void suggestion_consider(struct suggestion *suggestion, const char *candidate)
{
    size_t distance = distance_between(suggestion->name, candidate);
    size_t near = strlen(suggestion->name) / 3;
    if (distance <= (near > 1 ? near : 1) && distance < suggestion->distance) {
        suggestion->distance = distance;
        suggestion->best = candidate;
    }
}

const char *config_option_suggest(enum config_section_name section, const char *name)
{
    struct suggestion suggestion = {.name = name, .distance = SIZE_MAX};
    for (size_t i = 0; i < config_sections[section].option_count; i++)
        suggestion_consider(&suggestion, config_sections[section].options[i].name);
    for (size_t i = CONFIG_SECTION_ROOT + 1; i < CONFIG_SECTIONS; i++)
        if (config_sections[i].parent == section)
            suggestion_consider(&suggestion, config_sections[i].name);
    if (section == CONFIG_SECTION_ROOT)
        suggestion_consider(&suggestion, "include");
    return suggestion.best;
}

const char *config_word_suggest(const char *const *words, const char *word)
{
    struct suggestion suggestion = {.name = word, .distance = SIZE_MAX};
    for (size_t i = 0; words[i] != NULL; i++)
        suggestion_consider(&suggestion, words[i]);
    return suggestion.best;
}
