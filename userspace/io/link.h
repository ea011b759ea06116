/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * The link's stream (KKCM): whole messages over a byte stream, both ways, without ever blocking (R11). It knows
 * framing and buffers, not meaning; the transport underneath is a table of functions, so that TLS takes TCP's place
 * without the packet replication layer noticing.
 *
 *     put ─▶ [ tx ring ] ─▶ flush ─▶ transport ─▶ … ─▶ transport ─▶ [ rx buffer ] ─▶ next message
 *
 * The ring is in order, but not all of its bytes need be in it: large data that prl_link_refer() was given leaves from
 * where it is (a packet's frames), and is copied to its place in the ring only when the transport does not take it at
 * once, or when its owner wants the memory back (prl_link_settle()).
 */
#ifndef PRL_IO_LINK_H
#define PRL_IO_LINK_H

#ifndef PRL_CFFI
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>
#include <sys/uio.h>
#endif

#include "wire/wire.h"

#ifndef PRL_LINK_RX_BYTES /* see flow/config.h */
#define PRL_LINK_RX_BYTES 4194304u
#endif
/* Data of at least so many bytes is not copied: prl_link_flush() sends it from where it is. */
#define PRL_LINK_REFER_BYTES 512u
/* Pieces that one flush sends. */
#define PRL_LINK_PIECES_MAX 512u
#define PRL_LINK_SECRET_BYTES 32

/* Both return bytes, 0 for the end of the stream (read), or -errno; -EAGAIN when nothing can be done now. */
struct prl_transport {
    ssize_t (*read)(void *state, void *buf, size_t bytes);
    ssize_t (*writev)(void *state, const struct iovec *piece, int pieces);
    /* Whether it keeps bytes of its own that were taken from the link, or are for it; NULL: never. */
    bool (*unsent)(const void *state);
    bool (*unread)(const void *state);
    void (*close)(void *state);
    /* Key material that both ends of this connection have, and nobody else; NULL: there is none. 0 or -errno. */
    int (*secret)(const void *state, uint8_t secret[PRL_LINK_SECRET_BYTES]);
};

/* Counters of the link's TLS connections. */
struct prl_link_tls {
    uint64_t sent, received; /* records */
    uint64_t key_updates;    /* of what is sent */
    uint64_t forged;         /* connections that ended with a record that was not authentic */
    uint64_t truncated;      /* … that ended without a word: cut, or the other node died */
};

struct prl_link {
    const struct prl_transport *transport;
    void *state;
    int fd; /* for poll; -1 = not attached */
    uint8_t version; /* of what is sent, HELLO aside (R14); the lowest until the owner knows better */
    uint8_t *rx;
    uint32_t rx_from, rx_to;
    uint8_t *tx; /* ring */
    uint64_t tx_head, tx_tail; /* bytes put and sent since the ring was last empty */
    uint32_t tx_bytes;
    uint32_t referred; /* pieces whose bytes are not in the ring yet */
    struct prl_link_piece {
        uint64_t at; /* their place in the stream, as tx_head counts */
        const uint8_t *from;
        uint32_t bytes;
    } refer[PRL_LINK_PIECES_MAX / 2];
    uint64_t rx_total, tx_total; /* bytes, since the link was opened */
    uint64_t writes;             /* system calls that sent something */
    uint64_t rx_messages[PRL_MSG_COUNT], tx_messages[PRL_MSG_COUNT];
    uint64_t rx_bytes_of[PRL_MSG_COUNT], tx_bytes_of[PRL_MSG_COUNT]; /* by type, put or taken */
    uint64_t refused; /* malformed or unknown messages */
    uint64_t full;    /* messages that found no room */
    struct prl_link_tls tls;
};

int prl_link_init(struct prl_link *link, uint32_t tx_bytes); /* 0 or -ENOMEM */
void prl_link_destroy(struct prl_link *link);
void prl_link_attach(struct prl_link *link, const struct prl_transport *transport, void *state, int fd);
void prl_link_attach_tcp(struct prl_link *link, int fd); /* takes the connected socket over */
void prl_link_release(struct prl_link *link); /* attach undone: the transport is the caller's again */
void prl_link_detach(struct prl_link *link); /* closes the transport, drops what was buffered */

/* Room for a data message of so many data bytes? */
bool prl_link_room(const struct prl_link *link, uint32_t data_bytes);
/* Queues one message whose data (if any) lies in pieces. 0, -ENOTCONN, -ENOBUFS. */
int prl_link_put(struct prl_link *link, struct prl_msg *msg, const struct iovec *piece, uint32_t pieces);
/* Likewise; the pieces stay as they are until the next flush or settle. */
int prl_link_refer(struct prl_link *link, struct prl_msg *msg, const struct iovec *piece, uint32_t pieces);
/* Copies what prl_link_refer() left where it was. */
void prl_link_settle(struct prl_link *link);
/* Queues one message with ready-made TLVs. */
int prl_link_put_tlvs(struct prl_link *link, struct prl_msg *msg, const uint8_t *tlvs, size_t tlvs_bytes);
bool prl_link_pending(const struct prl_link *link);
/* Sends what is queued, as far as the transport takes it. 0 or -errno (the connection is dead). */
int prl_link_flush(struct prl_link *link);

/* Bytes were received that no message has been made of yet. */
bool prl_link_unread(const struct prl_link *link);

/* Reads what is there (one read). Bytes read, 0 nothing now, -errno when the connection has ended. */
int prl_link_receive(struct prl_link *link);
/* The next whole message: 1 and *msg (valid until the next receive), 0 none, -EPROTO / -ENOTSUP: refused. */
int prl_link_next(struct prl_link *link, struct prl_msg *msg);

/* Key material of this connection's own: the same at both ends. 0; -ENOTSUP on a link in clear, or -errno. */
int prl_link_secret(const struct prl_link *link, uint8_t secret[PRL_LINK_SECRET_BYTES]);

/* What an error of receive or flush means. */
const char *prl_link_words(int err);

#endif /* PRL_IO_LINK_H */
