/* The configuration: one table of options, strict validation with file and line, and an immutable
 * snapshot behind a reference count that threads read without a lock.
 *
 *     struct config_errors *errors = config_errors_create();
 *     struct config *config = config_load("/etc/podgate/podgate.conf", errors);
 *     if (config == NULL) config_errors_print(errors, stderr);      ...one line per mistake
 *     config_adopt(config, key_states);                             ...main thread, once
 *     request->config = config_ref(config); ... config_unref(request->config);
 *
 * Everything that hangs on a `struct config` lives as long as the configuration and never changes.
 * All views have a NUL behind their last byte, which doesn't count. Text that is not set has length
 * 0 (and data ""), never NULL. Durations are milliseconds, sizes bytes; 0 means "no limit" only
 * where a field says so.
 */
#ifndef PODGATE_MODEL_CONFIG_H
#define PODGATE_MODEL_CONFIG_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <sys/socket.h>

#include "base/bytes.h"
#include "base/compiler.h"
#include "base/log.h"
#include "model/address.h"
#include "model/job.h"
#include "model/key_state.h"
#include "model/limit.h"

/* What a key may do: bits of config_key.operations. */
enum config_operation {
    CONFIG_OPERATION_RUN = 1u << 0,
    CONFIG_OPERATION_RUNSYNC = 1u << 1,
    CONFIG_OPERATION_STATUS = 1u << 2, /* with status-sync and the team's job list */
    CONFIG_OPERATION_STREAM = 1u << 3,
    CONFIG_OPERATION_CANCEL = 1u << 4,
    CONFIG_OPERATION_RETRY = 1u << 5,
    CONFIG_OPERATION_HEALTH = 1u << 6,
    CONFIG_OPERATION_PURGE = 1u << 7,
    CONFIG_OPERATION_OPENAI = 1u << 8,
    /* Below: not among the defaults. */
    CONFIG_OPERATION_PURGE_ALL = 1u << 9,
    CONFIG_OPERATION_ADOPT = 1u << 10,
    CONFIG_OPERATION_REQUESTS = 1u << 11,
    CONFIG_OPERATION_BATCH = 1u << 12,
    CONFIG_OPERATION_DELETE = 1u << 13,
};

enum { CONFIG_OPERATIONS = 14, CONFIG_OPERATIONS_DEFAULT = 0x1ff };

/* The name of one operation bit as the configuration writes it ("purge-all"). */
const char *config_operation_text(enum config_operation operation);

/* A list of texts. */
struct config_texts {
    const struct view *items;
    size_t count;
};

/* A list of networks; an empty one means "not restricted" for allow_from and "from nobody" for
 * proxy_protocol_from. */
struct config_networks {
    const struct address_network *items;
    size_t count;
};

/* Where something listens: an address or a Unix path. */
struct config_address {
    struct view text;                /* as written, for messages: "tls:[::1]:8443" */
    bool tls;                        /* "tls:" in front */
    struct view unix_path;           /* set for "unix:/path"; then `address` is not */
    struct sockaddr_storage address; /* AF_INET or AF_INET6, with the port */
    socklen_t address_length;        /* 0 for a Unix path */
};

/* One certificate. The first one is sent to who names no known server. */
struct config_tls {
    struct view certificate;   /* path of a PEM file: chain, leaf first */
    struct view key;           /* path of a PEM file */
    struct config_texts names; /* "a.example" or "*.example"; none: the certificate's own names */
};

/* An http or https URL in its parts. */
struct config_url {
    struct view text;      /* as written, without a trailing slash */
    bool tls;              /* https */
    struct view host;      /* name or address; an IPv6 address without its brackets */
    uint16_t port;         /* 80 or 443 unless written */
    struct view path;      /* "/v2"; empty when there is none; no trailing slash */
    struct view authority; /* for Host: "host" or "host:port" when the port isn't the default */
};

struct config_upstream {
    struct config_url url;
    /* Where the Runpod key is: exactly one of the two is set. A systemd credential is a path by
     * now. Only upstream.c opens it. */
    struct view api_key_file;
    struct view api_key_env;
    struct view ca_file; /* empty: the system's store */
    bool verify;         /* false: certificates are not checked (warned about) */
    bool has_proxy;
    struct config_url proxy; /* http only; host and port */
    uint64_t connect_timeout_ms;
    uint64_t submit_timeout_ms; /* /run and other submits: after the last body byte */
    uint64_t read_timeout_ms;   /* status, health, cancel, ...: in all */
    uint64_t runsync_margin_ms; /* /runsync: wait plus this */
    uint64_t idle_timeout_ms;   /* /openai and other streams: silence */
    uint64_t keepalive_ms;      /* an unused pooled connection is closed after this */
    uint64_t dns_refresh_ms;
    uint32_t max_connections;    /* per podgate, all workers together */
    uint32_t max_waiting;        /* requests waiting for a connection, all workers together */
    uint64_t waiting_timeout_ms; /* how long one may wait */
    uint64_t retention_run_ms;
    uint64_t retention_runsync_ms;
};

