/* podgatectl: the operator's command. Makes keys, checks a configuration, asks a running podgate
 * whether it serves. Exit statuses are those of sysexits(3). */
#include "build_config.h"

#include <errno.h>
#include <getopt.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <sysexits.h>
#include <unistd.h>

#include "base/bytes.h"
#include "base/clock.h"
#include "base/secret.h"
#include "model/config.h"
#include "model/key.h"
#include "process/process.h"

static const char default_config[] = PODGATE_SYSCONFDIR "/podgate/podgate.conf";
static const char default_admin[] = "127.0.0.1:8081";

enum { PING_TIMEOUT_MS = 5000 };

struct options {
    const char *config;
    const char *admin;
    const char *team;
};

static void print_help(FILE *stream)
{
    fprintf(stream,
            "podgatectl: the operator's command for podgate\n"
            "\n"
            "  podgatectl key generate ID [--team NAME]\n"
            "      Makes a key: prints it on the first line, and then the configuration for it.\n"
            "  podgatectl check [-c FILE]\n"
            "      Checks a configuration and prints every mistake with its line.\n"
            "  podgatectl ping [--admin ADDRESS]\n"
            "      Asks a running podgate whether it serves callers.\n"
            "\n"
            "  -c, --config FILE     configuration (default: %s)\n"
            "  -a, --admin ADDRESS   admin listener, \"address:port\" or \"unix:/path\"\n"
            "                        (default: %s)\n"
            "  -t, --team NAME       print the key's configuration within this team's section\n"
            "  -h, --help            print this\n"
            "  -V, --version         print the version\n"
            "\n"
            "Exit status: 0; 64 wrong use; 66 no such file; 69 podgate does not answer;\n"
            "75 podgate does not serve callers yet or any more; 78 wrong configuration.\n",
            default_config, default_admin);
}

static int wrong_use(const char *what)
{
    fprintf(stderr, "podgatectl: %s; see podgatectl --help\n", what);
    return EX_USAGE;
}

/* What was printed may be a key's only copy: say so when it got lost. */
static int finish_output(void)
{
    if (fflush(stdout) != 0 || ferror(stdout)) {
        fprintf(stderr, "podgatectl: standard output: %s\n", strerror(errno));
        return EX_IOERR;
    }
    return EX_OK;
}

/* ---- key generate ---------------------------------------------------------------------------- */

static void print_stanza(const char *id, const uint8_t *hash, const char *team)
{
    const char *indent = team != NULL ? "    " : "";
    if (team != NULL)
        printf("team \"%s\" {\n", team);
    printf("%skey \"%s\" {\n%s    sha256 = \"", indent, id, indent);
    for (size_t i = 0; i < KEY_HASH_LENGTH; i++)
        printf("%02x", hash[i]);
    printf("\"\n%s    operations = {", indent);
    const char *comma = "";
    for (unsigned i = 0; i < CONFIG_OPERATIONS; i++) {
        unsigned bit = 1u << i;
        if ((CONFIG_OPERATIONS_DEFAULT & bit) == 0)
            continue;
        printf("%s\"%s\"", comma, config_operation_text((enum config_operation)bit));
        comma = ", ";
    }
    printf("}\n%s}\n", indent);
    if (team != NULL)
        printf("}\n");
}

static int generate_key(const char *id, const struct options *options)
{
    char text[KEY_LENGTH_MAXIMUM];
    size_t length;
    uint8_t hash[KEY_HASH_LENGTH];
    if (!key_id_valid(view_of_string(id)))
        return wrong_use("the id of a key is 1 to 32 small letters, digits and \"-\"");
    if (options->team != NULL && !config_team_name_valid(view_of_string(options->team)))
        return wrong_use("the name of a team is 1 to 64 letters, digits and \"_.-\"");
    struct key_hasher *hasher = key_hasher_create();
    int status = EX_OSERR;
    if (hasher == NULL || !key_generate(view_of_string(id), text, &length) ||
        !key_hash(hasher, view_make(text, length), hash)) {
        fprintf(stderr, "podgatectl: no randomness, or no SHA-256\n");
    } else {
        fwrite(text, 1, length, stdout);
        putchar('\n');
        print_stanza(id, hash, options->team);
        status = finish_output();
    }
    secret_wipe(text, sizeof(text));
    key_hasher_destroy(hasher);
    return status;
}

