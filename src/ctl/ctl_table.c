#include "build_config.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sysexits.h>

#include "ctl/ctl.h"

int ctl_finish_output(void)
{
    if (fflush(stdout) != 0 || ferror(stdout)) {
        fprintf(stderr, "podgatectl: standard output: %s\n", strerror(errno));
        return EX_IOERR;
    }
    return EX_OK;
}

int ctl_print_json(json_t *value)
{
    bool good = value && json_dumpf(value, stdout, JSON_INDENT(2) | JSON_ENCODE_ANY) == 0;

    putchar('\n');
    json_decref(value);
    if (!good) {
        fprintf(stderr, "podgatectl: out of memory\n");
        return EX_OSERR;
    }
    return ctl_finish_output();
}

/* ---- tables ---------------------------------------------------------------------------------- */

void ctl_table_begin(struct ctl_table *table, const char *const *titles, size_t columns)
{
    *table = (struct ctl_table){.titles = titles, .columns = columns};
}

void ctl_table_add(struct ctl_table *table, const char *text)
{
    char *cell;

    if (table->count == table->room) {
        size_t room = table->room > 0 ? 2 * table->room : 64;
        char **cells = realloc(table->cells, room * sizeof *cells);

        if (!cells) {
            table->failed = true;
            return;
        }
        table->cells = cells;
        table->room = room;
    }
    cell = strdup(text && *text != '\0' ? text : "-");
    if (!cell) {
        table->failed = true;
        return;
    }
    for (char *byte = cell; *byte != '\0'; byte++) {
        if ((unsigned char)*byte < 0x20 || *byte == 0x7f) {
            *byte = '?';
        }
    }
    table->cells[table->count++] = cell;
}

void ctl_table_add_member(struct ctl_table *table, const json_t *object, const char *name)
{
    const json_t *value = json_object_get(object, name);
    char number[32];

    if (json_is_string(value)) {
        ctl_table_add(table, json_string_value(value));
    } else if (json_is_integer(value)) {
        snprintf(number, sizeof number, "%lld", (long long)json_integer_value(value));
        ctl_table_add(table, number);
    } else if (json_is_real(value)) {
        snprintf(number, sizeof number, "%g", json_real_value(value));
        ctl_table_add(table, number);
    } else if (json_is_boolean(value)) {
        ctl_table_add(table, json_is_true(value) ? "yes" : "no");
    } else {
        ctl_table_add(table, NULL);
    }
}

/* How many columns of a terminal a text takes: bytes of UTF-8 that go on don't count. */
static size_t width_of(const char *text)
{
    size_t width = 0;

    for (; *text != '\0'; text++) {
        width += ((unsigned char)*text & 0xc0) != 0x80;
    }
    return width;
}

static void print_row(const struct ctl_table *table, const size_t *widths, const char *const *cells)
{
    for (size_t i = 0; i < table->columns; i++) {
        size_t width = width_of(cells[i]);

        fputs(cells[i], stdout);
        /* Nothing follows the last one. */
        if (i + 1 < table->columns) {
            printf("%*s", (int)(widths[i] - width + 2), "");
        }
    }
    putchar('\n');
}

static void print_table(const struct ctl_table *table)
{
    size_t widths[CTL_COLUMNS_MAXIMUM] = {0};

    for (size_t i = 0; table->titles && i < table->columns; i++) {
        widths[i] = width_of(table->titles[i]);
    }
    for (size_t i = 0; i < table->count; i++) {
        size_t width = width_of(table->cells[i]);
        size_t *widest = &widths[i % table->columns];

        *widest = width > *widest ? width : *widest;
    }
    if (table->titles) {
        print_row(table, widths, table->titles);
    }
    for (size_t i = 0; i + table->columns <= table->count; i += table->columns) {
        print_row(table, widths, (const char *const *)&table->cells[i]);
    }
}

int ctl_table_end(struct ctl_table *table)
{
    bool failed = table->failed;

    if (!failed) {
        print_table(table);
    }
    for (size_t i = 0; i < table->count; i++) {
        free(table->cells[i]);
    }
    free(table->cells);
    *table = (struct ctl_table){0};
    if (failed) {
        fprintf(stderr, "podgatectl: out of memory\n");
        return EX_OSERR;
    }
    return ctl_finish_output();
}

static void add_members(struct ctl_table *table, const json_t *object, const char *prefix)
{
    union {
        const json_t *read;
        json_t *iterated; /* jansson's iterators don't change the object */
    } pointer = {.read = object};
    const char *name;
    json_t *value;

    json_object_foreach(pointer.iterated, name, value)
    {
        char title[96];

        snprintf(title, sizeof title, "%s%s", prefix, name);
        if (json_is_object(value)) {
            strncat(title, ".", sizeof title - strlen(title) - 1);
            add_members(table, value, title);
        } else {
            ctl_table_add(table, title);
            ctl_table_add_member(table, object, name);
        }
    }
}

int ctl_print_members(const json_t *object)
{
    struct ctl_table table;

    ctl_table_begin(&table, NULL, 2);
    add_members(&table, object, "");
    return ctl_table_end(&table);
}
