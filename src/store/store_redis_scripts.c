#include "build_config.h"

#include <openssl/evp.h>
#include <stdlib.h>

#include "store/store_redis.h"

typedef const char *const *lines;

static const struct {
    lines parts[3]; /* behind the prelude */
} pieces[REDIS_SCRIPTS] = {
    [STORE_CLAIM_SUBMIT] = {{redis_lua_submits, redis_lua_claim_submit}},
    [STORE_MARK_SENT] = {{redis_lua_submits, redis_lua_mark_sent}},
    [STORE_SETTLE_SUBMIT] = {{redis_lua_jobs, redis_lua_submits, redis_lua_settle_submit}},
    [STORE_LIST_UNKNOWN] = {{redis_lua_submits, redis_lua_list_unknown}},
    [STORE_RESOLVE_SUBMIT] = {{redis_lua_jobs, redis_lua_submits, redis_lua_resolve_submit}},
    [STORE_FIND_DUPLICATE] = {{redis_lua_jobs, redis_lua_find_duplicate}},
    [STORE_GET_JOB] = {{redis_lua_jobs, redis_lua_get_job}},
    [STORE_ADOPT_JOB] = {{redis_lua_jobs, redis_lua_adopt_job}},
    [STORE_PUT_RESULT] = {{redis_lua_jobs, redis_lua_put_result}},
    [STORE_RETRY_JOB] = {{redis_lua_jobs, redis_lua_retry_job}},
    [STORE_DELETE_RESULT] = {{redis_lua_jobs, redis_lua_delete_result}},
    [STORE_SHORTEN] = {{redis_lua_jobs, redis_lua_shorten}},
    [STORE_LIST_JOBS] = {{redis_lua_jobs, redis_lua_list_jobs}},
    [STORE_CLAIM_DUE] = {{redis_lua_jobs, redis_lua_claim_due}},
    [STORE_CLAIM_JOB] = {{redis_lua_jobs, redis_lua_claim_job}},
    [STORE_RESCHEDULE] = {{redis_lua_jobs, redis_lua_reschedule}},
    [STORE_LIST_ENDPOINTS] = {{redis_lua_jobs, redis_lua_list_endpoints}},
    [STORE_MARK_PURGED] = {{redis_lua_jobs, redis_lua_mark_purged}},
    [STORE_CLAIM_CANCELS] = {{redis_lua_jobs, redis_lua_claim_cancels}},
    [STORE_CLEAR_CANCEL] = {{redis_lua_jobs, redis_lua_clear_cancel}},
    [STORE_APPEND_CHUNKS] = {{redis_lua_jobs, redis_lua_append_chunks}},
    [STORE_READ_CHUNKS] = {{redis_lua_jobs, redis_lua_read_chunks}},
    [STORE_GET_CURSOR] = {{redis_lua_jobs, redis_lua_get_cursor}},
    [STORE_SET_CURSOR] = {{redis_lua_jobs, redis_lua_set_cursor}},
    [STORE_EXPIRE] = {{redis_lua_jobs, redis_lua_submits, redis_lua_expire}},
    [STORE_COUNT] = {{redis_lua_jobs, redis_lua_submits, redis_lua_count}},
    [REDIS_SCRIPT_EVICT] = {{redis_lua_jobs, redis_lua_evict}},
};

static void append_lines(struct builder *text, lines from)
{
    for (; from && *from; from++) {
        builder_append(text, view_of_string(*from));
        builder_append_byte(text, '\n');
    }
}

/* SHA-1 names a script to Redis; nothing depends on its strength. */
static bool name_script(struct view text, char *digest)
{
    static const char hex[] = "0123456789abcdef";
    unsigned char bytes[EVP_MAX_MD_SIZE];
    unsigned length = 0;

    if (EVP_Digest(text.data, text.length, bytes, &length, EVP_sha1(), NULL) != 1 || length != 20) {
        return false;
    }
    for (unsigned i = 0; i < length; i++) {
        digest[2 * i] = hex[bytes[i] >> 4];
        digest[2 * i + 1] = hex[bytes[i] & 15];
    }
    digest[40] = '\0';
    return true;
}

bool redis_scripts_init(struct redis_scripts *scripts)
{
    for (size_t i = 0; i < REDIS_SCRIPTS; i++) {
        struct builder text;

        builder_init(&text, NULL, 0);
        append_lines(&text, redis_lua_prelude);
        for (size_t part = 0; part < ARRAY_LENGTH(pieces[i].parts); part++) {
            append_lines(&text, pieces[i].parts[part]);
        }
        scripts->texts[i] = builder_detach(&text, &scripts->lengths[i]);
        builder_clear(&text);
        if (!scripts->texts[i] ||
            !name_script(view_make(scripts->texts[i], scripts->lengths[i]), scripts->digests[i])) {
            return false;
        }
    }
    return true;
}

void redis_scripts_clear(struct redis_scripts *scripts)
{
    for (size_t i = 0; i < REDIS_SCRIPTS; i++) {
        free(scripts->texts[i]);
        scripts->texts[i] = NULL;
    }
}
