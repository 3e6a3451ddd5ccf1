#include "build_config.h"

#include <stdlib.h>
#include <string.h>

#include "base/fault.h"
#include "store/store_embedded.h"

/* Statements of the embedded store: prepared once per connection, errors kept until they are asked
 * for. */

struct embedded_value embedded_number(uint64_t number)
{
    return (struct embedded_value){.kind = EMBEDDED_VALUE_NUMBER,
                                   .number = number < INT64_MAX ? number : INT64_MAX};
}

struct embedded_value embedded_number_or_null(uint64_t number, uint64_t null_for)
{
    return number == null_for ? embedded_null() : embedded_number(number);
}

struct embedded_value embedded_row_id(int64_t id)
{
    return (struct embedded_value){.kind = EMBEDDED_VALUE_NUMBER, .number = (uint64_t)id};
}

struct embedded_value embedded_text(struct view text)
{
    return (struct embedded_value){.kind = EMBEDDED_VALUE_TEXT, .bytes = text};
}

struct embedded_value embedded_text_or_null(struct view text)
{
    return text.length > 0 ? embedded_text(text) : embedded_null();
}

struct embedded_value embedded_word(const char *word)
{
    return embedded_text(view_of_string(word));
}

struct embedded_value embedded_blob(struct view bytes)
{
    return (struct embedded_value){.kind = EMBEDDED_VALUE_BLOB, .bytes = bytes};
}

struct embedded_value embedded_hex(const unsigned char *bytes, size_t count)
{
    return (struct embedded_value){.kind = EMBEDDED_VALUE_HEX,
                                   .bytes = view_make((const char *)bytes, count)};
}

struct embedded_value embedded_null(void)
{
    return (struct embedded_value){.kind = EMBEDDED_VALUE_NULL};
}

uint64_t embedded_add(uint64_t left, uint64_t right)
{
    uint64_t sum;

    return __builtin_add_overflow(left, right, &sum) || sum > INT64_MAX ? INT64_MAX : sum;
}

static void note(struct embedded_connection *connection, int error)
{
    if (connection->error == SQLITE_OK) {
        connection->error = error;
    }
}

/* The statement of a text, prepared at first use. */
static sqlite3_stmt *find_statement(struct embedded_connection *connection, const char *sql)
{
    size_t at = (size_t)((uintptr_t)sql >> 3) * 0x9e3779b97f4a7c15u >> 32;
    struct embedded_statement *slot;
    int error;

    do {
        slot = &connection->statements[at++ & (EMBEDDED_STATEMENTS - 1)];
    } while (slot->sql && slot->sql != sql);
    if (!slot->statement) {
        error = sqlite3_prepare_v3(connection->database, sql, -1, SQLITE_PREPARE_PERSISTENT,
                                   &slot->statement, NULL);
        if (error != SQLITE_OK) {
            slot->statement = NULL;
            note(connection, sqlite3_extended_errcode(connection->database));
            return NULL;
        }
        slot->sql = sql;
    }
    return slot->statement;
}

static int bind_hex(sqlite3_stmt *statement, int index, struct view bytes)
{
    char storage[128];
    struct builder text;
    int error;

    builder_init(&text, storage, sizeof storage);
    builder_append_hex_bytes(&text, (const uint8_t *)bytes.data, bytes.length);
    error = builder_failed(&text) ? SQLITE_NOMEM
                                  : sqlite3_bind_text64(statement, index, text.data, text.length,
                                                        SQLITE_TRANSIENT, SQLITE_UTF8);
    builder_clear(&text);
    return error;
}

/* Texts and blobs stay the caller's: they live until the statement has run. */
static int bind_value(sqlite3_stmt *statement, int index, const struct embedded_value *value)
{
    const char *bytes = value->bytes.length > 0 ? value->bytes.data : "";

    switch (value->kind) {
    case EMBEDDED_VALUE_NULL: return sqlite3_bind_null(statement, index);
    case EMBEDDED_VALUE_NUMBER:
        return sqlite3_bind_int64(statement, index, (sqlite3_int64)value->number);
    case EMBEDDED_VALUE_TEXT:
        return sqlite3_bind_text64(statement, index, bytes, value->bytes.length, SQLITE_STATIC,
                                   SQLITE_UTF8);
    case EMBEDDED_VALUE_BLOB:
        return sqlite3_bind_blob64(statement, index, bytes, value->bytes.length, SQLITE_STATIC);
    case EMBEDDED_VALUE_HEX: return bind_hex(statement, index, value->bytes);
    }
    return SQLITE_MISUSE;
}

