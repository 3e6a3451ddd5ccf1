/* Each mistake in a configuration is one line with file, line, what is wrong and what was expected.
 */
#include "build_config.h"

#include <criterion/criterion.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/bytes.h"
#include "model/config.h"

#define HASH "9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08"
/* What every configuration needs; on one line, so that mistakes below begin at line 2. */
#define GOOD "upstream { api_key_env = \"RUNPOD_API_KEY\" }\n"

/* The text must be refused with exactly these lines, separated by line feeds. */
static void expect_mistakes(const char *text, const char *expected)
{
    struct config_errors *errors = config_errors_create();
    struct config *config = config_load_text("t.conf", view_of_string(text), false, errors);
    struct builder found;

    builder_init(&found, NULL, 0);
    for (size_t i = 0; i < config_errors_count(errors); i++) {
        if (i > 0) {
            builder_append_byte(&found, '\n');
        }
        builder_append(&found, view_of_string(config_errors_text(errors, i)));
    }
    builder_append_byte(&found, '\0');
    cr_assert_str_eq(builder_view(&found).data, expected, "%s\ngives\n%s\nexpected\n%s", text,
                     builder_view(&found).data, expected);
    cr_assert_null(config);
    builder_clear(&found);
    config_errors_destroy(errors);
}

static void expect_warning(const char *text, const char *expected)
{
    struct config_errors *errors = config_errors_create();
    struct config *config = config_load_text("t.conf", view_of_string(text), false, errors);

    cr_assert_not_null(config, "%s", text);
    cr_assert_eq(config_warnings_count(errors), expected == NULL ? 1 : 2, "%s", text);
    if (expected != NULL) {
        cr_assert_str_eq(config_warnings_text(errors, 1), expected);
    }
    config_unref(config);
    config_errors_destroy(errors);
}

Test(config_mistakes, unknown_option_suggests_the_nearest)
{
    expect_mistakes(GOOD "workrs = 3\n",
                    "t.conf:2: unknown option \"workrs\", did you mean \"workers\"?");
    expect_mistakes(
        GOOD "memory {\n  bodise = \"1GiB\"\n}\n",
        "t.conf:3: unknown option \"bodise\" in section memory, did you mean \"bodies\"?");
    expect_mistakes(GOOD "taem \"x\" { key \"y\" { } }\n",
                    "t.conf:2: unknown option \"taem\", did you mean \"team\"?");
    expect_mistakes(GOOD "xyzzy = {1, 2}\n",
                    "t.conf:2: unknown option \"xyzzy\", see podgate.conf(5) for those there are");
}

Test(config_mistakes, option_of_another_section_is_told_where_it_belongs)
{
    expect_mistakes(
        GOOD "connect_timeout = \"1s\"\n",
        "t.conf:2: unknown option \"connect_timeout\", it belongs into section upstream");
    expect_mistakes(
        GOOD "log { listen = \"x\" }\n",
        "t.conf:2: unknown option \"listen\" in section log, it belongs outside of all sections");
}

Test(config_mistakes, an_unknown_section_hides_nothing_behind_it)
{
    expect_mistakes(GOOD "bogus \"a\" { b { c = {\"}\"} } d(1) }\nworkers = x\n",
                    "t.conf:2: unknown option \"bogus\", see podgate.conf(5) for those there are\n"
                    "t.conf:3: workers \"x\": expected a whole number without a unit");
}

Test(config_mistakes, all_are_told_in_the_order_of_lines)
{
    expect_mistakes(
        GOOD "workers = x\nwrokers = 1\nlog {\n level = loud\n}\ndrain_timeout = 30\n",
        "t.conf:2: workers \"x\": expected a whole number without a unit\n"
        "t.conf:3: unknown option \"wrokers\", did you mean \"workers\"?\n"
        "t.conf:5: level \"loud\": expected one of error, warning, info, debug\n"
        "t.conf:7: drain_timeout \"30\": expected a duration with one of the units ms, s, "
        "m, h, d, such as \"30s\"");
}

Test(config_mistakes, lines_are_right_behind_comments_and_lists)
{
    expect_mistakes("#\n# a\n\n/* b\n c */ // d\n" GOOD
                    "listen = {\n  \"127.0.0.1:1\",\n  \"x\"\n}\n",
                    "t.conf:9: listen \"x\": expected an address and a port, such as "
                    "\"127.0.0.1:8080\", \"[::1]:8080\" or \"unix:/path\"");
}

