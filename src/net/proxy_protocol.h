/* The head by which a load balancer says whose connection it passes on: PROXY protocol, versions 1
 * (text) and 2 (binary), as HAProxy's doc/proxy-protocol.txt states it. Read strictly, since
 * callers' addresses decide what they may do. A pure function: no socket, no memory.
 *
 *     switch (proxy_protocol_parse(bytes, &head)) {
 *     case PROXY_PROTOCOL_INCOMPLETE: ... ask again with the same bytes and more behind them
 *     case PROXY_PROTOCOL_FAULT: ... close: nothing that follows can be trusted
 *     case PROXY_PROTOCOL_OK: ... head.used_bytes are the head; what follows is the caller's
 *     }
 */
#ifndef PODGATE_NET_PROXY_PROTOCOL_H
#define PODGATE_NET_PROXY_PROTOCOL_H

#include <stdbool.h>
#include <stddef.h>
#include <sys/socket.h>

#include "base/bytes.h"
#include "base/compiler.h"

enum {
    PROXY_PROTOCOL_V1_BYTES = 107,       /* the longest text head with its CRLF (section 2.1) */
    PROXY_PROTOCOL_V2_FIXED_BYTES = 16,  /* signature, command, family, length (section 2.2) */
    PROXY_PROTOCOL_V2_BLOCK_BYTES = 536, /* what a binary head may have behind them */
    /* No head is longer: with so many bytes the answer is never INCOMPLETE. */
    PROXY_PROTOCOL_HEAD_BYTES = PROXY_PROTOCOL_V2_FIXED_BYTES + PROXY_PROTOCOL_V2_BLOCK_BYTES,
};

enum proxy_protocol_result { PROXY_PROTOCOL_OK, PROXY_PROTOCOL_INCOMPLETE, PROXY_PROTOCOL_FAULT };

/* What a head says. */
struct proxy_protocol_head {
    size_t used_bytes; /* length of the head */
    bool has_source; /* false (UNKNOWN, LOCAL, AF_UNSPEC): the connection's own peer is the caller,
                      * such as a balancer that probes */
    struct sockaddr_storage
        source; /* AF_INET or AF_INET6 with the port, or AF_UNIX without a path */
};

/* Reads the head at the start of `bytes`. `head` is filled in when the result is PROXY_PROTOCOL_OK.
 * Further bytes never turn a FAULT or an OK into something else. Any thread. */
MUST_CHECK enum proxy_protocol_result proxy_protocol_parse(struct view bytes,
                                                           struct proxy_protocol_head *head);

#endif
