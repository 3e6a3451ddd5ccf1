/* The stand-in upstream (upstream.c), run by load.c in its own event loop or alone:
 *
 *     upstream_start("127.0.0.1:8900");
 *     for (;;) upstream_turn(-1);
 */
#ifndef BENCH_UPSTREAM_H
#define BENCH_UPSTREAM_H

/* Listens on `address` (HOST:PORT, IPv4); what fails ends the program with a message. Gives the
 * descriptor of an epoll set, readable when upstream_turn has something to do. Once per process. */
int upstream_start(const char *address);

/* Handles what is ready, at most one batch, after waiting for it up to `timeout_ms` (-1: for ever).
 */
void upstream_turn(int timeout_ms);

#endif
