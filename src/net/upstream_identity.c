#include "build_config.h"

#include <errno.h>
#include <fcntl.h>
#include <openssl/x509.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/secret.h"
#include "net/upstream_private.h"

/* The Runpod key and the trust in the upstream. The key lies in one locked page, inside the very
 * field lines that are sent, so that no copy of it is made for a request. Each change makes a new
 * `struct upstream_credentials`; workers see it by one atomic pointer. The old ones stay until the
 * end, since a worker may be in the middle of writing from any of them, and an upstream may still
 * echo them (one page each; keys change seldom). */

enum { KEY_MAXIMUM = 2048 };

/* Which state of the key file was read. */
struct file_mark {
    dev_t device;
    ino_t inode;
    off_t size;
    struct timespec modified;
    struct timespec changed; /* also when a file with an older time took its place */
};

/* What a TLS context was made from. */
struct trust {
    char *file; /* of the authorities, the system's included; owned */
    bool verify;
    struct file_mark mark;
};

struct upstream_identity {
    _Atomic(struct upstream_credentials *) current;
    _Atomic uint64_t generation;
    pthread_mutex_t lock; /* between main thread's calls; workers never take it */
    char *key_path;       /* NULL: the key is in the environment */
    struct file_mark mark;
    struct trust trust; /* of current->tls */
};

static void set_problem(char **problem, const char *what, const char *where, const char *why)
{
    struct builder text;
    size_t length;

    builder_init(&text, NULL, 0);
    builder_append(&text, view_of_string(what));
    if (where) {
        builder_append(&text, VIEW(" \""));
        builder_append(&text, view_of_string(where));
        builder_append(&text, VIEW("\""));
    }
    builder_append(&text, VIEW(": "));
    builder_append(&text, view_of_string(why));
    builder_append_byte(&text, '\0');
    *problem = builder_detach(&text, &length);
}

/* ---- reading the key */

static void mark_of(const struct stat *status, struct file_mark *mark)
{
    *mark = (struct file_mark){
        .device = status->st_dev,
        .inode = status->st_ino,
        .size = status->st_size,
        .modified = status->st_mtim,
        .changed = status->st_ctim,
    };
}

static bool is_same_time(struct timespec left, struct timespec right)
{
    return left.tv_sec == right.tv_sec && left.tv_nsec == right.tv_nsec;
}

static bool is_same_mark(const struct file_mark *left, const struct file_mark *right)
{
    return left->device == right->device && left->inode == right->inode &&
           left->size == right->size && is_same_time(left->modified, right->modified) &&
           is_same_time(left->changed, right->changed);
}

/* Reads all of a small file into `room`; NULL, or why it can't be used. */
static const char *read_key_file(const char *path, char room[KEY_MAXIMUM + 2], size_t *length,
                                 struct file_mark *mark)
{
    int descriptor = open(path, O_RDONLY | O_CLOEXEC | O_NOCTTY | O_NONBLOCK);
    const char *why = NULL;
    struct stat status;

    *length = 0;
    if (descriptor < 0) {
        return strerrordesc_np(errno);
    }
    if (fstat(descriptor, &status) != 0) {
        why = strerrordesc_np(errno);
    } else if (!S_ISREG(status.st_mode) && !S_ISFIFO(status.st_mode)) {
        why = "not a regular file";
    } else {
        mark_of(&status, mark);
    }
    while (!why && *length < KEY_MAXIMUM + 2) {
        ssize_t count = read(descriptor, room + *length, KEY_MAXIMUM + 2 - *length);

        if (count == 0) {
            break;
        }
        if (count > 0) {
            *length += (size_t)count;
        } else if (errno != EINTR) {
            why = strerrordesc_np(errno);
        }
    }
    (void)close(descriptor);
    return why;
}

/* The key in `text` without the line end that an editor leaves; or why it can't be one. */
static const char *find_key(const char *text, size_t length, struct view *key)
{
    if (length > 0 && text[length - 1] == '\n') {
        length--;
    }
    if (length > 0 && text[length - 1] == '\r') {
        length--;
    }
    *key = view_trim(view_make(text, length));
    if (key->length == 0) {
        return "it is empty, expected the API key of the upstream";
    }
    if (key->length > KEY_MAXIMUM) {
        return "it is too long for an API key (more than 2048 bytes)";
    }
    for (size_t i = 0; i < key->length; i++) {
        unsigned char byte = (unsigned char)key->data[i];

        if (byte <= ' ' || byte >= 0x7f) {
            return "it holds a space, a line break or another byte that no API key has; expected "
                   "one line with the key alone";
        }
    }
    return NULL;
}

/* ---- one state of it */

static struct upstream_credentials *make_credentials(struct view key)
{
    static const struct view before = VIEW_INIT("Authorization: Bearer ");
    static const struct view after = VIEW_INIT("\r\nAccept-Encoding: identity\r\n"
                                               "Connection: keep-alive\r\n\r\n");
    struct upstream_credentials *credentials = calloc(1, sizeof *credentials);
    char room[KEY_MAXIMUM + 128];
    size_t length = 0;

