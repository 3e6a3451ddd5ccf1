#include "build_config.h"

#include "net/tls_context.h"

#include <arpa/inet.h>
#include <openssl/err.h>
#include <openssl/pem.h>
#include <openssl/x509v3.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>

enum { HOST_MAXIMUM = 255 };

/* "\x08http/1.1", as ALPN writes lists (RFC 7301 section 3.1). */
static const unsigned char alpn_http11[] = {8, 'h', 't', 't', 'p', '/', '1', '.', '1'};

/* Writes "what "where": why", with OpenSSL's reason when `why` is NULL. */
static void set_problem(char **problem, const char *what, struct view where, const char *why)
{
    unsigned long code = ERR_peek_error(); /* the first is the cause, those behind it follow */
    struct builder text;
    size_t length;

    if (!why) {
        why = code != 0 && !ERR_SYSTEM_ERROR(code) ? ERR_reason_error_string(code) : NULL;
    }
    if (!why && code != 0) {
        why = strerrordesc_np(ERR_GET_REASON(code));
    }
    builder_init(&text, NULL, 0);
    builder_append(&text, view_of_string(what));
    if (where.length > 0) {
        builder_append(&text, VIEW(" \""));
        builder_append(&text, where);
        builder_append(&text, VIEW("\""));
    }
    builder_append(&text, VIEW(": "));
    builder_append(&text, view_of_string(why ? why : "not usable"));
    builder_append_byte(&text, '\0');
    *problem = builder_detach(&text, &length);
    ERR_clear_error();
}

/* What both sides have: no version below TLS 1.2, nothing that was ever a hole. */
static bool set_common(SSL_CTX *context)
{
    SSL_CTX_set_options(context, SSL_OP_NO_RENEGOTIATION | SSL_OP_NO_COMPRESSION |
                                     SSL_OP_CIPHER_SERVER_PREFERENCE);
    SSL_CTX_clear_options(context, SSL_OP_IGNORE_UNEXPECTED_EOF);
    return SSL_CTX_set_min_proto_version(context, TLS1_2_VERSION) == 1;
}

/* ---- callers' side */

/* A name that a certificate is for. */
struct server_name {
    char *text; /* lower case; what follows the '*' when `is_wildcard`: ".example.org" */
    size_t length;
    size_t context;
    bool is_wildcard;
};

/* Owned by the first context (as its ex_data), which every session refers to: so it goes when the
 * last session and the owner have given that up. */
struct tls_server {
    SSL_CTX **contexts; /* the first one is for unknown names */
    size_t context_count;
    struct server_name *names;
    size_t name_count;
    size_t name_capacity;
};

static pthread_once_t index_once = PTHREAD_ONCE_INIT;
static int server_index = -1;

static void free_server(UNUSED void *parent, void *data, UNUSED CRYPTO_EX_DATA *all,
                        UNUSED int index, UNUSED long number, UNUSED void *argument)
{
    struct tls_server *server = data;

    if (!server) {
        return;
    }
    for (size_t i = 1; i < server->context_count; i++) {
        SSL_CTX_free(server->contexts[i]);
    }
    for (size_t i = 0; i < server->name_count; i++) {
        free(server->names[i].text);
    }
    free(server->names);
    free(server->contexts);
    free(server);
}

static void make_index(void)
{
    server_index = SSL_CTX_get_ex_new_index(0, NULL, NULL, NULL, free_server);
}

/* Never asks at the terminal for the password of an encrypted key; notes that one is needed. */
static int refuse_password(UNUSED char *room, UNUSED int size, UNUSED int writing, void *argument)
{
    bool *is_encrypted = argument;

    *is_encrypted = true;
    return 0;
}

static int choose_protocol(UNUSED SSL *tls, const unsigned char **chosen,
                           unsigned char *chosen_length, const unsigned char *offered,
                           unsigned offered_length, UNUSED void *argument)
{
    unsigned char *found;
    unsigned char found_length;

    if (SSL_select_next_proto(&found, &found_length, alpn_http11, sizeof alpn_http11, offered,
                              offered_length) != OPENSSL_NPN_NEGOTIATED) {
        return SSL_TLSEXT_ERR_ALERT_FATAL; /* RFC 7301 section 3.2 */
    }
    *chosen = found;
    *chosen_length = found_length;
    return SSL_TLSEXT_ERR_OK;
}

