#include "build_config.h"

#include <sys/un.h>

#include "upstream_peer.h"

#include "process/admin.h"

/* The admin listener over 127.0.0.1, in the test's own loop. */

static struct admin *admin;
static bool alive = true;
static bool ready = true;
static int descriptor = -1;
static char received[256 * 1024];
static size_t received_length;

static bool is_alive(UNUSED void *owner)
{
    return alive;
}

static bool is_ready(UNUSED void *owner)
{
    return ready;
}

static void append_metrics(UNUSED void *owner, struct builder *text)
{
    builder_append(text, VIEW("test_of_the_process 1\n"));
}

static unsigned counted;

static void count_parts(UNUSED void *owner)
{
    counted++;
}

static const struct admin_view admin_view = {
    .is_alive = is_alive,
    .is_ready = is_ready,
    .count_parts = count_parts,
    .append_metrics = append_metrics,
};

/* A port that was free a moment ago. */
static uint16_t free_port(void)
{
    struct sockaddr_in name = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    socklen_t length = sizeof name;
    int probe = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);

    cr_assert_eq(bind(probe, (struct sockaddr *)&name, sizeof name), 0);
    cr_assert_eq(getsockname(probe, (struct sockaddr *)&name, &length), 0);
    close(probe);
    return ntohs(name.sin_port);
}

static char folder[] = "/tmp/podgate-test-admin-XXXXXX";
static char address_text[128];

static void load(const char *line)
{
    char text[512];

    snprintf(text, sizeof text, "upstream { api_key_env = \"K\" }\n%s\n", line);
    config = load_config(text);
}

static void open_admin(void)
{
    char *problem = NULL;
    char line[256];

    snprintf(line, sizeof line, "admin_listen = \"%s\"", address_text);
    load(line);
    admin = admin_create(loop, config, metrics, &admin_view, NULL, &problem);
    cr_assert_not_null(admin, "%s", problem);
}

static void set_up_tcp(void)
{
    struct sockaddr_in name = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    uint16_t port;

    set_up_without_client();
    port = free_port();
    snprintf(address_text, sizeof address_text, "127.0.0.1:%u", port);
    open_admin();
    name.sin_port = htons(port);
    descriptor = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    cr_assert_eq(connect(descriptor, (struct sockaddr *)&name, sizeof name), 0);
    cr_assert_eq(evutil_make_socket_nonblocking(descriptor), 0);
}

static void tear_down_admin(void)
{
    if (descriptor >= 0) {
        close(descriptor);
    }
    settle();
    admin_destroy(admin);
    tear_down();
}

TestSuite(admin, .init = set_up_tcp, .fini = tear_down_admin, .timeout = 60);

static bool answered(void)
{
    ssize_t count;
    const char *end;
    const char *length;

    while ((count = recv(descriptor, received + received_length,
                         sizeof received - 1 - received_length, 0)) > 0) {
        received_length += (size_t)count;
    }
    received[received_length] = '\0';
    end = strstr(received, "\r\n\r\n");
    length = strstr(received, "Content-Length: ");
    return end && length &&
           (size_t)(received + received_length - end - 4) >= strtoul(length + 16, NULL, 10);
}

static void ask(const char *request)
{
    received_length = 0;
    cr_assert_eq(send(descriptor, request, strlen(request), MSG_NOSIGNAL),
                 (ssize_t)strlen(request));
    RUN_UNTIL(answered());
}

#define GET(path) "GET " path " HTTP/1.1\r\nHost: a\r\n\r\n"

Test(admin, livez_follows_the_loops)
{
    ask(GET("/livez"));
    cr_assert_not_null(strstr(received, "HTTP/1.1 200 "));
    alive = false;
    ready = false;
    ask(GET("/livez"));
    cr_assert_not_null(strstr(received, "HTTP/1.1 503 "));
}

Test(admin, readyz_follows_the_process_and_not_the_loops)
{
    alive = false;
    ask(GET("/readyz"));
    cr_assert_not_null(strstr(received, "HTTP/1.1 200 "));
    ready = false;
    ask(GET("/readyz"));
    cr_assert_not_null(strstr(received, "HTTP/1.1 503 "));
}

