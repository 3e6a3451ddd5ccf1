#include "build_config.h"

#include <stdio.h>

#include "store_suite.h"
#include "virtual_clock.h"

/* The suite on the embedded store, in a file of its own. Time is what the test says. */

static void begin(void)
{
    (void)suite_directory();
}

static void end(void)
{
}

static void options(size_t index, char *text, size_t capacity)
{
    (void)index;
    snprintf(text, capacity, "backend = \"embedded\" path = \"%s/podgate.db\"", suite_directory());
}

const struct suite_backend suite_backend = {
    .name = "embedded",
    .begin = begin,
    .end = end,
    .options = options,
    .pass = clock_advance,
    /* There is nothing behind it; a killed podgate is what tests/blackbox does. */
    .restart = end,
};