static const struct server_name *find_name(const struct tls_server *server, struct view asked)
{
    size_t dot = view_find_byte(asked, '.');
    struct view behind_label = view_skip(asked, dot);
    const struct server_name *found = NULL;

    for (size_t i = 0; i < server->name_count; i++) {
        const struct server_name *name = &server->names[i];
        struct view text = {name->text, name->length};

        if (!name->is_wildcard && view_equal_ignore_case(text, asked)) {
            return name;
        }
        /* "*.example.org" stands for one label (RFC 9525 section 6.3). */
        if (!found && name->is_wildcard && dot > 0 && view_equal_ignore_case(text, behind_label)) {
            found = name;
        }
    }
    return found;
}

static int choose_certificate(SSL *tls, UNUSED int *alert, void *argument)
{
    const struct tls_server *server = argument;
    const char *asked = SSL_get_servername(tls, TLSEXT_NAMETYPE_host_name);
    const struct server_name *name = asked ? find_name(server, view_of_string(asked)) : NULL;

    if (!name) {
        return SSL_TLSEXT_ERR_NOACK;
    }
    if (name->context > 0 && !SSL_set_SSL_CTX(tls, server->contexts[name->context])) {
        return SSL_TLSEXT_ERR_ALERT_FATAL;
    }
    return SSL_TLSEXT_ERR_OK;
}

static bool add_name(struct tls_server *server, size_t context, struct view name)
{
    bool is_wildcard = view_starts_with(name, VIEW("*."));
    struct view text = is_wildcard ? view_skip(name, 1) : name;
    char *copy;

    if (text.length == 0) {
        return true;
    }
    if (server->name_count == server->name_capacity) {
        size_t capacity = server->name_capacity * 2 + 8;
        struct server_name *grown = realloc(server->names, capacity * sizeof *grown);

        if (!grown) {
            return false;
        }
        server->names = grown;
        server->name_capacity = capacity;
    }
    copy = malloc(text.length);
    if (!copy) {
        return false;
    }
    memcpy(copy, text.data, text.length);
    server->names[server->name_count++] = (struct server_name){
        .text = copy,
        .length = text.length,
        .context = context,
        .is_wildcard = is_wildcard,
    };
    return true;
}

static struct view view_of_asn1(const ASN1_STRING *string)
{
    return view_make((const char *)ASN1_STRING_get0_data(string),
                     (size_t)ASN1_STRING_length(string));
}

/* The names in the certificate: its DNS alternatives, or its common name when it has none. */
static bool add_certificate_names(struct tls_server *server, size_t context)
{
    X509 *certificate = SSL_CTX_get0_certificate(server->contexts[context]);
    GENERAL_NAMES *alternatives = X509_get_ext_d2i(certificate, NID_subject_alt_name, NULL, NULL);
    bool is_added = true;
    int found = 0;

    for (int i = 0; i < sk_GENERAL_NAME_num(alternatives) && is_added; i++) {
        const GENERAL_NAME *alternative = sk_GENERAL_NAME_value(alternatives, i);

        if (alternative->type == GEN_DNS) {
            is_added = add_name(server, context, view_of_asn1(alternative->d.dNSName));
            found++;
        }
    }
    GENERAL_NAMES_free(alternatives);
    if (found == 0 && is_added) {
        X509_NAME *subject = X509_get_subject_name(certificate);
        int position = X509_NAME_get_index_by_NID(subject, NID_commonName, -1);

        if (position >= 0) {
            is_added = add_name(
                server, context,
                view_of_asn1(X509_NAME_ENTRY_get_data(X509_NAME_get_entry(subject, position))));
        }
    }
    return is_added;
}

static bool add_names(struct tls_server *server, size_t context, const struct config_tls *section)
{
    if (section->names.count == 0) {
        return add_certificate_names(server, context);
    }
    for (size_t i = 0; i < section->names.count; i++) {
        if (!add_name(server, context, section->names.items[i])) {
            return false;
        }
    }
    return true;
}

static bool load_certificate(SSL_CTX *context, struct view path, char **problem)
{
    unsigned long code;

    if (SSL_CTX_use_certificate_chain_file(context, path.data) == 1) {
        return true;
    }
    code = ERR_peek_error();
    set_problem(problem, "tls certificate", path,
                ERR_GET_LIB(code) == ERR_LIB_PEM && ERR_GET_REASON(code) == PEM_R_NO_START_LINE
                    ? "it holds no certificate in PEM form"
                    : NULL);
    return false;
}