Test(config_mistakes, an_option_set_twice)
{
    expect_mistakes(GOOD "workers = 1\n\nworkers = 2\n",
                    "t.conf:4: \"workers\" is set already at t.conf:2, expected it once");
    expect_mistakes(GOOD "listen = {\"127.0.0.1:1\"}\nlisten = {}\n",
                    "t.conf:3: \"listen\" is set already at t.conf:2, expected it once");
    expect_mistakes(GOOD "upstream { }\n",
                    "t.conf:2: \"upstream\" is set already at t.conf:1, expected it once");
    expect_mistakes(GOOD "team \"a\" {\n key \"b\" { sha256 = \"" HASH
                         "\"\n burst = 1 burst = 2 rate = {\"1/s\"} } }",
                    "t.conf:4: \"burst\" is set already at t.conf:4, expected it once");
}

Test(config_mistakes, names_that_are_there_twice)
{
    expect_mistakes(GOOD "team \"a\" { key \"k\" { sha256 = \"" HASH "\" } }\n"
                         "team \"b\" { key \"k\" { sha256 = \"" HASH "\" } }\n",
                    "t.conf:3: key \"k\" is there already at t.conf:2, expected each name once");
    expect_mistakes(GOOD "team \"a\" { }\nteam \"a\" { }\n",
                    "t.conf:3: team \"a\" is there already at t.conf:2, expected each name once");
    expect_mistakes(
        GOOD "endpoint \"*\" { }\nendpoint \"*\" { }\n",
        "t.conf:3: endpoint \"*\" is there already at t.conf:2, expected each name once");
}

Test(config_mistakes, units)
{
    expect_mistakes(
        GOOD "drain_timeout = \"30 s\"\n",
        "t.conf:2: drain_timeout \"30 s\": expected a duration with one of the units ms, "
        "s, m, h, d, such as \"30s\"");
    expect_mistakes(
        GOOD "drain_timeout = \"18446744073709551616d\"\n",
        "t.conf:2: drain_timeout \"18446744073709551616d\": expected a duration with one "
        "of the units ms, s, m, h, d, such as \"30s\"");
    expect_mistakes(GOOD "memory { bodies = \"10MB\" }\n",
                    "t.conf:2: bodies \"10MB\": expected a size with one of the units B, KiB, MiB, "
                    "GiB, TiB, such as \"256MiB\"");
    expect_mistakes(GOOD "workers = 1s\n",
                    "t.conf:2: workers \"1s\": expected a whole number without a unit");
}

Test(config_mistakes, out_of_range)
{
    expect_mistakes(GOOD "workers = 300\n",
                    "t.conf:2: workers \"300\": out of range, expected 0 to 256");
    expect_mistakes(GOOD "workers = -1\n",
                    "t.conf:2: workers \"-1\": expected a whole number without a unit");
    expect_mistakes(GOOD "timeouts { head = \"2d\" }\n",
                    "t.conf:2: head \"2d\": out of range, expected 100ms to 1h");
    expect_mistakes(GOOD "memory { bodies = \"1KiB\" }\n",
                    "t.conf:2: bodies \"1KiB\": out of range, expected 1MiB to 1TiB");
}

Test(config_mistakes, rates)
{
    const char *frame = GOOD "team \"a\" { key \"b\" { sha256 = \"" HASH "\"\n rate = {%s} } }\n";
    static const char *const bad[][2] = {
        {"\"100/x\"", "t.conf:3: rate \"100/x\": the unit must be s, m or h"},
        {"\"100/\"", "t.conf:3: rate \"100/\": the unit must be s, m or h"},
        {"\"100\"", "t.conf:3: rate \"100\": expected a number of at least 1, a slash and a unit, "
                    "such as \"100/s\""},
        {"\"0/s\"", "t.conf:3: rate \"0/s\": expected a number of at least 1, a slash and a unit, "
                    "such as \"100/s\""},
        {"\"1/s\",\"1/m\",\"1/h\",\"2/s\",\"3/s\"",
         "t.conf:3: rate has 5 entries, expected 0 to 4"},
    };

    for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++) {
        char text[600];
        snprintf(text, sizeof(text), frame, bad[i][0]);
        expect_mistakes(text, bad[i][1]);
    }
}

