/* What is podgate's own about a team's jobs: their list, deleting a kept result, and purging the
 * team's part of an endpoint's queue. All of it is answered from the store; upstream is not asked.
 */
#ifndef PODGATE_GATEWAY_TEAM_JOBS_H
#define PODGATE_GATEWAY_TEAM_JOBS_H

#include "gateway/request.h"

enum { TEAM_JOBS_PAGE = 100 }; /* jobs on a page, when the caller doesn't say */

/* GET /v2/{endpoint}/jobs?status=&since=&limit=&cursor=: the caller's team's jobs, newest first, as
 * {"jobs":[...],"cursor":...}; docs/http.md has the members. */
void team_jobs_list(struct request *request);

/* DELETE /v2/{endpoint}/jobs/{id}: the kept result, with input and chunks, is gone when the answer
 * is sent. A job of another team is answered as one that isn't there: the same bytes, after the
 * same question to the store. */
void team_jobs_delete(struct request *request);

/* POST /purge-queue for keys without the operation purge-all: marks the team's queued jobs of the
 * endpoint as to be cancelled and answers their number; the collector cancels them. */
void team_jobs_purge(struct request *request);

#endif