    if (!credentials) {
        return NULL;
    }
    memcpy(room, before.data, before.length);
    length += before.length;
    memcpy(room + length, key.data, key.length);
    length += key.length;
    memcpy(room + length, after.data, after.length);
    length += after.length;
    credentials->fields = secret_create(view_make(room, length));
    secret_wipe(room, sizeof room);
    if (!credentials->fields) {
        free(credentials);
        return NULL;
    }
    credentials->key =
        view_first(view_skip(secret_view(credentials->fields), before.length), key.length);
    return credentials;
}

static void free_credentials(struct upstream_credentials *credentials)
{
    if (credentials) {
        tls_client_destroy(credentials->tls);
        secret_destroy(credentials->fields);
        free(credentials->url);
        free(credentials);
    }
}

/* Reads the key from where `path` (a file) or `variable` say. NULL with `*problem`. */
static struct upstream_credentials *load_key(const char *path, const char *variable,
                                             struct file_mark *mark, char **problem)
{
    struct upstream_credentials *credentials = NULL;
    char room[KEY_MAXIMUM + 2];
    struct view key = {NULL, 0};
    const char *why;
    size_t length = 0;

    if (path) {
        why = read_key_file(path, room, &length, mark);
        if (!why) {
            why = find_key(room, length, &key);
        }
    } else {
        const char *value = variable ? getenv(variable) : NULL; /* NOLINT: main thread, at start */

        why = value ? find_key(value, strlen(value), &key) : "it is not set";
    }
    if (!why) {
        credentials = make_credentials(key);
        why = credentials ? NULL : "no memory";
    }
    if (why) {
        set_problem(problem, path ? "upstream API key file" : "upstream API key in variable",
                    path ? path : variable, why);
    }
    secret_wipe(room, sizeof room);
    return credentials;
}

/* ---- the identity */

static void publish(struct upstream_identity *identity, struct upstream_credentials *credentials)
{
    credentials->older = atomic_load_explicit(&identity->current, memory_order_relaxed);
    atomic_store_explicit(&identity->current, credentials, memory_order_release);
    atomic_fetch_add_explicit(&identity->generation, 1, memory_order_relaxed);
}

/* False without memory. */
static bool find_trust(const struct config_upstream *settings, struct trust *trust)
{
    const char *given = getenv(X509_get_default_cert_file_env()); /* NOLINT: main thread */
    const char *file = settings->ca_file.length > 0 ? settings->ca_file.data
                       : given                      ? given
                                                    : X509_get_default_cert_file();
    struct stat status;

    *trust = (struct trust){.file = strdup(file), .verify = settings->verify};
    if (stat(file, &status) == 0) {
        mark_of(&status, &trust->mark);
    }
    return trust->file != NULL;
}

static bool is_same_trust(const struct trust *left, const struct trust *right)
{
    return left->file && right->file && strcmp(left->file, right->file) == 0 &&
           left->verify == right->verify && is_same_mark(&left->mark, &right->mark);
}

/* As `config` says, with the TLS context that there is when nothing about it has changed: it takes
 * most of a megabyte, and stays. NULL with `*problem`. */
static struct upstream_credentials *load_all(struct upstream_identity *identity,
                                             const struct config *config, struct file_mark *mark,
                                             const struct trust *trust, char **problem)
{
    const struct upstream_credentials *current = upstream_identity_current(identity);
    const struct config_upstream *settings = &config->upstream;
    bool has_file = settings->api_key_file.length > 0;
    struct upstream_credentials *credentials = load_key(
        has_file ? settings->api_key_file.data : NULL, settings->api_key_env.data, mark, problem);

    if (!credentials) {
        return NULL;
    }
    credentials->url = strdup(settings->url.text.data);
    if (!credentials->url) {
        set_problem(problem, "upstream", NULL, "no memory");
        free_credentials(credentials);
        return NULL;
    }
    if (settings->url.tls) {
        credentials->tls = current && current->tls && is_same_trust(&identity->trust, trust)
                               ? tls_client_ref(current->tls)
                               : tls_client_create(settings, problem);
        if (!credentials->tls) {
            free_credentials(credentials);
            return NULL;
        }
    }
    return credentials;
}

struct upstream_identity *upstream_identity_create(const struct config *config, char **problem)
{
    struct upstream_identity *identity = calloc(1, sizeof *identity);

    *problem = NULL;
    if (!identity) {
        set_problem(problem, "upstream", NULL, "no memory");
        return NULL;
    }
    pthread_mutex_init(&identity->lock, NULL);
    atomic_init(&identity->current, NULL);
    if (!upstream_identity_adopt(identity, config, problem)) {
        upstream_identity_destroy(identity);
        return NULL;
    }
    return identity;
}

