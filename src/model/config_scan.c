/* A first look at a file's text, before libconfuse parses it. libconfuse 3.3 counts the lines of
 * comments wrongly, takes a comment or string without an end for the rest of the file, swallows
 * bytes that it doesn't know ("workers = *3"), lets the second of two settings win, walks into
 * sections by "upstream|url", and stops at the first unknown option. All of that is found here,
 * with its line; what libconfuse must not meet is overwritten with spaces. Values are libconfuse's.
 */
#include "build_config.h"

#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

#include "model/config_internal.h"

enum token_kind { TOKEN_WORD, TOKEN_STRING, TOKEN_PUNCTUATION, TOKEN_END };

struct token {
    enum token_kind kind;
    char punctuation; /* one of { } ( ) = , and '+' for "+=" */
    size_t start;
    size_t end;
    uint32_t line;
};

enum { DEPTH_MAX = 3, NAME_ROOM = 64 };

struct scan {
    struct config_loader *loader;
    char *text;
    size_t length;
    size_t at;
    uint32_t line;
    size_t told; /* up to here bytes were complained about: some are read twice */
    bool broken; /* libconfuse can't go on */

    /* The sections that are open: root, team, key at most. */
    struct {
        enum config_section_name name;
        uint32_t line;
        struct config_seen *seen;
    } open[DEPTH_MAX];
    size_t depth;
    struct config_seen own_seen[DEPTH_MAX]; /* of sections that may be repeated */
};

static struct config_position position_of(const struct scan *scan, uint32_t line)
{
    return (struct config_position){.file = scan->loader->position.file, .line = line};
}

/* Notes a mistake in the bytes themselves, once. */
static void lexical_error(struct scan *scan, uint32_t line, const char *format, ...)
    __attribute__((format(printf, 3, 4)));
static void lexical_error(struct scan *scan, uint32_t line, const char *format, ...)
{
    char message[200];
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(message, sizeof(message), format, arguments);
    va_end(arguments);
    scan->broken = true;
    if (scan->at < scan->told)
        return;
    scan->told = scan->at + 1;
    config_error(scan->loader->errors, position_of(scan, line), "%s", message);
}

static void blank(struct scan *scan, size_t start, size_t end)
{
    for (size_t i = start; i < end; i++)
        if (scan->text[i] != '\n')
            scan->text[i] = ' ';
}

static bool is_at(const struct scan *scan, const char *word)
{
    size_t length = strlen(word);
    return scan->length - scan->at >= length && memcmp(scan->text + scan->at, word, length) == 0;
}

/* Blanks the comment that begins here. */
static void skip_comment(struct scan *scan)
{
    size_t start = scan->at;
    uint32_t line = scan->line;
    if (!is_at(scan, "/*")) {
        while (scan->at < scan->length && scan->text[scan->at] != '\n')
            scan->at++;
        blank(scan, start, scan->at);
        return;
    }
    scan->at += 2;
    while (scan->at < scan->length && !is_at(scan, "*/")) {
        if (scan->text[scan->at] == '\n')
            scan->line++;
        scan->at++;
    }
    if (scan->at >= scan->length) {
        lexical_error(scan, line, "the comment that begins here has no end, expected \"*/\"");
    } else {
        scan->at += 2;
    }
    blank(scan, start, scan->at);
}

/* Steps over "${NAME}" or "${NAME:-default}", which libconfuse replaces by the variable's value.
 * Unset without a default it would be an empty text: an error instead. */
static void skip_variable(struct scan *scan)
{
    size_t start = scan->at + 2;
    size_t end = start;
    while (end < scan->length && strchr("}\n\"", scan->text[end]) == NULL)
        end++;
    size_t name_end = start;
    while (name_end < end && scan->text[name_end] != ':')
        name_end++;
    char name[NAME_ROOM];
    if (end >= scan->length || scan->text[end] != '}' || name_end == start ||
        name_end - start >= sizeof(name)) {
        lexical_error(scan, scan->line,
                      "\"${\" begins an environment variable, expected ${NAME} or "
                      "${NAME:-default}");
        scan->at += 2;
        return;
    }
    memcpy(name, scan->text + start, name_end - start);
    name[name_end - start] = '\0';
    bool has_default = end - name_end >= 2 && scan->text[name_end + 1] == '-';
    if (scan->loader->check_files && !has_default && getenv(name) == NULL)
        config_error(scan->loader->errors, position_of(scan, scan->line),
                     "the environment variable %s is not set", name);
    scan->at = end + 1;
}

