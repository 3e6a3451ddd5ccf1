/* Addresses, URLs, names and patterns, from text. */
#include "build_config.h"

#include <netinet/in.h>
#include <string.h>
#include <sys/un.h>

#include "model/config_internal.h"

static bool is_letter(char byte)
{
    return (byte >= 'a' && byte <= 'z') || (byte >= 'A' && byte <= 'Z');
}

static bool is_digit(char byte)
{
    return byte >= '0' && byte <= '9';
}

/* True for 1 to `maximum` letters, digits and bytes of `further`. */
static bool is_made_of(struct view text, size_t maximum, const char *further)
{
    if (text.length == 0 || text.length > maximum)
        return false;
    for (size_t i = 0; i < text.length; i++) {
        char byte = text.data[i];
        if (!is_letter(byte) && !is_digit(byte) && (byte == '\0' || strchr(further, byte) == NULL))
            return false;
    }
    return true;
}

bool config_is_endpoint(struct view text)
{
    return is_made_of(text, 64, "_-");
}

bool config_is_endpoint_pattern(struct view text)
{
    if (text.length > 0 && text.data[text.length - 1] == '*')
        text.length--;
    else if (text.length == 0)
        return false;
    return text.length == 0 || config_is_endpoint(text);
}

bool config_team_name_valid(struct view text)
{
    return is_made_of(text, 64, "_.-");
}

bool config_is_variable(struct view text)
{
    return is_made_of(text, 128, "_") && !is_digit(text.data[0]);
}

bool config_is_credential(struct view text)
{
    return is_made_of(text, 255, "_.-") && text.data[0] != '.';
}

static bool is_host_name(struct view text)
{
    if (!is_made_of(text, 253, ".-_") || text.data[0] == '.' || text.data[0] == '-')
        return false;
    for (size_t i = 1; i < text.length; i++)
        if (text.data[i] == '.' && text.data[i - 1] == '.')
            return false;
    return true;
}

bool config_is_server_name(struct view text)
{
    if (view_starts_with(text, VIEW("*.")))
        text = view_skip(text, 2);
    return is_host_name(text) && text.data[text.length - 1] != '.';
}

/* Splits "host", "host:port" or "[v6]:port" at the colon. False when brackets or port are wrong.
 * `has_port` false: there is none. */
static bool split_port(struct view text, struct view *host, uint16_t *port, bool *has_port)
{
    size_t end = view_find_byte(text, ':');
    *host = view_first(text, end);
    if (text.length > 0 && text.data[0] == '[') {
        size_t close = view_find_byte(text, ']');
        if (close == text.length)
            return false;
        *host = view_first(view_skip(text, 1), close - 1);
        end = close + 1;
    }
    struct view rest = view_skip(text, end);
    *has_port = rest.length > 0;
    if (!*has_port)
        return true;
    uint64_t number;
    if (rest.data[0] != ':' || rest.length > 6 ||
        !view_parse_u64(view_skip(rest, 1), 65535, &number) || number == 0)
        return false;
    *port = (uint16_t)number;
    return true;
}

static const char *parse_unix_path(struct view path, struct config_address *address)
{
    struct sockaddr_un unix_address;
    if (path.length == 0 || path.data[0] != '/')
        return "expected an absolute path, such as \"unix:/run/podgate/http.sock\"";
    if (path.length >= sizeof(unix_address.sun_path))
        return "the path of a Unix socket must be shorter than 108 bytes";
    address->unix_path = path;
    return NULL;
}

const char *config_parse_address(struct view text, struct config_address *address)
{
    static const char expected[] = "expected an address and a port, such as \"127.0.0.1:8080\", "
                                   "\"[::1]:8080\" or \"unix:/path\"";
    *address = (struct config_address){.text = text};
    if (view_starts_with(text, VIEW("tls:"))) {
        address->tls = true;
        text = view_skip(text, 4);
    }
    if (view_starts_with(text, VIEW("unix:")))
        return parse_unix_path(view_skip(text, 5), address);
    struct view host;
    uint16_t port = 0;
    bool has_port;
    struct address parsed;
    if (!split_port(text, &host, &port, &has_port))
        return "expected an address and a port of 1 to 65535, an IPv6 address in [brackets]";
    if (!has_port || !address_parse(host, &parsed))
        return expected;
    bool brackets = text.data[0] == '[';
    if (brackets != (view_find_byte(host, ':') < host.length))
        return expected;
    if (parsed.family == ADDRESS_IPV4 && !brackets) {
        struct sockaddr_in *v4 = (struct sockaddr_in *)&address->address;
        v4->sin_family = AF_INET;
        v4->sin_port = htons(port);
        memcpy(&v4->sin_addr, parsed.bytes, 4);
        address->address_length = sizeof(*v4);
    } else if (parsed.family == ADDRESS_IPV6) {
        struct sockaddr_in6 *v6 = (struct sockaddr_in6 *)&address->address;
        v6->sin6_family = AF_INET6;
        v6->sin6_port = htons(port);
        memcpy(&v6->sin6_addr, parsed.bytes, 16);
        address->address_length = sizeof(*v6);
    } else {
        return expected; /* "[::ffff:1.2.3.4]": write it as IPv4 */
    }
    return NULL;
}

static const char *parse_authority(struct view authority, struct config_url *url)
{
    bool has_port;
    uint16_t port = url->tls ? 443 : 80;
    struct address parsed;
    if (view_find_byte(authority, '@') < authority.length)
        return "expected a URL without user name and password";
    if (!split_port(authority, &url->host, &port, &has_port))
        return "expected a host and, behind a colon, a port of 1 to 65535";
    bool brackets = authority.length > 0 && authority.data[0] == '[';
    if (brackets ? !address_parse(url->host, &parsed) : !is_host_name(url->host))
        return "expected a host name, or an address (IPv6 in [brackets])";
    url->port = port;
    return NULL;
}

const char *config_parse_url(struct view text, struct config_url *url)
{
    *url = (struct config_url){.text = text};
    struct view rest;
    if (view_starts_with_ignore_case(text, VIEW("https://"))) {
        url->tls = true;
        rest = view_skip(text, 8);
    } else if (view_starts_with_ignore_case(text, VIEW("http://"))) {
        rest = view_skip(text, 7);
    } else {
        return "expected a URL that begins with https:// or http://";
    }
    size_t slash = view_find_byte(rest, '/');
    const char *wrong = parse_authority(view_first(rest, slash), url);
    if (wrong != NULL)
        return wrong;
    struct view path = view_skip(rest, slash);
    while (path.length > 0 && path.data[path.length - 1] == '/') {
        path.length--;
        url->text.length--;
    }
    if (path.length > 0 && !is_made_of(path, 512, "/._~-"))
        return "expected a path of letters, digits and ./_~- only (no query, no \"%\")";
    for (size_t i = 1; i < path.length; i++)
        if (path.data[i - 1] == '/' && (path.data[i] == '/' || path.data[i] == '.'))
            return "expected a path without empty segments and segments that begin with a dot";
    url->path = path;
    return NULL;
}

bool config_is_origin(struct view text)
{
    struct config_url url;
    if (view_equal(text, VIEW("*")))
        return true;
    return config_parse_url(text, &url) == NULL && url.path.length == 0 &&
           url.text.length == text.length;
}
