#include "build_config.h"

#include <errno.h>
#include <linux/sockios.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <sys/ioctl.h>
#include <sys/socket.h>

#include "net/connection_private.h"

/* Whether an answer was read. A write that succeeded says nothing: the bytes are in this machine's
 * memory then. What can be known:
 *
 * - bytes not acknowledged (TIOCOUTQ): they aren't with the caller yet;
 * - acknowledged: they are with the caller's system, its program may still go without having read;
 * - a reset: the program went, and bytes were unread (Linux, BSD and Windows reset a connection
 * that is closed with unread bytes), or it came too late;
 * - the end in order (FIN) behind acknowledged bytes, or the next request: the program has read
 * all.
 *
 * A program that half-closes its side, reads a part and goes looks like one that has read all; so
 * do bytes that it read and dropped, and what a proxy before podgate has read.
 */

static bool has_unacknowledged(int descriptor)
{
    int count = 0;

    return ioctl(descriptor, SIOCOUTQ, &count) != 0 || count > 0;
}

/* After a FIN: true unless a reset came behind it, which reads don't tell any more. */
static bool ended_in_order(const struct connection *connection)
{
    struct tcp_info info;
    socklen_t length = sizeof info;

    if (getsockopt(connection->transport.descriptor, IPPROTO_TCP, TCP_INFO, &info, &length) != 0) {
        return true; /* a Unix socket: what counts is that nothing is unread */
    }
    /* Both sides closed is in order only where podgate closed its own first. */
    return info.tcpi_state == TCP_CLOSE_WAIT || connection->state == CONNECTION_LINGER;
}

static enum connection_delivery look(const struct connection *connection)
{
    int descriptor = connection->transport.descriptor;
    enum connection_delivery acknowledged;
    char byte;
    ssize_t count;

    if (descriptor < 0 || connection->transport.error != 0) {
        return CONNECTION_DELIVERY_BROKEN;
    }
    do {
        count = recv(descriptor, &byte, 1, MSG_PEEK | MSG_DONTWAIT);
    } while (count < 0 && errno == EINTR);
    if (count < 0 && errno != EAGAIN) {
        return CONNECTION_DELIVERY_BROKEN;
    }
    acknowledged = has_unacknowledged(descriptor) ? CONNECTION_DELIVERY_OPEN
                                                  : CONNECTION_DELIVERY_ACKNOWLEDGED;
    if (count != 0) {
        return acknowledged;
    }
    return acknowledged == CONNECTION_DELIVERY_ACKNOWLEDGED && ended_in_order(connection)
               ? CONNECTION_DELIVERY_READ
               : CONNECTION_DELIVERY_BROKEN;
}

void connection_watch(struct connection *connection, struct connection_receipt *receipt)
{
    receipt->connection = connection;
    receipt->sent = false;
    receipt->next = connection->receipts;
    connection->receipts = receipt;
}

enum connection_delivery connection_look(const struct connection_receipt *receipt)
{
    return receipt->sent ? look(receipt->connection) : CONNECTION_DELIVERY_OPEN;
}

void connection_unwatch(struct connection_receipt *receipt)
{
    struct connection_receipt **link;

    if (!receipt->connection) {
        return;
    }
    for (link = &receipt->connection->receipts; *link != receipt; link = &(*link)->next) {
    }
    *link = receipt->next;
    receipt->connection = NULL;
}

void connection_mark_receipts_sent(struct connection *connection)
{
    for (struct connection_receipt *each = connection->receipts; each; each = each->next) {
        each->sent = true;
    }
}

static void settle_first(struct connection *connection, bool read)
{
    struct connection_receipt *receipt = connection->receipts;

    connection->receipts = receipt->next;
    receipt->connection = NULL;
    receipt->on_settled(receipt, read);
}

void connection_settle_receipts(struct connection *connection)
{
    while (connection->receipts) {
        settle_first(connection, true);
    }
}

void connection_settle_receipts_at_end(struct connection *connection)
{
    while (connection->receipts) {
        enum connection_delivery delivery =
            connection->receipts->sent ? look(connection) : CONNECTION_DELIVERY_BROKEN;

        settle_first(connection, delivery == CONNECTION_DELIVERY_READ ||
                                     delivery == CONNECTION_DELIVERY_ACKNOWLEDGED);
    }
}