static void refuse_byte(struct scan *scan)
{
    unsigned char byte = (unsigned char)scan->text[scan->at];
    if (byte >= 0x21 && byte < 0x7f)
        lexical_error(scan, scan->line,
                      "unexpected \"%c\", texts with such characters must be in quotes", byte);
    else
        lexical_error(scan, scan->line, "unexpected byte 0x%02x, expected text", byte);
    scan->at++;
}

/* Steps over a string, which must end on its line. */
static void skip_string(struct scan *scan)
{
    char quote = scan->text[scan->at++];
    while (scan->at < scan->length && scan->text[scan->at] != '\n') {
        char byte = scan->text[scan->at];
        if (byte == quote) {
            scan->at++;
            return;
        }
        if (byte == '\\' && scan->at + 1 < scan->length && scan->text[scan->at + 1] != '\n') {
            /* Others make bytes that nobody sees in the file, such as a NUL that ends the text. */
            char escaped = scan->text[scan->at + 1];
            if (escaped != '\\' && escaped != quote) {
                lexical_error(scan, scan->line,
                              "unknown escape \\%c in a text, expected \\\\ or \\%c", escaped,
                              quote);
            }
            scan->at += 2;
        } else if (byte == '\0') {
            refuse_byte(scan);
        } else if (quote == '"' && is_at(scan, "${")) {
            skip_variable(scan);
        } else {
            scan->at++;
        }
    }
    lexical_error(scan, scan->line,
                  "the text that begins with %c has no end, expected another %c on the same line",
                  quote, quote);
}

static bool is_word_byte(char byte)
{
    return (byte >= 'a' && byte <= 'z') || (byte >= 'A' && byte <= 'Z') ||
           (byte >= '0' && byte <= '9') || (byte != '\0' && strchr("_-.:/@%", byte) != NULL);
}

static void skip_word(struct scan *scan)
{
    while (scan->at < scan->length) {
        if (is_at(scan, "${"))
            skip_variable(scan);
        else if (is_word_byte(scan->text[scan->at]) && !is_at(scan, "//") && !is_at(scan, "/*"))
            scan->at++;
        else
            return;
    }
}

/* The next token; comments on the way are blanked. */
static struct token next_token(struct scan *scan)
{
    while (scan->at < scan->length) {
        struct token token = {.start = scan->at, .line = scan->line};
        char byte = scan->text[scan->at];
        if (byte == '\n') {
            scan->line++;
            scan->at++;
        } else if (byte == ' ' || byte == '\t' || byte == '\r') {
            scan->at++;
        } else if (byte == '#' || is_at(scan, "//") || is_at(scan, "/*")) {
            skip_comment(scan);
        } else if (byte == '"' || byte == '\'') {
            skip_string(scan);
            token.kind = TOKEN_STRING;
            token.end = scan->at;
            return token;
        } else if (is_at(scan, "+=") || (byte != '\0' && strchr("{}()=,", byte) != NULL)) {
            scan->at += byte == '+' ? 2 : 1;
            token.kind = TOKEN_PUNCTUATION;
            token.punctuation = byte;
            token.end = scan->at;
            return token;
        } else if (is_word_byte(byte) || is_at(scan, "${")) {
            skip_word(scan);
            token.kind = TOKEN_WORD;
            token.end = scan->at;
            return token;
        } else {
            refuse_byte(scan);
        }
    }
    return (struct token){
        .kind = TOKEN_END, .start = scan->length, .end = scan->length, .line = scan->line};
}

static bool is_punctuation(struct token token, char punctuation)
{
    return token.kind == TOKEN_PUNCTUATION && token.punctuation == punctuation;
}

/* Steps over all up to the bracket that closes the one just read; gives the last token. */
static struct token skip_brackets(struct scan *scan)
{
    size_t depth = 1;
    struct token token = next_token(scan);
    while (token.kind != TOKEN_END) {
        if (is_punctuation(token, '{') || is_punctuation(token, '('))
            depth++;
        if ((is_punctuation(token, '}') || is_punctuation(token, ')')) && --depth == 0)
            break;
        token = next_token(scan);
    }
    return token;
}

/* Steps over what follows an option's or section's name: its value or body; or, when what follows
 * is none, the rest of the line, which is probably prose. Gives the end of it in the text. */
static size_t skip_construct(struct scan *scan)
{
    size_t at = scan->at;
    uint32_t line = scan->line;
    struct token token = next_token(scan);
    if (token.kind == TOKEN_STRING || token.kind == TOKEN_WORD)
        token = next_token(scan); /* a title, if a section follows */
    else if (is_punctuation(token, '=') || is_punctuation(token, '+')) {
        token = next_token(scan);
        if (token.kind == TOKEN_STRING || token.kind == TOKEN_WORD)
            return token.end;
    }
    if (is_punctuation(token, '{') || is_punctuation(token, '('))
        return skip_brackets(scan).end;
    scan->at = at;
    scan->line = line;
    do {
        at = scan->at;
        line = scan->line;
        token = next_token(scan);
    } while (token.line == line && token.kind != TOKEN_END && !is_punctuation(token, '}'));
    scan->at = at;
    scan->line = line;
    return at;
}