Test(config_mistakes, keys)
{
    expect_mistakes(
        GOOD "team \"a\" {\n key \"B\" { sha256 = \"" HASH "\" } }\n",
        "t.conf:3: key \"B\": expected an id of at most 32 small letters, digits and -");
    expect_mistakes(GOOD "team \"a\" {\n key \"b\" { } }\n",
                    "t.conf:3: key \"b\" has no sha256, expected sha256 = \"...\"");
    expect_mistakes(
        GOOD "team \"a\" { key \"b\" {\n sha256 = \"abc\" } }\n",
        "t.conf:3: sha256 has 3 characters or others than digits and a to f, expected the "
        "64 hexadecimal digits of the key's SHA-256");
    expect_mistakes(GOOD "team \"a\" { key \"b\" { sha256 = \"" HASH
                         "\"\n operations = {\"statsu\"} } }\n",
                    "t.conf:3: operations \"statsu\": did you mean \"status\"?");
    expect_mistakes(GOOD "team \"a\" { key \"b\" { sha256 = \"" HASH "\"\n operations = {} } }\n",
                    "t.conf:2: operations has 0 entries, expected 1 to 64");
    expect_mistakes(
        GOOD "team \"a\" { key \"b\" { sha256 = \"" HASH "\"\n allow_from = {\"10.0.0.1/8\"} } }\n",
        "t.conf:3: allow_from \"10.0.0.1/8\": bits behind the prefix are set; write the "
        "network's first address");
    expect_mistakes(
        GOOD "team \"a\" { key \"b\" { sha256 = \"" HASH "\"\n expires = \"2027-02-29\" } }\n",
        "t.conf:3: expires \"2027-02-29\": expected a date, such as \"2027-01-31\", or a "
        "time of RFC 3339, such as \"2027-01-31T18:00:00Z\"");
    expect_mistakes(GOOD "team \"a\" { endpoints = {\"a*b\"} }\n",
                    "t.conf:2: endpoints \"a*b\": expected an endpoint's id, \"prefix*\" or \"*\"");
}

Test(config_mistakes, a_key_in_place_of_its_hash_is_not_repeated)
{
    struct config_errors *errors = config_errors_create();
    /* Made once by podgatectl key generate and never used. */
    const char *text = GOOD "team \"a\" { key \"ci\" { sha256 = "
                            "\"pg_ci_9517vV54TgPjTjdvCO6pTMfBEN5iV13Rb4SB5gI38oz1elFvq\" } }";

    cr_assert_null(config_load_text("t.conf", view_of_string(text), false, errors));
    cr_assert_eq(config_errors_count(errors), 1);
    cr_assert_null(strstr(config_errors_text(errors, 0), "9517vV54"));
    cr_assert_not_null(strstr(config_errors_text(errors, 0), "is the key itself"));
    config_errors_destroy(errors);
}

Test(config_mistakes, upstream_key)
{
    expect_mistakes("workers = 1\n", "t.conf: upstream has no key, expected one of api_key_file, "
                                     "api_key_env and api_key_credential");
    expect_mistakes("\nupstream { url = \"https://a/v2\" }\n",
                    "t.conf:2: upstream has no key, expected one of api_key_file, api_key_env and "
                    "api_key_credential");
    expect_mistakes("upstream {\n api_key_file = \"/x\"\n api_key_env = \"X\" }\n",
                    "t.conf:3: the upstream's key is given 2 times, expected one of api_key_file, "
                    "api_key_env and api_key_credential");
    expect_mistakes("upstream {\n api_key_env = \"A=B\" }\n",
                    "t.conf:2: api_key_env \"A=B\": expected the name of an environment variable");
}

Test(config_mistakes, addresses_and_urls)
{
    static const char *const listen[] = {"localhost:80",       "127.0.0.1", "::1:80",
                                         "[127.0.0.1]:80",     "*:80",      "[::1]",
                                         "[::ffff:1.2.3.4]:80"};
    for (size_t i = 0; i < sizeof(listen) / sizeof(listen[0]); i++) {
        char text[200];
        char expected[300];
        snprintf(text, sizeof(text), GOOD "listen = {\"%s\"}\n", listen[i]);
        snprintf(expected, sizeof(expected),
                 "t.conf:2: listen \"%s\": expected an address and a port", listen[i]);
        struct config_errors *errors = config_errors_create();
        cr_assert_null(config_load_text("t.conf", view_of_string(text), false, errors));
        cr_assert_eq(strncmp(config_errors_text(errors, 0), expected, strlen(expected)), 0, "%s",
                     config_errors_text(errors, 0));
        config_errors_destroy(errors);
    }
    expect_mistakes(GOOD "listen = {\"unix:x\"}",
                    "t.conf:2: listen \"unix:x\": expected an absolute path, such as "
                    "\"unix:/run/podgate/http.sock\"");
    expect_mistakes(GOOD "listen = {\"tls:127.0.0.1:443\"}",
                    "t.conf:2: listen has an address with \"tls:\", expected a section tls { "
                    "certificate = \"...\"  key = \"...\" }");
    expect_mistakes("upstream { api_key_env = \"A\"\n url = \"https://user:secret@host/\" }",
                    "t.conf:2: url \"https://user:secret@host/\": expected a URL without user name "
                    "and password");
    expect_mistakes("upstream { api_key_env = \"A\"\n url = \"https://a/v2?x=1\" }",
                    "t.conf:2: url \"https://a/v2?x=1\": expected a path of letters, digits and "
                    "./_~- only (no query, no \"%\")");
    expect_mistakes("upstream { api_key_env = \"A\"\n proxy = \"https://proxy\" }",
                    "t.conf:2: proxy \"https://proxy\": expected \"http://host:port\"");
}

