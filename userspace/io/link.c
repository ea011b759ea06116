/* SPDX-License-Identifier: BSD-2-Clause */
#include "io/link.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <unistd.h>

#define HUGE_PAGE_BYTES (2u << 20)

/* ---- TCP ---- */

static ssize_t tcp_read(void *state, void *buf, size_t bytes)
{
    ssize_t got = recv((int)(intptr_t)state, buf, bytes, MSG_DONTWAIT);

    return got < 0 ? -errno : got;
}

static ssize_t tcp_writev(void *state, const struct iovec *piece, int pieces)
{
    struct msghdr message = {.msg_iov = (struct iovec *)(uintptr_t)piece, .msg_iovlen = (size_t)pieces};
    ssize_t sent = sendmsg((int)(intptr_t)state, &message, MSG_DONTWAIT | MSG_NOSIGNAL);

    return sent < 0 ? -errno : sent;
}

static void tcp_close(void *state)
{
    close((int)(intptr_t)state);
}

static const struct prl_transport tcp = {.read = tcp_read, .writev = tcp_writev, .close = tcp_close};

/* ---- buffers ---- */

int prl_link_init(struct prl_link *link, uint32_t tx_bytes)
{
    memset(link, 0, sizeof(*link));
    link->fd = -1;
    link->tx_bytes = tx_bytes;
    link->rx = aligned_alloc(HUGE_PAGE_BYTES, PRL_LINK_RX_BYTES);
    link->tx = malloc(tx_bytes);
    if (!link->rx || !link->tx) {
        prl_link_destroy(link);
        return -ENOMEM;
    }
    madvise(link->rx, PRL_LINK_RX_BYTES, MADV_HUGEPAGE); /* bulk goes all through it */
    return 0;
}

void prl_link_destroy(struct prl_link *link)
{
    prl_link_detach(link);
    free(link->rx);
    free(link->tx);
    link->rx = NULL;
    link->tx = NULL;
}

void prl_link_attach(struct prl_link *link, const struct prl_transport *transport, void *state, int fd)
{
    link->transport = transport;
    link->state = state;
    link->fd = fd;
    link->version = PRL_WIRE_VERSION_MIN;
}

void prl_link_attach_tcp(struct prl_link *link, int fd)
{
    prl_link_attach(link, &tcp, (void *)(intptr_t)fd, fd);
}

void prl_link_release(struct prl_link *link)
{
    link->transport = NULL;
    link->fd = -1;
}

void prl_link_detach(struct prl_link *link)
{
    if (link->transport)
        link->transport->close(link->state);
    prl_link_release(link);
    link->rx_from = link->rx_to = 0;
    link->tx_head = link->tx_tail = 0;
    link->referred = 0;
}

static uint32_t room(const struct prl_link *link)
{
    return link->tx_bytes - (uint32_t)(link->tx_head - link->tx_tail);
}

bool prl_link_room(const struct prl_link *link, uint32_t data_bytes)
{
    return room(link) >= PRL_WIRE_PREFIX_MAX + data_bytes + 4;
}

bool prl_link_pending(const struct prl_link *link)
{
    return link->tx_head != link->tx_tail ||
           (link->fd >= 0 && link->transport->unsent && link->transport->unsent(link->state));
}

static void write_at(struct prl_link *link, uint64_t where, const void *from, uint32_t bytes)
{
    uint32_t at = (uint32_t)(where % link->tx_bytes);
    uint32_t first = link->tx_bytes - at < bytes ? link->tx_bytes - at : bytes;

    memcpy(link->tx + at, from, first);
    memcpy(link->tx, (const uint8_t *)from + first, bytes - first);
}

static void put_bytes(struct prl_link *link, const void *from, uint32_t bytes)
{
    write_at(link, link->tx_head, from, bytes);
    link->tx_head += bytes;
}