/* The name in a token, without quotes; false when it is too long to be one. */
static bool token_name(const struct scan *scan, struct token token, char *name)
{
    size_t start = token.start;
    size_t end = token.end;
    if (token.kind == TOKEN_STRING && end - start >= 2) {
        start++;
        end--;
    }
    size_t length = end - start;
    bool whole = length < NAME_ROOM;
    if (!whole)
        length = NAME_ROOM - 1;
    memcpy(name, scan->text + start, length);
    name[length] = '\0';
    return whole && length > 0;
}

static void refuse_unknown(struct scan *scan, struct token token, const char *name)
{
    enum config_section_name section = scan->open[scan->depth].name;
    const char *where = config_sections[section].name;
    const char *near = config_option_suggest(section, name);
    char place[NAME_ROOM] = "";
    if (*where != '\0')
        snprintf(place, sizeof(place), " in section %s", where);
    struct config_position position = position_of(scan, token.line);
    /* A name of another section is worth more than one that is spelled alike. */
    for (int i = 0; near == NULL && i < CONFIG_SECTIONS; i++) {
        if (config_option_find((enum config_section_name)i, name) < 0)
            continue;
        if (i == CONFIG_SECTION_ROOT)
            config_error(scan->loader->errors, position,
                         "unknown option \"%s\"%s, it belongs outside of all sections", name,
                         place);
        else
            config_error(scan->loader->errors, position,
                         "unknown option \"%s\"%s, it belongs into section %s", name, place,
                         config_sections[i].name);
        blank(scan, token.start, skip_construct(scan));
        return;
    }
    if (near != NULL)
        config_error(scan->loader->errors, position,
                     "unknown option \"%s\"%s, did you mean \"%s\"?", name, place, near);
    else
        config_error(scan->loader->errors, position,
                     "unknown option \"%s\"%s, see podgate.conf(5) for those there are", name,
                     place);
    blank(scan, token.start, skip_construct(scan));
}

/* Notes where the option was set; false when it was before: then this setting is blanked. */
static bool note_seen(struct scan *scan, struct token token, const char *name,
                      struct config_position *seen)
{
    struct config_position position = position_of(scan, token.line);
    if (seen->line == 0) {
        *seen = position;
        return true;
    }
    config_error(scan->loader->errors, position, "\"%s\" is set already at %s:%u, expected it once",
                 name, config_errors_file_name(scan->loader->errors, seen->file), seen->line);
    blank(scan, token.start, skip_construct(scan));
    return false;
}

static bool note_opened(struct config_loader *loader, enum config_section_name section,
                        struct config_position position)
{
    struct config_opened *opened = &loader->opened[section];
    if (opened->count == opened->size) {
        size_t size = opened->size == 0 ? 16 : opened->size * 2;
        struct config_position *items = realloc(opened->items, size * sizeof(*items));
        if (items == NULL) {
            loader->out_of_memory = true;
            return false;
        }
        opened->items = items;
        opened->size = size;
    }
    opened->items[opened->count++] = position;
    return true;
}

/* A section's name was read: opens it, if what follows is its body. False: libconfuse will stop
 * here. */
static bool open_section(struct scan *scan, struct token name, enum config_section_name section)
{
    const struct config_section *description = &config_sections[section];
    if (!description->repeated &&
        !note_seen(scan, name, description->name, &scan->loader->section_at[section]))
        return true;
    struct token token = next_token(scan);
    if (description->titled && (token.kind == TOKEN_STRING || token.kind == TOKEN_WORD))
        token = next_token(scan);
    else if (description->titled && is_punctuation(token, '{')) {
        config_error(scan->loader->errors, position_of(scan, name.line),
                     "%s has no name, expected %s \"name\" { ... }", description->name,
                     description->name);
        scan->broken = true;
    } else if (!description->titled && (token.kind == TOKEN_STRING || token.kind == TOKEN_WORD)) {
        config_error(scan->loader->errors, position_of(scan, name.line),
                     "%s takes no name, expected %s { ... }", description->name, description->name);
        scan->broken = true;
        token = next_token(scan);
    }
    if (!is_punctuation(token, '{') || scan->depth + 1 >= DEPTH_MAX) {
        if (!scan->broken)
            config_error(scan->loader->errors, position_of(scan, name.line),
                         "%s is a section, expected \"{\" after it", description->name);
        scan->broken = true;
        return false;
    }
    if (description->repeated &&
        !note_opened(scan->loader, section, position_of(scan, name.line))) {
        scan->broken = true;
        return false;
    }
    scan->depth++;
    scan->open[scan->depth].name = section;
    scan->open[scan->depth].line = name.line;
    scan->open[scan->depth].seen =
        description->repeated ? &scan->own_seen[scan->depth] : &scan->loader->seen[section];
    if (description->repeated)
        memset(scan->open[scan->depth].seen, 0, sizeof(struct config_seen));
    return true;
}

