#include "build_config.h"

#include "format/json_scan.h"

#include "format/json_text.h"

/* What may come next. */
enum expectation {
    EXPECT_VALUE,
    EXPECT_VALUE_OR_END, /* behind "[" */
    EXPECT_NAME,         /* behind "," in an object */
    EXPECT_NAME_OR_END,  /* behind "{" */
    EXPECT_COLON,
    EXPECT_AFTER, /* behind a value */
};

struct scan {
    const char *start;
    const char *at;
    const char *end;
    unsigned flags;
    unsigned depth;
    bool in_object;  /* kind of the innermost container */
    bool has_escape; /* of the last string */
    enum expectation expectation;
    const char *value; /* where the value of a member of the outermost object begins */
    enum json_type value_type;
    struct json_member *current; /* that member, when it is wanted */
    struct json_member *members;
    size_t member_count;
    struct json_report report;
    uint64_t kinds[JSON_SCAN_DEPTH_MAXIMUM / 64]; /* bit n: level n + 1 is an object */
};

static uint64_t load_chunk(const char *data)
{
    uint64_t chunk;
    memcpy(&chunk, data, sizeof chunk);
    return chunk;
}

static void skip_white(struct scan *scan)
{
    while (scan->at < scan->end) {
        char byte = *scan->at;
        if (byte != ' ' && byte != '\n' && byte != '\t' && byte != '\r') {
            return;
        }
        scan->at++;
        /* Indentation. */
        while (scan->end - scan->at >= 8 && load_chunk(scan->at) == UINT64_C(0x2020202020202020)) {
            scan->at += 8;
        }
    }
}

/* ---- strings --------------------------------------------------------------------------------- */

/* Moves over eight bytes at a time as long as none of them ends the string or needs a look. */
static const char *skip_plain_text(const char *at, const char *end, bool any_high)
{
    const uint64_t ones = UINT64_C(0x0101010101010101);
    const uint64_t highs = UINT64_C(0x8080808080808080);
    const uint64_t high_mask = any_high ? 0 : highs;
    while (end - at >= 8) {
        uint64_t chunk = load_chunk(at);
        uint64_t controls = (chunk - ones * 0x20) & ~chunk;
        uint64_t quotes = (chunk ^ ones * '"') - ones;
        uint64_t slashes = (chunk ^ ones * '\\') - ones;
        /* A byte at or above 0x80 can't be a quote or a backslash: ~chunk spares its own ~. */
        uint64_t stops = (controls | ((quotes | slashes) & ~chunk)) & highs;
        stops |= chunk & high_mask;
        if (stops != 0) {
            /* The lowest mark is exact; those above it may come from a borrow. */
            return __BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__ ? at + __builtin_ctzll(stops) / 8 : at;
        }
        at += 8;
    }
    return at;
}

static bool is_hex(char byte)
{
    return (byte >= '0' && byte <= '9') || ((byte | 0x20) >= 'a' && (byte | 0x20) <= 'f');
}

/* At a backslash. */
static enum json_scan_result skip_escape(struct scan *scan)
{
    scan->has_escape = true;
    scan->at++;
    if (scan->at == scan->end) {
        return JSON_SCAN_CUT;
    }
    switch (*scan->at++) {
    case '"':
    case '\\':
    case '/':
    case 'b':
    case 'f':
    case 'n':
    case 'r':
    case 't': return JSON_SCAN_OK;
    case 'u': break;
    default: scan->at--; return JSON_SCAN_BAD;
    }
    for (int i = 0; i < 4; i++) {
        if (scan->at == scan->end) {
            return JSON_SCAN_CUT;
        }
        if (!is_hex(*scan->at)) {
            return JSON_SCAN_BAD;
        }
        scan->at++;
    }
    return JSON_SCAN_OK;
}

