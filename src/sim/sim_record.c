#include "build_config.h"

#include "sim/sim_record.h"

#include <event2/buffer.h>
#include <event2/http.h>
#include <event2/keyvalq_struct.h>
#include <inttypes.h>
#include <openssl/evp.h>
#include <stdlib.h>
#include <string.h>

#include "sim/sim_clock.h"
#include "sim/sim_exchange.h"
#include "sim/sim_job.h"

enum { JOBS_KEPT = 100000, RUNS_KEPT = 100000, START_BYTES = 256, INPUT_START_BYTES = 512 };

/* One allocation: the strings follow each other in `text`, each terminated; then `start_length`
 * bytes of the body. */
struct entry {
    int64_t number;
    int64_t wall_ms;
    int64_t delay_ms;
    int64_t execution_ms;
    size_t bytes;
    size_t start_length;
    size_t field_pairs;
    unsigned char digest[32];
    const char *state;
    const char *kind;
    char text[];
};

struct ring {
    struct entry **entries;
    size_t size;
    int64_t next;  /* number of the next entry; numbers begin with 1 */
    int64_t count; /* since the last clear */
};

struct sim_record {
    struct ring rings[RECORD_LISTS];
    FILE *log;
    EVP_MD_CTX *digest;
};

struct sim_record *record_create(int64_t requests_kept, FILE *log)
{
    const size_t sizes[RECORD_LISTS] = {(size_t)requests_kept, (size_t)requests_kept, JOBS_KEPT,
                                        RUNS_KEPT};
    struct sim_record *record = calloc(1, sizeof *record);
    if (!record)
        return NULL;
    record->log = log;
    record->digest = EVP_MD_CTX_new();
    bool complete = record->digest != NULL;
    for (int i = 0; i < RECORD_LISTS; i++) {
        struct ring *ring = &record->rings[i];
        ring->next = 1;
        ring->size = sizes[i];
        ring->entries = ring->size ? calloc(ring->size, sizeof *ring->entries) : NULL;
        complete = complete && (ring->entries || ring->size == 0);
    }
    if (complete)
        return record;
    record_destroy(record);
    return NULL;
}

void record_clear(struct sim_record *record, enum record_list list)
{
    struct ring *ring = &record->rings[list];
    for (size_t i = 0; i < ring->size; i++) {
        free(ring->entries[i]);
        ring->entries[i] = NULL;
    }
    ring->count = 0;
}

void record_destroy(struct sim_record *record)
{
    if (!record)
        return;
    for (int i = 0; i < RECORD_LISTS; i++) {
        if (record->rings[i].entries)
            record_clear(record, (enum record_list)i);
        free(record->rings[i].entries);
    }
    EVP_MD_CTX_free(record->digest);
    free(record);
}

static struct entry *entry_create(size_t text_bytes)
{
    struct entry *entry = calloc(1, sizeof *entry + text_bytes);
    if (entry)
        entry->wall_ms = sim_clock_wall_ms();
    return entry;
}

static char *put_string(char *at, const char *string)
{
    size_t length = strlen(string) + 1;
    memcpy(at, string, length);
    return at + length;
}

static void put_start(struct sim_record *record, struct entry *entry, char *at,
                      struct sim_text bytes, size_t limit)
{
    entry->bytes = bytes.length;
    entry->start_length = bytes.length < limit ? bytes.length : limit;
    memcpy(at, bytes.data, entry->start_length);
    if (!EVP_DigestInit_ex(record->digest, EVP_sha256(), NULL) ||
        !EVP_DigestUpdate(record->digest, bytes.data, bytes.length) ||
        !EVP_DigestFinal_ex(record->digest, entry->digest, NULL))
        memset(entry->digest, 0, sizeof entry->digest);
}

static void ring_add(struct sim_record *record, enum record_list list, struct entry *entry)
{
    struct ring *ring = &record->rings[list];
    entry->number = ring->next++;
    ring->count++;
    struct entry **slot = &ring->entries[(size_t)entry->number % ring->size];
    free(*slot);
    *slot = entry;
}

static void digest_hex(const struct entry *entry, char out[65])
{
    for (size_t i = 0; i < sizeof entry->digest; i++)
        snprintf(out + 2 * i, 3, "%02x", entry->digest[i]);
}

void record_request(struct sim_record *record, const struct exchange *exchange,
                    enum record_list list)
{
    if (record->rings[list].size == 0) {
        record->rings[list].count++;
        return;
    }
    struct evkeyvalq *fields = evhttp_request_get_input_headers(exchange->request);
    size_t length = strlen(exchange->method) + strlen(exchange->target) + 2 + START_BYTES;
    struct evkeyval *field;
    TAILQ_FOREACH(field, fields, next)
    length += strlen(field->key) + strlen(field->value) + 2;
    struct entry *entry = entry_create(length);
    if (!entry)
        return;
    char *at = put_string(entry->text, exchange->method);
    at = put_string(at, exchange->target);
    TAILQ_FOREACH(field, fields, next)
    {
        at = put_string(at, field->key);
        at = put_string(at, field->value);
        entry->field_pairs++;
    }
    put_start(record, entry, at, exchange->body, START_BYTES);
    ring_add(record, list, entry);
    if (record->log) {
        char hex[65];
        digest_hex(entry, hex);
        fprintf(record->log,
                "event=%s number=%" PRId64 " method=%s target=%s bytes=%zu sha256=%s\n",
                list == RECORD_REQUESTS ? "request" : "worker_request", entry->number,
                exchange->method, exchange->target, entry->bytes, hex);
        fflush(record->log);
    }
}

