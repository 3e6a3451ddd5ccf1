/* The configuration: whatever the text, loading it gives either a snapshot or at least one mistake,
 * and a snapshot is whole: each key is found by its id and has a team, and what is dumped is a
 * configuration again (but for the hashes, which are masked). */
#include "build_config.h"

#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/bytes.h"
#include "model/config.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void require(bool holds)
{
    if (!holds) {
        abort();
    }
}

static struct config *load(struct view text)
{
    struct config_errors *errors = config_errors_create();
    require(errors != NULL);
    struct config *config = config_load_text("fuzz.conf", text, false, errors);
    require((config == NULL) == (config_errors_count(errors) > 0));
    for (size_t i = 0; i < config_errors_count(errors) && i < 300; i++) {
        require(strchr(config_errors_text(errors, i), '\n') == NULL);
    }
    config_errors_destroy(errors);
    return config;
}

static void check_snapshot(const struct config *config)
{
    require(config->endpoint_count > 0);
    require(view_equal(config->endpoints[0].name, VIEW("*")));
    require(config_find_endpoint(config, VIEW("nowhere")) != NULL);
    for (size_t i = 0; i < config->key_count; i++) {
        const struct config_key *key = &config->keys[i];
        require(key->team != NULL && key->index == i);
        require(config_find_key(config, key->id) == key);
        (void)config_endpoint_allowed(key, VIEW("flash"));
    }
}

static void check_dump(const struct config *config)
{
    char *text = NULL;
    size_t length = 0;
    FILE *stream = open_memstream(&text, &length);
    require(stream != NULL);
    config_dump(config, stream);
    require(fclose(stream) == 0);
    if (config->key_count == 0) {
        struct config *again = load(view_make(text, length));
        require(again != NULL);
        config_unref(again);
    }
    free(text);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    char *copy = malloc(size > 0 ? size : 1);
    require(copy != NULL);
    if (size > 0) {
        memcpy(copy, data, size);
    }
    struct config *config = load(view_make(copy, size));
    free(copy);
    if (config != NULL) {
        check_snapshot(config);
        check_dump(config);
    }
    config_unref(config);
    return 0;
}