/* At a byte of 0x80 or more while UTF-8 is demanded. */
static enum json_scan_result skip_utf8(struct scan *scan)
{
    size_t left = (size_t)(scan->end - scan->at);
    size_t length = json_text_utf8_length(scan->at, left);
    while (length > 0) {
        scan->at += length;
        left -= length;
        /* Such bytes come in rows. */
        if (left == 0 || (unsigned char)*scan->at < 0x80) {
            return JSON_SCAN_OK;
        }
        length = json_text_utf8_length(scan->at, left);
    }
    /* Cut off within a sequence, or wrong? A cut one would be right with more bytes like these. */
    static const char *const continuations[] = {"\x80\x80\x80", "\x90\x80\x80", "\xa0\x80\x80"};
    for (size_t i = 0; left < 4 && i < ARRAY_LENGTH(continuations); i++) {
        char whole[7];
        memcpy(whole, scan->at, left);
        memcpy(whole + left, continuations[i], 3);
        if (json_text_utf8_length(whole, left + 3) > left) {
            return JSON_SCAN_CUT;
        }
    }
    return JSON_SCAN_NOT_UTF8;
}

/* At the opening quote; ends behind the closing one. */
static enum json_scan_result skip_string(struct scan *scan)
{
    bool any_high = (scan->flags & JSON_SCAN_UTF8) == 0;
    scan->has_escape = false;
    scan->at++;
    for (;;) {
        scan->at = skip_plain_text(scan->at, scan->end, any_high);
        if (scan->at == scan->end) {
            return JSON_SCAN_CUT;
        }
        unsigned char byte = (unsigned char)*scan->at;
        enum json_scan_result result = JSON_SCAN_OK;
        if (byte == '"') {
            scan->at++;
            return JSON_SCAN_OK;
        }
        if (byte == '\\') {
            result = skip_escape(scan);
        } else if (byte < 0x20) {
            result = JSON_SCAN_BAD;
        } else if (byte >= 0x80 && !any_high) {
            result = skip_utf8(scan);
        } else {
            scan->at++;
        }
        if (result != JSON_SCAN_OK) {
            return result;
        }
    }
}

/* ---- numbers and words ----------------------------------------------------------------------- */

/* One or more digits. */
static enum json_scan_result skip_digits(struct scan *scan)
{
    if (scan->at == scan->end) {
        return JSON_SCAN_CUT;
    }
    if (*scan->at < '0' || *scan->at > '9') {
        return JSON_SCAN_BAD;
    }
    do {
        scan->at++;
    } while (scan->at < scan->end && *scan->at >= '0' && *scan->at <= '9');
    return JSON_SCAN_OK;
}

static enum json_scan_result skip_word(struct scan *scan, struct view word)
{
    for (size_t i = 0; i < word.length; i++) {
        if (scan->at == scan->end) {
            return JSON_SCAN_CUT;
        }
        if (*scan->at != word.data[i]) {
            return JSON_SCAN_BAD;
        }
        scan->at++;
    }
    return JSON_SCAN_OK;
}

/* A word that isn't JSON, but what Python's json module writes. */
static enum json_scan_result skip_non_finite(struct scan *scan, struct view word)
{
    if ((scan->flags & JSON_SCAN_NON_FINITE) == 0) {
        return JSON_SCAN_BAD;
    }
    enum json_scan_result result = skip_word(scan, word);
    if (result == JSON_SCAN_OK) {
        scan->value_type = scan->depth <= 1 ? JSON_NON_FINITE : scan->value_type;
        scan->report.non_finite = true;
    }
    return result;
}

/* At "-" or a digit. */
static enum json_scan_result skip_number(struct scan *scan)
{
    enum json_scan_result result = JSON_SCAN_OK;
    if (*scan->at == '-') {
        scan->at++;
        if (scan->at < scan->end && *scan->at == 'I') {
            return skip_non_finite(scan, VIEW("Infinity"));
        }
    }
    if (scan->at < scan->end && *scan->at == '0') {
        scan->at++;
    } else {
        result = skip_digits(scan);
    }
    if (result == JSON_SCAN_OK && scan->at < scan->end && *scan->at == '.') {
        scan->at++;
        result = skip_digits(scan);
    }
    if (result == JSON_SCAN_OK && scan->at < scan->end && (*scan->at | 0x20) == 'e') {
        scan->at++;
        if (scan->at < scan->end && (*scan->at == '+' || *scan->at == '-')) {
            scan->at++;
        }
        result = skip_digits(scan);
    }
    /* Within something a number must be ended by another byte: more digits could have come. */
    if (result == JSON_SCAN_OK && scan->at == scan->end && scan->depth > 0) {
        return JSON_SCAN_CUT;
    }
    return result;
}