static void put_piece(struct prl_link *link, const void *from, uint32_t bytes, bool may_refer)
{
    if (!may_refer || bytes < PRL_LINK_REFER_BYTES || link->referred == PRL_LINK_PIECES_MAX / 2) {
        put_bytes(link, from, bytes);
        return;
    }
    link->refer[link->referred++] = (struct prl_link_piece){.at = link->tx_head, .from = from, .bytes = bytes};
    link->tx_head += bytes;
}

void prl_link_settle(struct prl_link *link)
{
    for (uint32_t i = 0; i < link->referred; i++) {
        const struct prl_link_piece *piece = &link->refer[i];
        uint64_t sent = link->tx_tail > piece->at ? link->tx_tail - piece->at : 0;

        if (sent < piece->bytes)
            write_at(link, piece->at + sent, piece->from + sent, piece->bytes - (uint32_t)sent);
    }
    link->referred = 0;
}

static void set_version(const struct prl_link *link, struct prl_msg *msg)
{
    if (!msg->version && msg->type != PRL_MSG_HELLO)
        msg->version = link->version;
}

static void count_sent(struct prl_link *link, const struct prl_msg *msg)
{
    link->tx_messages[msg->type]++;
    link->tx_bytes_of[msg->type] += msg->length;
}

static int put_message(struct prl_link *link, struct prl_msg *msg, const struct iovec *piece, uint32_t pieces,
                       bool may_refer)
{
    static const uint8_t zero[4];
    uint8_t prefix[PRL_WIRE_PREFIX_MAX];
    uint32_t left = msg->data_bytes;
    int bytes;

    if (link->fd < 0)
        return -ENOTCONN;
    if (!prl_link_room(link, msg->data_bytes)) {
        link->full++;
        return -ENOBUFS;
    }
    set_version(link, msg);
    bytes = prl_wire_encode_prefix(msg, prefix, sizeof(prefix));
    if (bytes < 0)
        return bytes;
    put_bytes(link, prefix, (uint32_t)bytes);
    for (uint32_t i = 0; i < pieces && left; i++) {
        uint32_t part = piece[i].iov_len < left ? (uint32_t)piece[i].iov_len : left;

        put_piece(link, piece[i].iov_base, part, may_refer);
        left -= part;
    }
    put_bytes(link, zero, prl_wire_padding(msg->data_bytes));
    count_sent(link, msg);
    return 0;
}

int prl_link_put(struct prl_link *link, struct prl_msg *msg, const struct iovec *piece, uint32_t pieces)
{
    return put_message(link, msg, piece, pieces, false);
}

int prl_link_refer(struct prl_link *link, struct prl_msg *msg, const struct iovec *piece, uint32_t pieces)
{
    return put_message(link, msg, piece, pieces, true);
}

int prl_link_put_tlvs(struct prl_link *link, struct prl_msg *msg, const uint8_t *tlvs, size_t tlvs_bytes)
{
    uint8_t whole[PRL_WIRE_MAX];
    int bytes;

    if (link->fd < 0)
        return -ENOTCONN;
    set_version(link, msg);
    bytes = prl_wire_encode(msg, tlvs, tlvs_bytes, whole, sizeof(whole));
    if (bytes < 0)
        return bytes;
    if (room(link) < (uint32_t)bytes) {
        link->full++;
        return -ENOBUFS;
    }
    put_bytes(link, whole, (uint32_t)bytes);
    count_sent(link, msg);
    return 0;
}

/* A stretch of the ring, in one piece or two. */
static uint32_t ring_pieces(struct prl_link *link, uint64_t from, uint64_t to, struct iovec *piece)
{
    uint32_t bytes = (uint32_t)(to - from), at = (uint32_t)(from % link->tx_bytes);
    uint32_t first = link->tx_bytes - at < bytes ? link->tx_bytes - at : bytes;
    uint32_t pieces = 0;

    if (first)
        piece[pieces++] = (struct iovec){.iov_base = link->tx + at, .iov_len = first};
    if (bytes > first)
        piece[pieces++] = (struct iovec){.iov_base = link->tx, .iov_len = bytes - first};
    return pieces;
}