enum config_store_backend { CONFIG_STORE_EMBEDDED, CONFIG_STORE_REDIS };
enum config_on_outage { CONFIG_ON_OUTAGE_SPOOL, CONFIG_ON_OUTAGE_REFUSE };

struct config_store {
    enum config_store_backend backend;
    enum config_on_outage on_outage;
    struct view path;
    struct view url;
    struct view user;          /* of Redis's ACL; empty: its default user */
    struct view password_file; /* empty: none */
    struct view prefix;
    bool require_durable;
    uint32_t instances;
    struct view input_key_file; /* kept inputs are encrypted with it; empty: they aren't */
};

struct config_memory {
    uint64_t bodies_bytes;            /* buffered for all requests together */
    uint64_t hot_results_bytes;       /* 0: no cache */
    uint32_t connections;             /* callers' connections in all */
    uint32_t connections_per_address; /* 0: no limit */
};

struct config_retention {
    uint64_t completed_ms;
    uint64_t failed_ms;
    uint64_t cancelled_ms; /* 0: as failed_ms */
    uint64_t timed_out_ms; /* 0: as failed_ms */
    uint64_t max_result_bytes;
    uint64_t max_total_bytes;
};

struct config_collector {
    uint64_t first_poll_ms;
    uint64_t max_poll_ms;
};

/* How long a caller may take. 0 is not allowed for any of them. */
struct config_timeouts {
    uint64_t head_ms;      /* from the first byte of a head (or the accept) to its end */
    uint64_t body_ms;      /* silence while a body is read */
    uint64_t idle_ms;      /* between two requests of one connection */
    uint64_t send_ms;      /* a caller that takes no byte of its answer */
    uint64_t handshake_ms; /* TLS, and a PROXY protocol head */
};

struct config_log {
    enum log_format format;
    enum log_level level;
};

/* A tenant. */
struct config_team {
    struct view name;
    uint32_t index; /* 0..team_count-1, in the order of the file */
    uint32_t weight;
    struct config_texts endpoints; /* see config_endpoint_allowed() */
    uint64_t jobs_outstanding;     /* 0: no limit */
    uint64_t gpu_seconds_per_day;  /* 0: no limit */
};

/* A caller's key. */
struct config_key {
    struct view id;
    uint8_t sha256[32]; /* of the whole key string */
    const struct config_team *team;
    struct key_state *state; /* mutable, survives a reload; NULL before config_adopt() */
    const struct config_texts *endpoints; /* NULL: the team's alone decide; else both must allow */
    const struct limit_policy *rates;     /* rate_count of them; state->limits[i] goes with i */
    const struct config_rate *rates_written;  /* for config_dump() */
    const struct config_networks *allow_from; /* NULL: from anywhere */
    uint64_t expires_wall_ms;                 /* refused from this moment on; 0: never */
    uint32_t operations;                      /* bits of enum config_operation */
    uint32_t concurrency;                     /* 0: no limit */
    uint32_t burst;                           /* as written, 0: not; the policies have it in them */
    uint32_t index;                           /* 0..key_count-1, in the order of the file */
    uint8_t rate_count;
};

enum config_dedupe { CONFIG_DEDUPE_OFF, CONFIG_DEDUPE_INPUT };
enum config_runsync { CONFIG_RUNSYNC_PASSTHROUGH, CONFIG_RUNSYNC_DURABLE };
enum config_stream_cancelled { CONFIG_STREAM_CANCELLED_FAILED, CONFIG_STREAM_CANCELLED_FAITHFUL };

/* What holds for one endpoint; the one named "*" for all that have no section of their own, and for
 * the options that such a section leaves out. */
struct config_endpoint {
    struct view name;
    enum config_dedupe dedupe;
    enum config_runsync runsync;
    enum config_stream_cancelled stream_cancelled;
    bool keep_input;
    bool capture_stream;
    uint64_t status_freshness_ms;    /* 0: every status goes to upstream */
    uint64_t phantom_grace_ms;       /* 0: off */
    uint64_t retention_completed_ms; /* see config_endpoint_keep_ms() */
    uint64_t retention_failed_ms;
    uint64_t retention_cancelled_ms; /* 0: as failed */
    uint64_t retention_timed_out_ms; /* 0: as failed */
    uint64_t max_result_bytes;
};

/* The snapshot. */
struct config {
    struct view file; /* the path it was loaded from */

    const struct config_address *listen;
    size_t listen_count;
    struct config_networks proxy_protocol_from;
    struct config_address admin_listen; /* address_length 0 and no path: off */
    struct view admin_socket;           /* a path; empty: off. Under systemd set by default */
    struct view admin_token_file;       /* empty: no dashboard */
    uint32_t workers;                   /* 0: one per core */
    uint64_t drain_timeout_ms;
    struct config_texts cors_origins; /* "https://a.example" or "*"; none: off */
    bool server_timing;