static bool load_key(SSL_CTX *context, struct view path, char **problem)
{
    bool is_encrypted = false;
    unsigned long code;
    int result;

    SSL_CTX_set_default_passwd_cb(context, refuse_password);
    SSL_CTX_set_default_passwd_cb_userdata(context, &is_encrypted);
    result = SSL_CTX_use_PrivateKey_file(context, path.data, SSL_FILETYPE_PEM);
    SSL_CTX_set_default_passwd_cb_userdata(context, NULL);
    if (result == 1) {
        return true;
    }
    code = ERR_peek_error();
    if (is_encrypted) {
        set_problem(problem, "tls key", path, "it is encrypted, expected a key without password");
    } else if (ERR_GET_LIB(code) == ERR_LIB_X509 &&
               ERR_GET_REASON(code) == X509_R_KEY_VALUES_MISMATCH) {
        set_problem(problem, "tls key", path, "it does not belong to the certificate beside it");
    } else if (ERR_SYSTEM_ERROR(code)) {
        set_problem(problem, "tls key", path, NULL);
    } else {
        set_problem(problem, "tls key", path, "it holds no private key in PEM form");
    }
    return false;
}

/* One context with the section's certificate and key. NULL with `*problem`. */
static SSL_CTX *create_context(const struct config_tls *section, char **problem)
{
    SSL_CTX *context = SSL_CTX_new(TLS_server_method());

    ERR_clear_error();
    if (!context || !set_common(context)) {
        set_problem(problem, "tls", view_make(NULL, 0), NULL);
        SSL_CTX_free(context);
        return NULL;
    }
    /* Tickets resume sessions, on any worker; nothing is kept here. */
    SSL_CTX_set_session_cache_mode(context, SSL_SESS_CACHE_OFF);
    SSL_CTX_set_alpn_select_cb(context, choose_protocol, NULL);
    if (!load_certificate(context, section->certificate, problem) ||
        !load_key(context, section->key, problem)) {
        SSL_CTX_free(context);
        return NULL;
    }
    ERR_clear_error();
    return context;
}

/* Loads sections 1.. and all names; the first context owns `server` by now. */
static bool fill_server(struct tls_server *server, const struct config *config, char **problem)
{
    for (size_t i = 0; i < config->tls_count; i++) {
        if (i > 0) {
            server->contexts[i] = create_context(&config->tls[i], problem);
            if (!server->contexts[i]) {
                return false;
            }
            server->context_count = i + 1;
        }
        if (!add_names(server, i, &config->tls[i])) {
            set_problem(problem, "tls", view_make(NULL, 0), "no memory");
            return false;
        }
    }
    return true;
}

struct tls_server *tls_server_create(const struct config *config, char **problem)
{
    struct tls_server *server = NULL;
    SSL_CTX *first;

    *problem = NULL;
    if (config->tls_count == 0) {
        set_problem(problem, "tls", view_make(NULL, 0), "no certificate is configured");
        return NULL;
    }
    (void)pthread_once(&index_once, make_index);
    first = create_context(&config->tls[0], problem);
    if (!first) {
        return NULL;
    }
    server = calloc(1, sizeof *server);
    if (server) {
        server->contexts = calloc(config->tls_count, sizeof *server->contexts);
    }
    if (!server || !server->contexts || SSL_CTX_set_ex_data(first, server_index, server) != 1) {
        free_server(NULL, server, NULL, 0, 0, NULL);
        SSL_CTX_free(first);
        set_problem(problem, "tls", view_make(NULL, 0), "no memory");
        return NULL;
    }
    server->contexts[0] = first;
    server->context_count = 1;
    SSL_CTX_set_tlsext_servername_callback(first, choose_certificate);
    SSL_CTX_set_tlsext_servername_arg(first, server);
    if (!fill_server(server, config, problem)) {
        tls_server_destroy(server);
        return NULL;
    }
    return server;
}

void tls_server_destroy(struct tls_server *server)
{
    if (server) {
        SSL_CTX_free(server->contexts[0]);
    }
}

SSL *tls_server_session(struct tls_server *server)
{
    SSL *tls = SSL_new(server->contexts[0]);

    ERR_clear_error();
    return tls;
}

/* ---- the upstream's side */

struct tls_client {
    SSL_CTX *context;
    _Atomic unsigned references;
};

