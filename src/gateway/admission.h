/* Who calls, what the key may do, and how much of it: the step between the route and everything
 * that costs. Nothing that a caller sends reaches upstream before this said yes.
 *
 *     struct admission_verdict verdict = admission_check(gateway, &question, &ticket);
 *     ...
 *     admission_release(&ticket);      exactly once, when the request is over
 */
#ifndef PODGATE_GATEWAY_ADMISSION_H
#define PODGATE_GATEWAY_ADMISSION_H

#include <stdbool.h>
#include <stdint.h>

#include "base/bytes.h"
#include "base/compiler.h"
#include "gateway/problem.h"
#include "model/address.h"
#include "model/config.h"
#include "model/key.h"
#include "model/metric_catalogue.h"
#include "model/route.h"

/* What an admitted request holds until its end. Empty when all bytes are zero. */
struct admission_ticket {
    const struct config_key *key; /* as long as the request's configuration; NULL: not admitted */
    bool counted;                 /* in the key's requests in flight */
};

/* What admission looks at. */
struct admission_question {
    const struct config *config;
    struct key_hasher *hasher;
    const struct route *route;
    struct view authorization; /* the field's value; empty when there is none */
    const struct address *peer;
    uint64_t now_us;  /* clock_mono_us() */
    uint64_t wall_ms; /* clock_wall_ms() */
};

struct admission_verdict {
    bool admitted;
    enum problem problem;        /* when not admitted */
    enum metric_refusal refusal; /* the same, for counters and the log: more exact than the caller
                                  * may know */
    bool is_authentication;      /* the key itself failed: counts against the address */
    uint64_t retry_after_s;      /* of a limit; else 0 */
};

/* Judges one request. On success the ticket holds the key and what was counted. All policies are
 * looked at before any is charged: a refused request costs nothing. Any thread. */
struct admission_verdict admission_check(const struct admission_question *question,
                                         struct admission_ticket *ticket);

/* Gives back what a ticket counts and keeps its key: for the moment before an answer's last bytes
 * go out, so that the caller, having read them, finds its place free. Any thread. */
void admission_leave(struct admission_ticket *ticket);

/* Gives back what a ticket holds; afterwards it is empty. Any thread. */
void admission_release(struct admission_ticket *ticket);

/* Addresses whose keys failed lately: after 10 failures in 10 s further ones are answered after 1
 * s. A valid key is never slowed. Shared by all workers, under a lock that only failures take. */
struct failed_attempts;

enum {
    FAILED_ATTEMPTS_FREE = 10,
    FAILED_ATTEMPTS_WINDOW_MS = 10000,
    FAILED_ATTEMPTS_DELAY_MS = 1000
};

/* An empty record, or NULL without memory. */
struct failed_attempts *failed_attempts_create(void);

/* Frees it. NULL is allowed. */
void failed_attempts_destroy(struct failed_attempts *attempts);

/* Counts one failure from this peer at `now_ms` (clock_mono_ms()) and says for how many ms its
 * answer must wait: 0 or FAILED_ATTEMPTS_DELAY_MS. Any thread. */
uint64_t failed_attempts_add(struct failed_attempts *attempts, const struct address *peer,
                             uint64_t now_ms);

#endif