/* ---- structure ------------------------------------------------------------------------------- */

/* A value of the outermost object is whole. */
static void end_value(struct scan *scan)
{
    scan->expectation = EXPECT_AFTER;
    if (scan->depth == 1 && scan->current != NULL) {
        scan->current->value = view_make(scan->value, (size_t)(scan->at - scan->value));
        scan->current->type = scan->value_type;
        scan->current = NULL;
    }
}

static enum json_scan_result begin_container(struct scan *scan, bool is_object)
{
    if (scan->depth == JSON_SCAN_DEPTH_MAXIMUM) {
        return JSON_SCAN_TOO_DEEP;
    }
    uint64_t bit = UINT64_C(1) << scan->depth % 64;
    uint64_t *kinds = &scan->kinds[scan->depth / 64];
    *kinds = is_object ? *kinds | bit : *kinds & ~bit;
    scan->depth++;
    scan->in_object = is_object;
    scan->at++;
    scan->expectation = is_object ? EXPECT_NAME_OR_END : EXPECT_VALUE_OR_END;
    return JSON_SCAN_OK;
}

static void end_container(struct scan *scan)
{
    scan->at++;
    scan->depth--;
    if (scan->depth > 0) {
        unsigned level = scan->depth - 1;
        scan->in_object = (scan->kinds[level / 64] >> level % 64 & 1) != 0;
    }
    end_value(scan);
}

/* Remembers what kind of value begins, where somebody may ask. */
static void note_value(struct scan *scan, enum json_type type)
{
    if (scan->depth == 0) {
        scan->report.type = type;
    }
    if (scan->depth <= 1) {
        scan->value = scan->at;
        scan->value_type = type;
    }
}

static enum json_scan_result scan_value(struct scan *scan)
{
    enum json_scan_result result = JSON_SCAN_BAD;
    switch (*scan->at) {
    case '"':
        note_value(scan, JSON_STRING);
        result = skip_string(scan);
        break;
    case '{': note_value(scan, JSON_OBJECT); return begin_container(scan, true);
    case '[': note_value(scan, JSON_ARRAY); return begin_container(scan, false);
    case 't':
        note_value(scan, JSON_TRUE);
        result = skip_word(scan, VIEW("true"));
        break;
    case 'f':
        note_value(scan, JSON_FALSE);
        result = skip_word(scan, VIEW("false"));
        break;
    case 'n':
        note_value(scan, JSON_NULL);
        result = skip_word(scan, VIEW("null"));
        break;
    case 'N':
        note_value(scan, JSON_NON_FINITE);
        result = skip_non_finite(scan, VIEW("NaN"));
        break;
    case 'I':
        note_value(scan, JSON_NON_FINITE);
        result = skip_non_finite(scan, VIEW("Infinity"));
        break;
    default:
        if (*scan->at == '-' || (*scan->at >= '0' && *scan->at <= '9')) {
            note_value(scan, JSON_NUMBER);
            result = skip_number(scan);
        }
        break;
    }
    if (result == JSON_SCAN_OK) {
        if (scan->depth == 0) {
            scan->report.type = scan->value_type;
        }
        end_value(scan);
    }
    return result;
}

/* `raw` is the name of a member of the outermost object, with its quotes. */
static void find_member(struct scan *scan, struct view raw)
{
    scan->report.member_count++;
    for (size_t i = 0; i < scan->member_count; i++) {
        struct json_member *member = &scan->members[i];
        bool same = scan->has_escape
                        ? json_text_says(raw, member->name)
                        : raw.length == member->name.length + 2 &&
                              view_equal(view_make(raw.data + 1, raw.length - 2), member->name);
        if (same) {
            member->twice = member->type != JSON_ABSENT;
            scan->current = member;
            return;
        }
    }
}