Test(admin, metrics_have_counters_and_what_the_process_adds)
{
    metrics_add(block, METRIC_BAD_HEADS, 0, 0, 42);
    counted = 0;
    ask(GET("/metrics"));
    cr_assert_eq(counted, 1, "what is counted elsewhere is asked for first");
    cr_assert_not_null(strstr(received, "HTTP/1.1 200 "));
    cr_assert_not_null(
        strstr(received, "Content-Type: text/plain; version=0.0.4; charset=utf-8\r\n"));
    cr_assert_not_null(strstr(received, "\npodgate_bad_heads_total 42\n"));
    cr_assert_not_null(strstr(received, "test_of_the_process 1\n"));
    cr_assert_null(strstr(received, "# EOF"));
}

Test(admin, metrics_come_as_openmetrics_to_who_accepts_that)
{
    ask("GET /metrics HTTP/1.1\r\nHost: a\r\nAccept: application/openmetrics-text;q=1\r\n\r\n");
    cr_assert_not_null(
        strstr(received, "Content-Type: application/openmetrics-text; version=1.0.0"));
    cr_assert_str_eq(received + received_length - 6, "# EOF\n");
}

Test(admin, writing_is_refused_and_other_paths_are_not_found)
{
    ask("POST /metrics HTTP/1.1\r\nHost: a\r\nContent-Length: 0\r\n\r\n");
    cr_assert_not_null(strstr(received, "HTTP/1.1 405 "));
    cr_assert_not_null(strstr(received, "Allow: GET, HEAD\r\n"));
    ask(GET("/v2/abc/run"));
    cr_assert_not_null(strstr(received, "HTTP/1.1 404 "));
}

Test(admin, an_address_in_use_is_told_with_its_name)
{
    char *problem = NULL;

    cr_assert_null(admin_create(loop, config, metrics, &admin_view, NULL, &problem));
    cr_assert_not_null(problem);
    cr_assert_not_null(strstr(problem, address_text), "%s", problem);
    free(problem);
}

/* ---- without an address, and on a Unix socket */

TestSuite(admin_unix, .init = set_up_without_client, .fini = tear_down_admin, .timeout = 60);

Test(admin_unix, nothing_listens_where_nothing_is_configured)
{
    char *problem = NULL;

    load("");
    admin = admin_create(loop, config, metrics, &admin_view, NULL, &problem);
    cr_assert_not_null(admin);
    cr_assert_null(problem);
}

static void connect_unix(void)
{
    struct sockaddr_un name = {.sun_family = AF_UNIX};

    strcpy(name.sun_path, address_text + strlen("unix:"));
    descriptor = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    cr_assert_eq(connect(descriptor, (struct sockaddr *)&name, sizeof name), 0);
    cr_assert_eq(evutil_make_socket_nonblocking(descriptor), 0);
}

Test(admin_unix, a_socket_that_a_killed_podgate_left_is_taken_over_and_one_in_use_is_not)
{
    struct sockaddr_un name = {.sun_family = AF_UNIX};
    struct admin *first;
    char *problem = NULL;
    int left;

    cr_assert_not_null(mkdtemp(folder));
    snprintf(address_text, sizeof address_text, "unix:%s/admin", folder);
    snprintf(name.sun_path, sizeof name.sun_path, "%s/admin", folder);
    left = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    cr_assert_eq(bind(left, (struct sockaddr *)&name, sizeof name), 0);
    close(left);
    open_admin();
    connect_unix();
    ask(GET("/livez"));
    cr_assert_not_null(strstr(received, "HTTP/1.1 200 "));
    first = admin;
    cr_assert_null(admin_create(loop, config, metrics, &admin_view, NULL, &problem),
                   "another one's socket was taken away");
    free(problem);
    cr_assert_eq(access(name.sun_path, F_OK), 0);
    admin_destroy(first);
    admin = NULL;
    cr_assert_neq(access(name.sun_path, F_OK), 0, "the socket file stays");
    cr_assert_eq(rmdir(folder), 0);
}