/* ---- check ----------------------------------------------------------------------------------- */

static int check_config(const struct options *options)
{
    const char *path = options->config != NULL ? options->config : default_config;
    if (access(path, R_OK) != 0) {
        fprintf(stderr, "podgatectl: %s: %s\n", path, strerror(errno));
        return EX_NOINPUT;
    }
    struct config_errors *errors = config_errors_create();
    if (errors == NULL) {
        fprintf(stderr, "podgatectl: out of memory\n");
        return EX_OSERR;
    }
    struct config *config = config_load(path, errors);
    config_errors_print(errors, stderr);
    int status = EX_CONFIG;
    if (config != NULL && process_check(config)) {
        printf("%s: good, with %zu team%s and %zu key%s\n", path, config->team_count,
               config->team_count == 1 ? "" : "s", config->key_count,
               config->key_count == 1 ? "" : "s");
        status = finish_output();
    }
    config_unref(config);
    config_errors_destroy(errors);
    return status;
}

/* ---- ping ------------------------------------------------------------------------------------ */

static bool wait_for(int descriptor, short events, uint64_t deadline_ms)
{
    for (;;) {
        uint64_t now_ms = clock_mono_ms();
        struct pollfd wanted = {.fd = descriptor, .events = events};
        int ready = now_ms < deadline_ms ? poll(&wanted, 1, (int)(deadline_ms - now_ms)) : 0;
        if (ready > 0)
            return true;
        if (ready == 0)
            errno = ETIMEDOUT;
        if (ready == 0 || errno != EINTR)
            return false;
    }
}