static enum json_scan_result scan_name(struct scan *scan)
{
    const char *name = scan->at;
    if (*name != '"') {
        return JSON_SCAN_BAD;
    }
    enum json_scan_result result = skip_string(scan);
    if (result == JSON_SCAN_OK && scan->depth == 1) {
        find_member(scan, view_make(name, (size_t)(scan->at - name)));
    }
    scan->expectation = EXPECT_COLON;
    return result;
}

static enum json_scan_result scan_after(struct scan *scan)
{
    char byte = *scan->at;
    if (scan->depth == 0) {
        return JSON_SCAN_TRAILING;
    }
    if (byte == ',') {
        scan->at++;
        scan->expectation = scan->in_object ? EXPECT_NAME : EXPECT_VALUE;
        return JSON_SCAN_OK;
    }
    if (byte == (scan->in_object ? '}' : ']')) {
        end_container(scan);
        return JSON_SCAN_OK;
    }
    return JSON_SCAN_BAD;
}

/* At a byte that isn't white space. */
static enum json_scan_result scan_one(struct scan *scan)
{
    switch (scan->expectation) {
    case EXPECT_VALUE_OR_END:
        if (*scan->at == ']') {
            end_container(scan);
            return JSON_SCAN_OK;
        }
        return scan_value(scan);
    case EXPECT_VALUE: return scan_value(scan);
    case EXPECT_NAME_OR_END:
        if (*scan->at == '}') {
            end_container(scan);
            return JSON_SCAN_OK;
        }
        return scan_name(scan);
    case EXPECT_NAME: return scan_name(scan);
    case EXPECT_COLON:
        if (*scan->at != ':') {
            return JSON_SCAN_BAD;
        }
        scan->at++;
        scan->expectation = EXPECT_VALUE;
        return JSON_SCAN_OK;
    case EXPECT_AFTER: return scan_after(scan);
    }
    return JSON_SCAN_BAD;
}

static enum json_scan_result scan_all(struct scan *scan)
{
    for (;;) {
        skip_white(scan);
        if (scan->at == scan->end) {
            return scan->depth > 0                     ? JSON_SCAN_CUT
                   : scan->expectation == EXPECT_AFTER ? JSON_SCAN_OK
                                                       : JSON_SCAN_EMPTY;
        }
        enum json_scan_result result = scan_one(scan);
        if (result != JSON_SCAN_OK) {
            return result;
        }
    }
}

enum json_scan_result json_scan(struct view text, unsigned flags, struct json_member *members,
                                size_t member_count, struct json_report *report)
{
    struct scan scan = {
        .start = text.data,
        .at = text.data,
        .end = text.data + text.length,
        .flags = flags,
        .members = members,
        .member_count = member_count,
        .expectation = EXPECT_VALUE,
    };
    for (size_t i = 0; i < member_count; i++) {
        members[i].value = view_make(NULL, 0);
        members[i].type = JSON_ABSENT;
        members[i].twice = false;
    }
    enum json_scan_result result = text.length > 0 ? scan_all(&scan) : JSON_SCAN_EMPTY;
    if (report != NULL) {
        *report = scan.report;
        report->offset = (size_t)(scan.at - scan.start);
    }
    return result;
}

bool json_member_plain_string(const struct json_member *member, struct view *text)
{
    if (member->type != JSON_STRING || view_find_byte(member->value, '\\') < member->value.length) {
        return false;
    }
    *text = view_make(member->value.data + 1, member->value.length - 2);
    return true;
}

struct view json_scan_detail(enum json_scan_result result)
{
    switch (result) {
    case JSON_SCAN_OK: return VIEW("The text is JSON.");
    case JSON_SCAN_EMPTY: return VIEW("The body is empty where JSON was expected.");
    case JSON_SCAN_CUT: return VIEW("The JSON text ends too early.");
    case JSON_SCAN_BAD: return VIEW("The body is not valid JSON.");
    case JSON_SCAN_TOO_DEEP: return VIEW("The JSON text is nested more than 512 levels deep.");
    case JSON_SCAN_NOT_UTF8: return VIEW("The JSON text has a string that is not UTF-8.");
    case JSON_SCAN_TRAILING: return VIEW("Something follows the JSON text.");
    }
    return VIEW("");
}
