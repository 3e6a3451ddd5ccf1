/* The elements of a JSON array, one by one, as the bytes that they are: nothing is decoded, copied
 * or written anew.
 *
 *     struct json_array array;
 *     struct view element;
 *     json_array_begin(&array, members[1].value);         (what json_scan() found)
 *     while (json_array_next(&array, &element)) { ... }
 *     if (array.broken) { ... it wasn't an array to its end ... }
 */
#ifndef PODGATE_FORMAT_JSON_ARRAY_H
#define PODGATE_FORMAT_JSON_ARRAY_H

#include <stdbool.h>
#include <stddef.h>

#include "base/bytes.h"
#include "base/compiler.h"

struct json_array {
    struct view rest; /* behind what was told */
    bool begun;
    bool over;   /* the closing bracket was met */
    bool broken; /* the text ended before it, or something else than an element stands there */
};

/* Begins at the front of `text`, which stays where it is while the elements are used. It is meant
 * to have passed json_scan(): whether an element is right inside isn't looked at again, only where
 * it ends. Any bytes are safe. */
void json_array_begin(struct json_array *array, struct view text);

/* The next element, without the white space around it. False behind the last one, and when the text
 * can't go on (`broken`): what was told before stays true. Without recursion or allocation. */
MUST_CHECK bool json_array_next(struct json_array *array, struct view *element);

/* Finds the array that is the member `name` of the outermost object of a text that was cut off
 * somewhere, and begins at it: what came whole of a long answer is worth having. False when the cut
 * lies before it, or there is no such array. `name` must not need escapes. */
MUST_CHECK bool json_array_begin_cut(struct json_array *array, struct view text, struct view name);

#endif
