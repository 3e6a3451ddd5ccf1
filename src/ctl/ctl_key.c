#include "build_config.h"

#include <stdio.h>
#include <string.h>
#include <sysexits.h>

#include "base/secret.h"
#include "ctl/ctl.h"
#include "model/key.h"

static void print_operations(void)
{
    const char *comma = "";

    for (unsigned i = 0; i < CONFIG_OPERATIONS; i++) {
        unsigned bit = 1u << i;

        if ((CONFIG_OPERATIONS_DEFAULT & bit) != 0) {
            printf("%s\"%s\"", comma, config_operation_text((enum config_operation)bit));
            comma = ", ";
        }
    }
}

static void print_stanza(const char *id, const uint8_t *hash, const char *team)
{
    const char *indent = team ? "    " : "";

    if (team) {
        printf("team \"%s\" {\n", team);
    }
    printf("%skey \"%s\" {\n%s    sha256 = \"", indent, id, indent);
    for (size_t i = 0; i < KEY_HASH_LENGTH; i++) {
        printf("%02x", hash[i]);
    }
    printf("\"\n%s    operations = {", indent);
    print_operations();
    printf("}\n%s}\n", indent);
    if (team) {
        printf("}\n");
    }
}

static int generate(const char *id, const struct ctl_options *options)
{
    char text[KEY_LENGTH_MAXIMUM];
    size_t length;
    uint8_t hash[KEY_HASH_LENGTH];
    struct key_hasher *hasher;
    int status = EX_OSERR;

    if (!key_id_valid(view_of_string(id))) {
        return ctl_wrong_use("the id of a key is 1 to 32 small letters, digits and \"-\"");
    }
    if (options->team && !config_team_name_valid(view_of_string(options->team))) {
        return ctl_wrong_use("the name of a team is 1 to 64 letters, digits and \"_.-\"");
    }
    hasher = key_hasher_create();
    if (!hasher || !key_generate(view_of_string(id), text, &length) ||
        !key_hash(hasher, view_make(text, length), hash)) {
        fprintf(stderr, "podgatectl: no randomness, or no SHA-256\n");
    } else {
        fwrite(text, 1, length, stdout);
        putchar('\n');
        print_stanza(id, hash, options->team);
        status = ctl_finish_output();
    }
    secret_wipe(text, sizeof text);
    key_hasher_destroy(hasher);
    return status;
}

int ctl_key_generate(int count, char **words, const struct ctl_options *options)
{
    if (count < 1 || strcmp(words[0], "generate") != 0) {
        return ctl_wrong_use("expected \"key generate ID\"");
    }
    if (count != 2) {
        return ctl_wrong_use("key generate: expected one id");
    }
    return generate(words[1], options);
}