Test(config_mistakes, texts_and_comments_without_an_end)
{
    expect_mistakes(GOOD "listen = \"127.0.0.1:1\nworkers = 1\n",
                    "t.conf:2: the text that begins with \" has no end, expected another \" on the "
                    "same line");
    expect_mistakes(GOOD "workers = 1\n/* no end\nworkers = 2\n",
                    "t.conf:3: the comment that begins here has no end, expected \"*/\"");
    expect_mistakes(GOOD "team \"a\" {\n endpoints = {\"x\"}\n",
                    "t.conf:2: section team has no end, expected \"}\"");
    expect_mistakes(GOOD "workers = 1\n}\n",
                    "t.conf:3: unexpected \"}\", expected the name of an option");
}

Test(config_mistakes, what_libconfuse_would_take_in_silence)
{
    expect_mistakes(GOOD "workers = *3\n",
                    "t.conf:2: unexpected \"*\", texts with such characters must be in quotes");
    expect_mistakes(GOOD "workers = \"1\\x002\"\n",
                    "t.conf:2: unknown escape \\x in a text, expected \\\\ or \\\"");
    expect_mistakes(
        GOOD "team \"a\" { endpoints += {\"x\"} }\n",
        "t.conf:2: endpoints += adds to nothing, expected endpoints = with the whole list");
    expect_mistakes(GOOD "team { }\n",
                    "t.conf:2: team has no name, expected team \"name\" { ... }");
    expect_mistakes(GOOD "log \"x\" { }\n", "t.conf:2: log takes no name, expected log { ... }");
    expect_mistakes(GOOD "log|level = info\n",
                    "t.conf:2: unexpected \"|\", texts with such characters must be in quotes\n"
                    "t.conf:2: log takes no name, expected log { ... }");
}

Test(config_mistakes, a_nul_byte)
{
    static const char text[] = GOOD "workers = 1\0002\n";
    struct config_errors *errors = config_errors_create();

    cr_assert_null(config_load_text("t.conf", view_make(text, sizeof(text) - 1), false, errors));
    cr_assert_str_eq(config_errors_text(errors, 0),
                     "t.conf:2: unexpected byte 0x00, expected text");
    config_errors_destroy(errors);
}

Test(config_mistakes, syntax)
{
    expect_mistakes(GOOD "workers 3\n", "t.conf:2: workers has no value, expected workers = ...");
    expect_mistakes(
        GOOD "workers = {1, 2}\n",
        "t.conf:2: unexpected token '{', expected name = \"value\", name = { list } or a "
        "section { ... }");
    expect_mistakes(GOOD "upstream = 3\n",
                    "t.conf:2: \"upstream\" is set already at t.conf:1, expected it once");
    expect_mistakes(GOOD "store = 3\n", "t.conf:2: store is a section, expected \"{\" after it");
    expect_mistakes(GOOD "include(\"a\", \"b\")\n",
                    "t.conf:2: expected include(\"FILE\"), with one name");
    expect_mistakes(GOOD "team \"a\" { include(\"a\") }\n",
                    "t.conf:2: include in section team, expected it outside of all sections");
}

Test(config_mistakes, pairs_that_contradict)
{
    expect_mistakes(GOOD "collector {\n first_poll = \"30s\" }\n",
                    "t.conf:3: first_poll is above max_poll, expected at most max_poll");
    expect_mistakes(
        GOOD "listen = \"127.0.0.1:8081\"\nadmin_listen = \"127.0.0.1:8081\"\n",
        "t.conf:3: admin_listen \"127.0.0.1:8081\" is an address of listen too, expected another");
}

