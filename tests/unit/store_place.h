/* For tests of what stands on the store: an embedded one in a directory of its own, which goes with
 * it. */
#ifndef PODGATE_TESTS_STORE_PLACE_H
#define PODGATE_TESTS_STORE_PLACE_H

#include <criterion/criterion.h>
#include <ftw.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "gateway/gateway.h"
#include "store/hot_cache.h"
#include "store/result_codec.h"
#include "store/store.h"

#define STORE_PLACE "/tmp/podgate-unit-XXXXXX"

static char store_directory[] = STORE_PLACE;

static inline void make_store_place(void)
{
    memcpy(store_directory, STORE_PLACE, sizeof store_directory);
    cr_assert_not_null(mkdtemp(store_directory));
}

/* After make_store_place(), with a configuration whose store.path lies there. */
static inline void open_store(struct gateway_shared *gateways, const struct config *its_config,
                              struct body_budget *its_budget, struct metrics *its_metrics,
                              struct log *log)
{
    char *problem = NULL;
    int exit_status = 0;

    gateways->store =
        store_create(its_config, its_budget, its_metrics, log, &problem, &exit_status);
    cr_assert_not_null(gateways->store, "%s", problem);
    gateways->hot_cache = hot_cache_create(1024 * 1024);
    gateways->codec = result_codec_create(its_budget);
    cr_assert(gateways->hot_cache && gateways->codec);
}

static inline int remove_entry(const char *path, UNUSED const struct stat *info, UNUSED int type,
                               UNUSED struct FTW *place)
{
    return remove(path);
}

/* When all clients are gone. The codec must have been ended before. */
static inline void close_store(struct gateway_shared *gateways)
{
    hot_cache_destroy(gateways->hot_cache);
    store_destroy(gateways->store);
    gateways->hot_cache = NULL;
    gateways->store = NULL;
    nftw(store_directory, remove_entry, 8, FTW_DEPTH | FTW_PHYS);
}

#endif