/* Connects without blocking for longer than the deadline. -1, with errno, when it can't. */
static int connect_to(const struct config_address *address, uint64_t deadline_ms)
{
    struct sockaddr_un path = {.sun_family = AF_UNIX};
    const struct sockaddr *target = (const struct sockaddr *)&address->address;
    socklen_t length = address->address_length;
    if (address->unix_path.length > 0) {
        /* config_parse_address() saw to it that the path fits. */
        memcpy(path.sun_path, address->unix_path.data, address->unix_path.length);
        target = (const struct sockaddr *)&path;
        length = (socklen_t)sizeof(path);
    }
    int descriptor = socket(target->sa_family, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    if (descriptor < 0)
        return -1;
    int problem = 0;
    if (connect(descriptor, target, length) != 0)
        problem = errno;
    if (problem == EINPROGRESS) {
        socklen_t size = sizeof(problem);
        if (!wait_for(descriptor, POLLOUT, deadline_ms) ||
            getsockopt(descriptor, SOL_SOCKET, SO_ERROR, &problem, &size) != 0)
            problem = errno;
    }
    if (problem == 0)
        return descriptor;
    close(descriptor);
    errno = problem;
    return -1;
}

static bool send_all(int descriptor, struct view bytes, uint64_t deadline_ms)
{
    while (bytes.length > 0) {
        ssize_t sent = send(descriptor, bytes.data, bytes.length, MSG_NOSIGNAL);
        if (sent >= 0)
            bytes = view_skip(bytes, (size_t)sent);
        else if (errno != EINTR && (errno != EAGAIN || !wait_for(descriptor, POLLOUT, deadline_ms)))
            return false;
    }
    return true;
}

/* Reads until the buffer is full or the other side has closed. False, with errno, on failure. */
static bool receive(int descriptor, char *buffer, size_t size, size_t *length, uint64_t deadline_ms)
{
    *length = 0;
    while (*length < size) {
        ssize_t got = recv(descriptor, buffer + *length, size - *length, 0);
        if (got == 0)
            return true;
        if (got > 0)
            *length += (size_t)got;
        else if (errno != EINTR && (errno != EAGAIN || !wait_for(descriptor, POLLIN, deadline_ms)))
            return false;
    }
    return true;
}

/* The status of "HTTP/1.x NNN ...", or 0. */
static uint64_t answer_status(struct view answer)
{
    uint64_t status;
    if (answer.length < 12 || !view_starts_with(answer, VIEW("HTTP/1.")) || answer.data[8] != ' ' ||
        !view_parse_u64(view_first(view_skip(answer, 9), 3), 999, &status))
        return 0;
    return status;
}

static int judge_answer(const char *admin, struct view answer)
{
    uint64_t status = answer_status(answer);
    if (status == 0) {
        fprintf(stderr, "podgatectl: %s: the answer is not HTTP\n", admin);
        return EX_PROTOCOL;
    }
    if (status == 200) {
        printf("%s: podgate serves callers\n", admin);
        return finish_output();
    }
    if (status == 503) {
        fprintf(stderr, "podgatectl: %s: podgate does not serve callers (503)\n", admin);
        return EX_TEMPFAIL;
    }
    fprintf(stderr, "podgatectl: %s: unexpected status %llu, is this podgate's admin listener?\n",
            admin, (unsigned long long)status);
    return EX_PROTOCOL;
}

static int ping(const struct options *options)
{
    const char *admin = options->admin != NULL ? options->admin : default_admin;
    struct config_address address;
    const char *wrong = config_parse_address(view_of_string(admin), &address);
    if (wrong != NULL || address.tls) {
        fprintf(stderr, "podgatectl: --admin \"%s\": %s\n", admin,
                wrong != NULL ? wrong : "there is no TLS on the admin listener");
        return EX_USAGE;
    }
    uint64_t deadline_ms = clock_mono_ms() + PING_TIMEOUT_MS;
    char answer[1024];
    size_t length = 0;
    int descriptor = connect_to(&address, deadline_ms);
    bool good = descriptor >= 0 &&
                send_all(descriptor,
                         VIEW("GET /readyz HTTP/1.1\r\nHost: podgate\r\nConnection: close\r\n\r\n"),
                         deadline_ms) &&
                receive(descriptor, answer, sizeof(answer), &length, deadline_ms);
    int problem = errno;
    if (descriptor >= 0)
        close(descriptor);
    if (!good) {
        fprintf(stderr, "podgatectl: %s: %s\n", admin, strerror(problem));
        return EX_UNAVAILABLE;
    }
    return judge_answer(admin, view_make(answer, length));
}

/* ---- command line ---------------------------------------------------------------------------- */

static int run_command(int count, char **words, const struct options *options)
{
    if (count == 0)
        return wrong_use("no command given");
    if (strcmp(words[0], "key") == 0) {
        if (count < 2 || strcmp(words[1], "generate") != 0)
            return wrong_use("expected \"key generate ID\"");
        if (count != 3)
            return wrong_use("key generate: expected one id");
        return generate_key(words[2], options);
    }
    if (strcmp(words[0], "check") == 0)
        return count == 1 ? check_config(options) : wrong_use("check: expected no further words");
    if (strcmp(words[0], "ping") == 0)
        return count == 1 ? ping(options) : wrong_use("ping: expected no further words");
    fprintf(stderr, "podgatectl: unknown command \"%s\"; see podgatectl --help\n", words[0]);
    return EX_USAGE;
}

int main(int count, char **words)
{
    static const struct option long_options[] = {
        {"config", required_argument, NULL, 'c'}, {"admin", required_argument, NULL, 'a'},
        {"team", required_argument, NULL, 't'},   {"help", no_argument, NULL, 'h'},
        {"version", no_argument, NULL, 'V'},      {NULL, 0, NULL, 0},
    };
    struct options options = {NULL, NULL, NULL};
    int option;
    while ((option = getopt_long(count, words, "c:a:t:hV", long_options, NULL)) != -1) {
        switch (option) {
        case 'c': options.config = optarg; break;
        case 'a': options.admin = optarg; break;
        case 't': options.team = optarg; break;
        case 'h': print_help(stdout); return finish_output();
        case 'V': printf("podgatectl %s\n", PACKAGE_VERSION); return finish_output();
        default: fprintf(stderr, "See podgatectl --help.\n"); return EX_USAGE;
        }
    }
    return run_command(count - optind, words + optind, &options);
}