Test(config_mistakes, many_are_cut_off_and_counted)
{
    struct config_errors *errors = config_errors_create();
    struct builder text;

    builder_init(&text, NULL, 0);
    for (int i = 0; i < 1000; i++) {
        builder_append(&text, VIEW("bogus = 1\n"));
    }
    cr_assert_null(config_load_text("t.conf", builder_view(&text), false, errors));
    cr_assert_geq(config_errors_count(errors), 1000);
    cr_assert_str_eq(config_errors_text(errors, 999), "and more mistakes that are not listed");
    builder_clear(&text);
    config_errors_destroy(errors);
}

Test(config_mistakes, messages_carry_no_control_bytes)
{
    struct config_errors *errors = config_errors_create();

    cr_assert_null(config_load_text("t.conf", VIEW(GOOD "workers = \"\x1b[2J\""), false, errors));
    cr_assert_null(strchr(config_errors_text(errors, 0), '\x1b'));
    config_errors_destroy(errors);
}

/* GOOD alone has one warning: there is no key. */
Test(config_mistakes, warnings_for_what_this_version_does_not_do)
{
    expect_warning(GOOD "store { backend = redis }\nretention { completed = \"1d\" }\n", NULL);
    expect_warning(GOOD "endpoint \"a\" { runsync = durable dedupe = input }\n", NULL);
    expect_warning(GOOD "team \"a\" {\n gpu_seconds_per_day = 5 }\n",
                   "t.conf:3: warning: team.gpu_seconds_per_day has no effect yet in this version");
    expect_warning(GOOD "team \"a\" {\n jobs_outstanding = 10000 }\n", NULL);
}

Test(config_mistakes, where_the_store_is)
{
    static const char *const bad_urls[] = {
        "redis://",  "redis+unix://x", "redis+unix:///",         "redis+sentinel://",
        "http://x/", "",               "redis+unix://user@/run", "valkey://x",
    };
    struct config_errors *errors;
    char text[256];

    for (size_t i = 0; i < ARRAY_LENGTH(bad_urls); i++) {
        errors = config_errors_create();
        snprintf(text, sizeof text, GOOD "store { url = \"%s\" }\n", bad_urls[i]);
        cr_expect_null(config_load_text("t.conf", view_of_string(text), false, errors), "%s",
                       bad_urls[i]);
        cr_expect_eq(config_errors_count(errors), 1);
        config_errors_destroy(errors);
    }
    expect_mistakes(GOOD "store { url = \"rediss://x\" }\n",
                    "t.conf:2: url \"rediss://x\": TLS to Redis is not in Debian 12's client, "
                    "expected \"redis://\" to a stunnel on this machine");
    expect_mistakes(GOOD "store { url = \"redis://:x@host/0\" }\n",
                    "t.conf:2: url \"redis://:x@host/0\": expected a URL without user name and "
                    "password; those are the options user and password_file");
    expect_mistakes(GOOD "store { user = \"podgate\" }\n",
                    "t.conf:2: user has no password, expected password_file");
    expect_mistakes(GOOD "store { path = \"podgate.db\" }\n",
                    "t.conf:2: path \"podgate.db\": expected an absolute path");
    snprintf(text, sizeof text, GOOD "\nadmin_socket = \"/%0120d\"\n", 0);
    expect_mistakes(text, "t.conf:3: admin_socket has 121 bytes, expected at most 107");
    expect_mistakes(GOOD "\nendpoint \"a\" { max_result = \"20MiB\" }\n"
                         "retention { max_result = \"1MiB\"  max_total = \"10MiB\" }\n",
                    "t.conf: max_result of endpoint \"a\" is above max_total, expected at most "
                    "max_total");
}

Test(config_mistakes, warnings_for_what_is_unsafe)
{
    expect_warning(
        "upstream { api_key_env = \"A\"\n verify = false }\n",
        "t.conf:2: warning: the upstream's certificate is not checked, anybody in between "
        "gets the key");
    expect_warning("upstream { api_key_env = \"A\"\n url = \"http://10.1.2.3/v2\" }\n",
                   "t.conf:2: warning: the upstream's key goes unencrypted to 10.1.2.3");
    expect_warning("upstream { api_key_env = \"A\"\n url = \"http://127.0.0.1:8900/v2\" }\n", NULL);
}