static const char *kind_name(enum job_kind kind)
{
    switch (kind) {
    case JOB_KIND_RUN: return "run";
    case JOB_KIND_RUNSYNC: return "runsync";
    case JOB_KIND_OPENAI: return "openai";
    }
    return "unknown";
}

void record_job(struct sim_record *record, const struct job *job)
{
    struct entry *entry =
        entry_create(strlen(job->endpoint->id) + strlen(job->id) + 2 + INPUT_START_BYTES);
    if (!entry)
        return;
    char *at = put_string(entry->text, job->endpoint->id);
    at = put_string(at, job->id);
    entry->kind = kind_name(job->kind);
    put_start(record, entry, at, blob_text(job->input), INPUT_START_BYTES);
    ring_add(record, RECORD_JOBS, entry);
    if (record->log) {
        fprintf(record->log,
                "event=job number=%" PRId64 " endpoint=%s job=%s operation=%s bytes=%zu\n",
                entry->number, job->endpoint->id, job->id, entry->kind, entry->bytes);
        fflush(record->log);
    }
}

void record_run(struct sim_record *record, const struct job *job)
{
    struct entry *entry =
        entry_create(strlen(job->endpoint->id) + strlen(job->id) + strlen(job->worker_id) + 3);
    if (!entry)
        return;
    char *at = put_string(entry->text, job->endpoint->id);
    at = put_string(at, job->id);
    put_string(at, job->worker_id);
    entry->kind = kind_name(job->kind);
    entry->state = job_state_name(job->state);
    entry->delay_ms = job->delay_ms;
    entry->execution_ms = job->execution_ms;
    ring_add(record, RECORD_RUNS, entry);
    if (record->log) {
        fprintf(record->log,
                "event=run number=%" PRId64 " endpoint=%s job=%s state=%s delay_ms=%" PRId64
                " execution_ms=%" PRId64 " worker=%s\n",
                entry->number, job->endpoint->id, job->id, entry->state, entry->delay_ms,
                entry->execution_ms, job->worker_id);
        fflush(record->log);
    }
}

static const char *write_next(struct evbuffer *out, const char *name, const char *at)
{
    size_t length = strlen(at);
    if (name)
        evbuffer_add_printf(out, ",\"%s\":", name);
    sim_json_quote(out, at, length);
    return at + length + 1;
}

static void write_start(struct evbuffer *out, const struct entry *entry, const char *prefix,
                        const char *at)
{
    char hex[65];
    digest_hex(entry, hex);
    evbuffer_add_printf(out, ",\"%sBytes\":%zu,\"%sSha256\":\"%s\",\"%sStart\":", prefix,
                        entry->bytes, prefix, hex, prefix);
    sim_json_quote(out, at, entry->start_length);
}

static void write_entry(struct evbuffer *out, enum record_list list, const struct entry *entry)
{
    const char *at = entry->text;
    evbuffer_add_printf(out, "{\"number\":%" PRId64 ",\"wallMs\":%" PRId64, entry->number,
                        entry->wall_ms);
    switch (list) {
    case RECORD_REQUESTS:
    case RECORD_WORKER_REQUESTS:
        at = write_next(out, "method", at);
        at = write_next(out, "target", at);
        evbuffer_add_printf(out, ",\"headers\":[");
        for (size_t i = 0; i < entry->field_pairs; i++) {
            evbuffer_add_printf(out, i ? ",[" : "[");
            at = write_next(out, NULL, at);
            evbuffer_add(out, ",", 1);
            at = write_next(out, NULL, at);
            evbuffer_add(out, "]", 1);
        }
        evbuffer_add(out, "]", 1);
        write_start(out, entry, "body", at);
        break;
    case RECORD_JOBS:
        at = write_next(out, "endpoint", at);
        at = write_next(out, "id", at);
        evbuffer_add_printf(out, ",\"operation\":\"%s\"", entry->kind);
        write_start(out, entry, "input", at);
        break;
    case RECORD_RUNS:
        at = write_next(out, "endpoint", at);
        at = write_next(out, "id", at);
        write_next(out, "workerId", at);
        evbuffer_add_printf(out,
                            ",\"operation\":\"%s\",\"state\":\"%s\",\"delayTime\":%" PRId64
                            ",\"executionTime\":%" PRId64,
                            entry->kind, entry->state, entry->delay_ms, entry->execution_ms);
        break;
    case RECORD_LISTS: break;
    }
    evbuffer_add(out, "}", 1);
}

void record_write(struct evbuffer *out, const struct sim_record *record, enum record_list list,
                  int64_t since)
{
    const struct ring *ring = &record->rings[list];
    int64_t first = ring->next - (int64_t)ring->size;
    bool comma = false;
    if (first <= since)
        first = since + 1;
    evbuffer_add(out, "[", 1);
    for (int64_t number = first < 1 ? 1 : first; ring->size && number < ring->next; number++) {
        const struct entry *entry = ring->entries[(size_t)number % ring->size];
        if (!entry || entry->number != number)
            continue;
        if (comma)
            evbuffer_add(out, ",\n", 2);
        write_entry(out, list, entry);
        comma = true;
    }
    evbuffer_add(out, "]", 1);
}

int64_t record_count(const struct sim_record *record, enum record_list list)
{
    return record->rings[list].count;
}