/* What waits, in order, as far as it fits: ring and referred pieces in turn. */
static uint32_t gather(struct prl_link *link, struct iovec *piece)
{
    uint64_t at = link->tx_tail;
    uint32_t pieces = 0;

    for (uint32_t i = 0; i < link->referred && pieces + 5 <= PRL_LINK_PIECES_MAX; i++) {
        const struct prl_link_piece *one = &link->refer[i];
        uint64_t sent = at > one->at ? at - one->at : 0;

        if (sent >= one->bytes)
            continue; /* has left */
        if (one->at > at)
            pieces += ring_pieces(link, at, one->at, piece + pieces);
        piece[pieces++] = (struct iovec){
            .iov_base = (void *)(uintptr_t)(one->from + sent),
            .iov_len = one->bytes - (uint32_t)sent,
        };
        at = one->at + one->bytes;
        if (i + 1 == link->referred)
            pieces += ring_pieces(link, at, link->tx_head, piece + pieces);
    }
    return pieces ? pieces : ring_pieces(link, at, link->tx_head, piece);
}

int prl_link_flush(struct prl_link *link)
{
    while (link->fd >= 0 && prl_link_pending(link)) {
        struct iovec piece[PRL_LINK_PIECES_MAX];
        ssize_t sent = link->transport->writev(link->state, piece, (int)gather(link, piece));

        if (sent == -EAGAIN || sent == -EINTR)
            break;
        if (sent < 0)
            return (int)sent;
        link->tx_tail += (uint64_t)sent;
        link->tx_total += (uint64_t)sent;
        link->writes++;
    }
    prl_link_settle(link);
    if (link->tx_head ==
        link->tx_tail) /* the same memory again: it is in the cache, and the rest is never touched */
        link->tx_head = link->tx_tail = 0;
    return 0;
}

bool prl_link_unread(const struct prl_link *link)
{
    return link->rx_to > link->rx_from ||
           (link->fd >= 0 && link->transport->unread && link->transport->unread(link->state));
}

int prl_link_receive(struct prl_link *link)
{
    ssize_t got;

    if (link->rx_from) { /* a partial message moves to the front */
        memmove(link->rx, link->rx + link->rx_from, link->rx_to - link->rx_from);
        link->rx_to -= link->rx_from;
        link->rx_from = 0;
    }
    if (link->rx_to == PRL_LINK_RX_BYTES)
        return 0;
    got = link->transport->read(link->state, link->rx + link->rx_to, PRL_LINK_RX_BYTES - link->rx_to);
    if (got == -EAGAIN || got == -EINTR)
        return 0;
    if (got <= 0)
        return got ? (int)got : -ECONNRESET;
    link->rx_to += (uint32_t)got;
    link->rx_total += (uint64_t)got;
    return (int)got;
}

int prl_link_next(struct prl_link *link, struct prl_msg *msg)
{
    uint32_t have = link->rx_to - link->rx_from;
    const uint8_t *at = link->rx + link->rx_from;
    int64_t length = prl_wire_length(at, have);
    int err;

    if (length < 0) {
        link->refused++;
        return (int)length;
    }
    if (length == 0 || length > have)
        return 0;
    err = prl_wire_decode(at, (size_t)length, msg);
    link->rx_from += (uint32_t)length;
    if (err) {
        link->refused++;
        return err;
    }
    link->rx_messages[msg->type]++;
    link->rx_bytes_of[msg->type] += msg->length;
    return 1;
}

int prl_link_secret(const struct prl_link *link, uint8_t secret[PRL_LINK_SECRET_BYTES])
{
    if (!link->transport || !link->transport->secret)
        return -ENOTSUP;
    return link->transport->secret(link->state, secret);
}

const char *prl_link_words(int err)
{
    return err == -EBADMSG ? "a record was not authentic: it was changed on its way, or is not the other node's"
                           : strerror(-err);
}