/* A ticket came: it is kept for the next connection. */
static int keep_session(SSL *tls, SSL_SESSION *session)
{
    struct tls_resumption *resumption = SSL_get_app_data(tls);

    if (!resumption || resumption->context != SSL_get_SSL_CTX(tls)) {
        return 0;
    }
    SSL_SESSION_free(resumption->session);
    resumption->session = session;
    return 1;
}

static bool load_authorities(SSL_CTX *context, const struct config_upstream *upstream,
                             char **problem)
{
    if (upstream->ca_file.length == 0) {
        if (SSL_CTX_set_default_verify_paths(context) != 1) {
            set_problem(problem, "the system's certificate store", view_make(NULL, 0), NULL);
            return false;
        }
        return true;
    }
    if (SSL_CTX_load_verify_file(context, upstream->ca_file.data) != 1) {
        set_problem(problem, "upstream ca_file", upstream->ca_file, NULL);
        return false;
    }
    return true;
}

struct tls_client *tls_client_create(const struct config_upstream *upstream, char **problem)
{
    struct tls_client *client = calloc(1, sizeof *client);

    *problem = NULL;
    ERR_clear_error();
    if (client) {
        client->context = SSL_CTX_new(TLS_client_method());
        atomic_init(&client->references, 1);
    }
    if (!client || !client->context || !set_common(client->context) ||
        SSL_CTX_set_alpn_protos(client->context, alpn_http11, sizeof alpn_http11) != 0) {
        set_problem(problem, "upstream TLS", view_make(NULL, 0), NULL);
        tls_client_destroy(client);
        return NULL;
    }
    SSL_CTX_set_verify(client->context, upstream->verify ? SSL_VERIFY_PEER : SSL_VERIFY_NONE, NULL);
    SSL_CTX_set_session_cache_mode(client->context,
                                   SSL_SESS_CACHE_CLIENT | SSL_SESS_CACHE_NO_INTERNAL);
    SSL_CTX_sess_set_new_cb(client->context, keep_session);
    if (!load_authorities(client->context, upstream, problem)) {
        tls_client_destroy(client);
        return NULL;
    }
    return client;
}

struct tls_client *tls_client_ref(struct tls_client *client)
{
    atomic_fetch_add_explicit(&client->references, 1, memory_order_relaxed);
    return client;
}

void tls_client_destroy(struct tls_client *client)
{
    if (client && atomic_fetch_sub_explicit(&client->references, 1, memory_order_acq_rel) == 1) {
        SSL_CTX_free(client->context);
        free(client);
    }
}

static bool is_address(const char *host)
{
    unsigned char bytes[sizeof(struct in6_addr)];

    return inet_pton(AF_INET, host, bytes) == 1 || inet_pton(AF_INET6, host, bytes) == 1;
}

/* What the certificate must be valid for. An address has no place in SNI (RFC 6066 section 3). */
static bool set_host(SSL *tls, const char *host)
{
    if (is_address(host)) {
        return X509_VERIFY_PARAM_set1_ip_asc(SSL_get0_param(tls), host) == 1;
    }
    SSL_set_hostflags(tls, X509_CHECK_FLAG_NO_PARTIAL_WILDCARDS);
    return SSL_set1_host(tls, host) == 1 && SSL_set_tlsext_host_name(tls, host) == 1;
}

SSL *tls_client_session(struct tls_client *client, struct view host,
                        struct tls_resumption *resumption)
{
    char name[HOST_MAXIMUM + 1];
    SSL *tls;

    if (host.length == 0 || host.length > HOST_MAXIMUM) {
        return NULL;
    }
    memcpy(name, host.data, host.length);
    name[host.length] = '\0';
    ERR_clear_error();
    tls = SSL_new(client->context);
    if (!tls || !set_host(tls, name)) {
        SSL_free(tls);
        ERR_clear_error();
        return NULL;
    }
    if (resumption) {
        if (resumption->context != client->context) {
            tls_resumption_clear(resumption);
            /* Held, so that no other context can come to lie at the same address. */
            resumption->context = SSL_CTX_up_ref(client->context) == 1 ? client->context : NULL;
        }
        (void)SSL_set_app_data(tls, resumption);
        if (resumption->session && SSL_SESSION_is_resumable(resumption->session)) {
            (void)SSL_set_session(tls, resumption->session);
        }
        ERR_clear_error();
    }
    return tls;
}

void tls_resumption_clear(struct tls_resumption *resumption)
{
    SSL_SESSION_free(resumption->session);
    SSL_CTX_free(resumption->context);
    *resumption = (struct tls_resumption){NULL, NULL};
}
