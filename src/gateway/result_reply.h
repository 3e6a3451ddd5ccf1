/* Answers with a stored result: the exact bytes, a part of them, the same bytes compressed, or only
 * that the caller has them already. This is the path that a result asked for again takes, so its
 * field lines come ready-made with the result (store/hot_result.h).
 *
 * The coding is chosen by Accept-Encoding for results above RESULT_COMPRESS_ABOVE_BYTES. A Range is
 * one of the exact bytes: what asks for one gets it without a coding, and the entity-tags of the
 * forms differ, so that a resumed download never mixes two of them (RFC 9110 section 14).
 */
#ifndef PODGATE_GATEWAY_RESULT_REPLY_H
#define PODGATE_GATEWAY_RESULT_REPLY_H

#include <stdbool.h>

#include "base/bytes.h"
#include "gateway/request.h"
#include "store/hot_result.h"

/* Answers `request` with `result`, and ends the work; to be called while the work is
 * WORK_ADMITTING, IN_FLIGHT, IN_STORE or RECORDING. A large form that isn't there yet is made on
 * the codec's thread first, while the work is IN_STORE. `cache_detail` is a literal that goes on
 * Cache-Status behind the hit: VIEW("") from memory, VIEW("; detail=store") from the store.
 * `degraded`: the store is away, which the answer says. Takes references of its own. The request's
 * worker. */
void result_reply_send(struct request *request, struct hot_result *result, struct view cache_detail,
                       bool degraded);

#endif
