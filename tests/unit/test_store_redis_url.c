#include "build_config.h"

#include <criterion/criterion.h>
#include <string.h>

#include "store/store_redis.h"

static struct redis_address address;

static void expect(const char *url)
{
    const char *wrong = redis_address_parse(view_of_string(url), &address);

    cr_assert_null(wrong, "%s: %s", url, wrong ? wrong : "");
}

static void expect_wrong(const char *url)
{
    cr_assert_not_null(redis_address_parse(view_of_string(url), &address), "%s was taken", url);
}

Test(store_redis_url, takes_a_host_with_and_without_port_and_database)
{
    expect("redis://127.0.0.1:7000/3");
    cr_assert_str_eq(address.hosts[0].name, "127.0.0.1");
    cr_assert_eq(address.hosts[0].port, 7000);
    cr_assert_eq(address.database, 3);
    cr_assert_not(address.is_unix || address.is_sentinel);
    expect("redis://redis.example");
    cr_assert_str_eq(address.hosts[0].name, "redis.example");
    cr_assert_eq(address.hosts[0].port, 6379);
    cr_assert_eq(address.database, 0);
    expect("redis://redis.example/");
    expect("redis://[::1]:7000/1");
    cr_assert_str_eq(address.hosts[0].name, "::1");
    cr_assert_eq(address.hosts[0].port, 7000);
    expect("redis://[2001:db8::7]");
    cr_assert_eq(address.hosts[0].port, 6379);
}

Test(store_redis_url, refuses_what_is_no_host_port_or_database)
{
    static const char *const wrong[] = {
        "",
        "redis:",
        "redis://",
        "redis:///0",
        "redis://:6379/0",
        "redis://host:",
        "redis://host:0/0",
        "redis://host:65536/0",
        "redis://host:x/0",
        "redis://host:-1/0",
        "redis://host/x",
        "redis://host/-1",
        "redis://host/65536",
        "redis://host/1/2",
        "redis://user:password@host/0",
        "redis://ho st/0",
        "redis://[::1/0",
        "redis://[::1]x/0",
        "redis://[host]/0",
        "redis://a,b/0",
        "http://host/0",
        "redis+tcp://host/0",
    };
    char longest[400] = "redis://";

    for (size_t i = 0; i < sizeof wrong / sizeof *wrong; i++) {
        expect_wrong(wrong[i]);
    }
    memset(longest + 8, 'a', REDIS_NAME_MAXIMUM);
    expect(longest);
    longest[8 + REDIS_NAME_MAXIMUM] = 'a';
    expect_wrong(longest);
}

Test(store_redis_url, takes_a_unix_socket)
{
    expect("redis+unix:///run/redis/redis.sock");
    cr_assert(address.is_unix);
    cr_assert_str_eq(address.path, "/run/redis/redis.sock");
    cr_assert_eq(address.database, 0);
    expect("redis+unix:///run/redis/redis.sock?db=5");
    cr_assert_str_eq(address.path, "/run/redis/redis.sock");
    cr_assert_eq(address.database, 5);
    expect_wrong("redis+unix://run/redis.sock");
    expect_wrong("redis+unix://");
    expect_wrong("redis+unix:///a?db=");
    expect_wrong("redis+unix:///a?x=1");
    expect_wrong("redis+unix:///a?db=1&db=2");
}

Test(store_redis_url, refuses_a_socket_path_that_no_address_holds)
{
    char path[300] = "redis+unix:///";

    memset(path + 14, 'a', sizeof address.path - 2);
    expect(path);
    cr_assert_eq(strlen(address.path), sizeof address.path - 1);
    path[14 + sizeof address.path - 2] = 'a';
    expect_wrong(path);
}

Test(store_redis_url, takes_sentinels_and_the_masters_name)
{
    expect("redis+sentinel://one:26380,[::1]:26381,three/mymaster/2");
    cr_assert(address.is_sentinel);
    cr_assert_eq(address.host_count, 3);
    cr_assert_str_eq(address.hosts[0].name, "one");
    cr_assert_eq(address.hosts[0].port, 26380);
    cr_assert_str_eq(address.hosts[1].name, "::1");
    cr_assert_eq(address.hosts[1].port, 26381);
    cr_assert_str_eq(address.hosts[2].name, "three");
    cr_assert_eq(address.hosts[2].port, 26379);
    cr_assert_str_eq(address.master, "mymaster");
    cr_assert_eq(address.database, 2);
    expect("redis+sentinel://one/mymaster");
    cr_assert_eq(address.database, 0);
    expect_wrong("redis+sentinel://one");
    expect_wrong("redis+sentinel://one/");
    expect_wrong("redis+sentinel:///mymaster");
    expect_wrong("redis+sentinel://one,/mymaster");
    expect_wrong("redis+sentinel://one,,two/mymaster");
    expect_wrong("redis+sentinel://one/mymaster/x");
    expect_wrong("redis+sentinel://a,b,c,d,e,f,g,h,i/mymaster");
    expect("redis+sentinel://a,b,c,d,e,f,g,h/mymaster");
}

Test(store_redis_url, says_how_to_have_tls)
{
    const char *wrong = redis_address_parse(VIEW("rediss://redis.example/0"), &address);

    cr_assert_not_null(wrong);
    cr_assert_not_null(strstr(wrong, "stunnel"));
}

Test(store_redis_url, an_endpoint_is_on_the_same_shard_for_ever)
{
    /* These are on disks: a change of the function would lose them. */
    cr_assert_eq(redis_shard(VIEW("")), redis_shard(VIEW("")));
    cr_assert_eq(redis_shard(VIEW("abc123")), 7);
    cr_assert_eq(redis_shard(VIEW("xyz789")), 14);
    for (unsigned i = 0; i < 256; i++) {
        char byte = (char)(unsigned char)i;

        cr_assert_lt(redis_shard(view_make(&byte, 1)), REDIS_SHARDS);
    }
}