bool upstream_identity_adopt(struct upstream_identity *identity, const struct config *config,
                             char **problem)
{
    const struct upstream_credentials *current = upstream_identity_current(identity);
    struct upstream_credentials *credentials;
    struct file_mark mark = {0};
    struct trust trust;
    char *key_path = NULL;

    *problem = NULL;
    if (!find_trust(&config->upstream, &trust)) {
        set_problem(problem, "upstream", NULL, "no memory");
        return false;
    }
    if (config->upstream.api_key_file.length > 0) {
        key_path = strdup(config->upstream.api_key_file.data);
        if (!key_path) {
            free(trust.file);
            set_problem(problem, "upstream", NULL, "no memory");
            return false;
        }
    }
    credentials = load_all(identity, config, &mark, &trust, problem);
    if (!credentials) {
        free(trust.file);
        free(key_path);
        return false;
    }
    pthread_mutex_lock(&identity->lock);
    free(identity->key_path);
    identity->key_path = key_path;
    identity->mark = mark;
    free(identity->trust.file);
    identity->trust = trust;
    if (current && credentials->tls == current->tls &&
        strcmp(credentials->url, current->url) == 0 &&
        secret_equal_views(credentials->key, current->key)) {
        free_credentials(credentials); /* what is published stays to the end: nothing is in vain */
    } else {
        publish(identity, credentials);
    }
    pthread_mutex_unlock(&identity->lock);
    return true;
}

bool upstream_identity_refresh(struct upstream_identity *identity, char **problem)
{
    struct upstream_credentials *credentials;
    struct upstream_credentials *current;
    struct file_mark mark;
    struct stat status;
    bool is_right = true;

    *problem = NULL;
    pthread_mutex_lock(&identity->lock);
    if (!identity->key_path) {
        goto out;
    }
    if (stat(identity->key_path, &status) != 0) {
        set_problem(problem, "upstream API key file", identity->key_path, strerrordesc_np(errno));
        is_right = false;
        goto out;
    }
    mark_of(&status, &mark);
    if (is_same_mark(&mark, &identity->mark)) {
        goto out;
    }
    credentials = load_key(identity->key_path, NULL, &mark, problem);
    if (!credentials) {
        is_right = false;
        goto out;
    }
    identity->mark = mark;
    current = atomic_load_explicit(&identity->current, memory_order_relaxed);
    if (secret_equal_views(credentials->key, current->key)) {
        free_credentials(credentials); /* touched, but the same */
        goto out;
    }
    credentials->url = strdup(current->url);
    if (!credentials->url) {
        free_credentials(credentials);
        identity->mark = (struct file_mark){0}; /* looked at again next time */
        set_problem(problem, "upstream", NULL, "no memory");
        is_right = false;
        goto out;
    }
    if (current->tls) {
        credentials->tls = tls_client_ref(current->tls);
    }
    publish(identity, credentials);
out:
    pthread_mutex_unlock(&identity->lock);
    return is_right;
}

void upstream_identity_destroy(struct upstream_identity *identity)
{
    struct upstream_credentials *credentials;

    if (!identity) {
        return;
    }
    credentials = atomic_load(&identity->current);
    while (credentials) {
        struct upstream_credentials *older = credentials->older;

        free_credentials(credentials);
        credentials = older;
    }
    pthread_mutex_destroy(&identity->lock);
    free(identity->key_path);
    free(identity->trust.file);
    free(identity);
}

const struct upstream_credentials *
upstream_identity_current(const struct upstream_identity *identity)
{
    return atomic_load_explicit(&identity->current, memory_order_acquire);
}

const struct upstream_credentials *upstream_identity_for(const struct upstream_identity *identity,
                                                         struct view url)
{
    const struct upstream_credentials *current = upstream_identity_current(identity);
    const struct upstream_credentials *each = current;

    while (each && !view_equal(view_of_string(each->url), url)) {
        each = each->older;
    }
    return each ? each : current; /* every adopted configuration has its own: never the latter */
}

uint64_t upstream_identity_generation(const struct upstream_identity *identity)
{
    return atomic_load_explicit(&identity->generation, memory_order_relaxed);
}

bool upstream_identity_is_locked(const struct upstream_identity *identity)
{
    return secret_is_locked(upstream_identity_current(identity)->fields);
}

size_t upstream_identity_mask(struct upstream_identity *identity, char *bytes, size_t length)
{
    const struct upstream_credentials *credentials = upstream_identity_current(identity);
    size_t found = 0;

    while (credentials && length > 0) {
        struct view key = credentials->key;
        char *at = bytes;
        char *hit;

        while ((hit = memmem(at, length - (size_t)(at - bytes), key.data, key.length)) != NULL) {
            memset(hit, '*', key.length);
            at = hit + key.length;
            found++;
        }
        credentials = credentials->older;
    }
    return found;
}

static size_t tail_of_key(struct view key, const char *bytes, size_t length)
{
    size_t tail = length < key.length ? length : key.length - 1;

    while (tail > 0 && memcmp(bytes + length - tail, key.data, tail) != 0) {
        tail--;
    }
    return tail;
}

size_t upstream_identity_tail(struct upstream_identity *identity, const char *bytes, size_t length)
{
    size_t longest = 0;

    for (const struct upstream_credentials *each = upstream_identity_current(identity);
         each && length > 0; each = each->older) {
        size_t tail = tail_of_key(each->key, bytes, length);

        longest = tail > longest ? tail : longest;
    }
    return longest;
}