    const struct config_tls *tls;
    size_t tls_count;

    struct config_upstream upstream;
    struct config_store store;
    struct config_memory memory;
    struct config_retention retention;
    struct config_collector collector;
    struct config_timeouts timeouts;
    struct config_log log;

    const struct config_team *teams;
    size_t team_count;
    const struct config_key *keys;
    size_t key_count;
    const struct config_endpoint *endpoints; /* the first is "*" */
    size_t endpoint_count;

    struct config_private *private; /* config.c's own: arena, indexes, count of references */
};

/* What was wrong (or worth a warning), one text per mistake: "file:line: what, what was expected".
 */
struct config_errors;

/* An empty list; NULL without memory. */
struct config_errors *config_errors_create(void);

/* Frees the list. NULL is allowed. */
void config_errors_destroy(struct config_errors *errors);

/* How many mistakes were found. Warnings don't count. */
size_t config_errors_count(const struct config_errors *errors);

/* The text of mistake `index`, without a line feed, in the order of the files. Owned by the list.
 */
const char *config_errors_text(const struct config_errors *errors, size_t index);

/* How many warnings there are, and the text of one, as above. They are there after a success too.
 */
size_t config_warnings_count(const struct config_errors *errors);
const char *config_warnings_text(const struct config_errors *errors, size_t index);

/* Prints every mistake and then every warning ("file:line: warning: ..."), one a line. */
void config_errors_print(const struct config_errors *errors, FILE *stream);

/* Loads and validates the file with all that it includes. Gives a snapshot with one reference,
 * which is the caller's; or NULL, and `errors` says why (all mistakes found, not only the first).
 * Reads files: not for workers. One thread at a time per process is served; others wait. */
MUST_CHECK struct config *config_load(const char *path, struct config_errors *errors);

/* The same for a text in memory; `name` stands in messages for the file. `include` and paths are
 * taken as from the current directory. With `check_files` false nothing outside of the text is
 * looked at: no include, and files named may be missing (for fuzzing and tests). */
MUST_CHECK struct config *config_load_text(const char *name, struct view text, bool check_files,
                                           struct config_errors *errors);

/* Gives every key its state from the table (made where the id is new), and keeps the table's states
 * referenced until the configuration is freed. Once, on the thread that loads, before workers see
 * it. False without memory: then the configuration can't be used. */
MUST_CHECK bool config_adopt(struct config *config, struct key_state_table *states);

/* One more reference. Any thread. */
const struct config *config_ref(const struct config *config);

/* One less; the last one frees everything. Any thread. NULL is allowed. */
void config_unref(const struct config *config);

/* The key with this id, or NULL. The id is no secret; the hash decides. Any thread, no lock. */
const struct config_key *config_find_key(const struct config *config, struct view id);

/* The section for an endpoint, else the one of "*". Never NULL. Any thread, no lock. */
const struct config_endpoint *config_find_endpoint(const struct config *config, struct view name);

/* How long the result of a job that ended in `state` is kept: FAILED's retention counts for what
 * has none of its own. */
uint64_t config_endpoint_keep_ms(const struct config_endpoint *endpoint, enum job_state state);

/* True when team and key both allow the endpoint: exact names, "prefix*" and "*". The endpoint
 * `flash` (it reaches any other by headers) must be named exactly by the key's list, or by the
 * team's when the key has none. */
bool config_endpoint_allowed(const struct config_key *key, struct view endpoint);

/* True when the key may be used from this address: no allow_from, or one of its networks holds it
 * (a Unix socket's peer is in none). */
bool config_key_allowed_from(const struct config_key *key, const struct address *address);

/* Reads "127.0.0.1:8080", "[::1]:8080" or "unix:/path", each with "tls:" in front if wanted. NULL:
 * `address` is filled, with views into `text`; else what was expected, a literal. */
MUST_CHECK const char *config_parse_address(struct view text, struct config_address *address);

/* "90s" in ms, s, m, h or d; "0" needs no unit. False: not that, or too large. */
MUST_CHECK bool config_parse_duration(struct view text, uint64_t *duration_ms);

/* "2027-01-01" (its beginning, UTC) or an RFC 3339 date-time, not before 1970; what is finer than a
 * millisecond is dropped. False: not that. */
MUST_CHECK bool config_parse_date(struct view text, uint64_t *wall_ms);

/* True for a name that a team may have: at most 64 letters, digits and _.- */
bool config_team_name_valid(struct view text);

/* Writes the effective configuration, all defaults filled in, in the file's own syntax. Hashes are
 * shortened; other secrets aren't in a configuration at all. */
void config_dump(const struct config *config, FILE *stream);

#endif