/* An option's name was read. False: libconfuse will stop here. */
static bool read_option(struct scan *scan, struct token name, int option)
{
    enum config_section_name section = scan->open[scan->depth].name;
    const char *text = config_sections[section].options[option].name;
    if (!note_seen(scan, name, text, &scan->open[scan->depth].seen->options[option]))
        return true;
    struct token token = next_token(scan);
    if (is_punctuation(token, '+')) {
        config_error(scan->loader->errors, position_of(scan, token.line),
                     "%s += adds to nothing, expected %s = with the whole list", text, text);
        scan->at = name.end;
        scan->line = name.line;
        blank(scan, name.start, skip_construct(scan));
        return true;
    }
    if (!is_punctuation(token, '=')) {
        config_error(scan->loader->errors, position_of(scan, name.line),
                     "%s has no value, expected %s = ...", text, text);
        scan->broken = true;
        return false;
    }
    token = next_token(scan);
    if (is_punctuation(token, '{'))
        return skip_brackets(scan).kind != TOKEN_END;
    return token.kind == TOKEN_STRING || token.kind == TOKEN_WORD;
}

/* libconfuse leaks the arguments of a call that isn't whole, so it gets to see whole ones only. */
static void read_include(struct scan *scan, struct token name, enum config_section_name section)
{
    if (section == CONFIG_SECTION_ROOT) {
        struct token open = next_token(scan);
        struct token file = next_token(scan);
        struct token close = next_token(scan);
        if (is_punctuation(open, '(') && is_punctuation(close, ')') &&
            (file.kind == TOKEN_STRING || file.kind == TOKEN_WORD))
            return;
        config_error(scan->loader->errors, position_of(scan, name.line),
                     "expected include(\"FILE\"), with one name");
    } else {
        config_error(scan->loader->errors, position_of(scan, name.line),
                     "include in section %s, expected it outside of all sections",
                     config_sections[section].name);
    }
    scan->at = name.end;
    scan->line = name.line;
    blank(scan, name.start, skip_construct(scan));
}

/* One name with what belongs to it. False: no sense in going on. */
static bool read_statement(struct scan *scan, struct token token)
{
    char name[NAME_ROOM];
    bool whole = token_name(scan, token, name);
    enum config_section_name section = scan->open[scan->depth].name;
    if (whole && strcmp(name, "include") == 0) {
        read_include(scan, token, section);
        return true;
    }
    int option = whole ? config_option_find(section, name) : -1;
    if (option >= 0)
        return read_option(scan, token, option);
    int inner = whole ? config_section_find(section, name) : -1;
    if (inner >= 0)
        return open_section(scan, token, (enum config_section_name)inner);
    refuse_unknown(scan, token, name);
    return true;
}

bool config_scan(struct config_loader *loader, char *text, size_t length)
{
    struct scan scan = {.loader = loader, .text = text, .length = length, .line = 1};
    scan.open[0].name = CONFIG_SECTION_ROOT;
    scan.open[0].seen = &loader->seen[CONFIG_SECTION_ROOT];
    struct token token = next_token(&scan);
    bool going = true;
    while (going && token.kind != TOKEN_END) {
        if (token.kind != TOKEN_PUNCTUATION) {
            going = read_statement(&scan, token);
        } else if (token.punctuation == '}' && scan.depth > 0) {
            scan.depth--;
        } else {
            config_error(loader->errors, position_of(&scan, token.line),
                         "unexpected \"%c\", expected the name of an option", token.punctuation);
            scan.broken = true;
            going = false;
        }
        if (going)
            token = next_token(&scan);
    }
    if (going && !scan.broken && scan.depth > 0) {
        config_error(loader->errors, position_of(&scan, scan.open[scan.depth].line),
                     "section %s has no end, expected \"}\"",
                     config_sections[scan.open[scan.depth].name].name);
        scan.broken = true;
    }
    /* A statement that isn't whole is libconfuse's to name; but bytes and strings further down are
     * looked at in any case. */
    while (token.kind != TOKEN_END)
        token = next_token(&scan);
    return !scan.broken;
}