static int step(struct embedded_connection *connection, sqlite3_stmt *statement)
{
    int result = FAULT_POINT("store.step") ? SQLITE_IOERR : sqlite3_step(statement);

    if (result != SQLITE_ROW && result != SQLITE_DONE) {
        note(connection, result);
    }
    return result;
}

sqlite3_stmt *embedded_query(struct embedded_connection *connection, const char *sql,
                             const struct embedded_value *values, size_t count)
{
    sqlite3_stmt *statement =
        connection->error == SQLITE_OK ? find_statement(connection, sql) : NULL;

    if (!statement) {
        return NULL;
    }
    for (size_t i = 0; i < count; i++) {
        int error = bind_value(statement, (int)i + 1, &values[i]);

        if (error != SQLITE_OK) {
            note(connection, error);
            embedded_done(statement);
            return NULL;
        }
    }
    if (step(connection, statement) != SQLITE_ROW) {
        embedded_done(statement);
        return NULL;
    }
    return statement;
}

bool embedded_next(struct embedded_connection *connection, sqlite3_stmt *statement)
{
    if (connection->error == SQLITE_OK && step(connection, statement) == SQLITE_ROW) {
        return true;
    }
    embedded_done(statement);
    return false;
}

void embedded_done(sqlite3_stmt *statement)
{
    /* Bindings point into a question that may be gone by the next use. */
    (void)sqlite3_reset(statement);
    (void)sqlite3_clear_bindings(statement);
}

void embedded_run(struct embedded_connection *connection, const char *sql,
                  const struct embedded_value *values, size_t count)
{
    sqlite3_stmt *statement = embedded_query(connection, sql, values, count);

    if (statement) {
        embedded_done(statement);
    }
}

void embedded_script(struct embedded_connection *connection, const char *sql)
{
    if (connection->error == SQLITE_OK &&
        sqlite3_exec(connection->database, sql, NULL, NULL, NULL) != SQLITE_OK) {
        note(connection, sqlite3_extended_errcode(connection->database));
    }
}

uint64_t embedded_query_number(struct embedded_connection *connection, const char *sql,
                               const struct embedded_value *values, size_t count,
                               uint64_t otherwise)
{
    sqlite3_stmt *statement = embedded_query(connection, sql, values, count);
    uint64_t number = otherwise;

    if (statement) {
        number = embedded_column_number(statement, 0, otherwise);
        embedded_done(statement);
    }
    return number;
}

uint64_t embedded_column_number(sqlite3_stmt *statement, int column, uint64_t otherwise)
{
    sqlite3_int64 number;

    if (sqlite3_column_type(statement, column) != SQLITE_INTEGER) {
        return otherwise;
    }
    number = sqlite3_column_int64(statement, column);
    return number >= 0 ? (uint64_t)number : otherwise;
}

struct view embedded_column_bytes(sqlite3_stmt *statement, int column)
{
    const void *bytes = sqlite3_column_blob(statement, column);
    int length = sqlite3_column_bytes(statement, column);

    return view_make(bytes, bytes && length > 0 ? (size_t)length : 0);
}

uint64_t embedded_changed(const struct embedded_connection *connection)
{
    int changed = sqlite3_changes(connection->database);

    return connection->error == SQLITE_OK && changed > 0 ? (uint64_t)changed : 0;
}

void embedded_close_connection(struct embedded_connection *connection)
{
    for (size_t i = 0; i < EMBEDDED_STATEMENTS; i++) {
        (void)sqlite3_finalize(connection->statements[i].statement);
    }
    (void)sqlite3_close(connection->database);
    memset(connection, 0, sizeof *connection);
}
