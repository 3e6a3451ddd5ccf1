#include "build_config.h"

#include <criterion/criterion.h>
#include <stdio.h>
#include <string.h>

#include "gateway/cors.h"

static struct config *config;
static struct http_request_head head;
static char wire[512];

static void load(const char *origins)
{
    struct config_errors *errors = config_errors_create();
    char text[256];

    snprintf(text, sizeof text, "upstream { api_key_env = \"K\" }\n%s%s%s\n",
             *origins ? "cors_origins = {" : "", origins, *origins ? "}" : "");
    config = config_load_text("t.conf", view_of_string(text), false, errors);
    cr_assert_not_null(config, "%s",
                       config_errors_count(errors) ? config_errors_text(errors, 0) : "no reason");
    config_errors_destroy(errors);
}

static void tear_down(void)
{
    config_unref(config);
}

TestSuite(cors, .fini = tear_down);

static void parse(const char *method, const char *fields)
{
    snprintf(wire, sizeof wire, "%s /v2/abc/run HTTP/1.1\r\nHost: a\r\n%s\r\n", method, fields);
    http_request_begin(&head);
    cr_assert_eq(http_request_parse(&head, wire, strlen(wire)), HTTP_HEAD_OK);
}

static const char *fields_for(const char *origin)
{
    static char text[1024];
    struct builder fields;
    char field[256] = "";

    if (origin) {
        snprintf(field, sizeof field, "Origin: %s\r\n", origin);
    }
    parse("GET", field);
    builder_init(&fields, text, sizeof text - 1);
    cors_append_fields(&fields, config, &head.head);
    text[builder_view(&fields).length] = '\0';
    return text;
}

Test(cors, an_origin_of_the_list_may_read_the_answer)
{
    const char *fields;

    load("\"https://a.example\", \"https://b.example\"");
    fields = fields_for("https://b.example");
    cr_assert_not_null(strstr(fields, "Access-Control-Allow-Origin: https://b.example\r\n"));
    cr_assert_not_null(strstr(fields, "Access-Control-Expose-Headers: "));
    cr_assert_not_null(strstr(fields, "Vary: Origin\r\n"));
}

Test(cors, other_origins_get_no_more_than_vary)
{
    static const char *const others[] = {"https://c.example", "http://a.example",
                                         "https://a.example.evil", "https://a.example:8443",
                                         "null"};

    load("\"https://a.example\"");
    for (size_t i = 0; i < ARRAY_LENGTH(others); i++) {
        cr_assert_str_eq(fields_for(others[i]), "Vary: Origin\r\n", "%s", others[i]);
    }
    cr_assert_str_eq(fields_for(NULL), "Vary: Origin\r\n");
}

Test(cors, a_star_lets_all_origins_read)
{
    load("\"*\"");
    cr_assert_not_null(
        strstr(fields_for("https://any.example"), "Allow-Origin: https://any.example\r\n"));
}

Test(cors, credentials_are_never_allowed)
{
    load("\"*\"");
    cr_assert_null(strstr(fields_for("https://any.example"), "Credentials"));
}

Test(cors, a_preflight_is_options_from_an_allowed_origin)
{
    load("\"https://a.example\"");
    parse("OPTIONS", "Origin: https://a.example\r\n");
    cr_assert(cors_is_preflight(config, &head));
    parse("OPTIONS", "Origin: https://b.example\r\n");
    cr_assert_not(cors_is_preflight(config, &head));
    parse("OPTIONS", "");
    cr_assert_not(cors_is_preflight(config, &head));
    parse("GET", "Origin: https://a.example\r\n");
    cr_assert_not(cors_is_preflight(config, &head));
}

Test(cors, without_origins_there_is_no_preflight)
{
    load("");
    parse("OPTIONS", "Origin: https://a.example\r\n");
    cr_assert_not(cors_is_preflight(config, &head));
}

Test(cors, a_preflight_names_methods_and_the_fields_that_sdks_send)
{
    char text[512] = "";
    struct builder fields;

    builder_init(&fields, text, sizeof text - 1);
    cors_append_preflight(&fields, VIEW("GET, POST"));
    cr_assert_not_null(strstr(text, "Access-Control-Allow-Methods: GET, POST\r\n"));
    cr_assert_not_null(strstr(text, "Authorization"));
    cr_assert_not_null(strstr(text, "Content-Type"));
    cr_assert_not_null(strstr(text, "Access-Control-Max-Age: "));
}
