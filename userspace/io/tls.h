/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * The link's TLS 1.3 (RFC 8446): a pair key (external PSK with an (EC)DHE exchange, psk_dhe_ke) proves each node to the
 * other, and nothing else does: there are no certificates, tickets or early data. docs/link-security.md says what that
 * stops.
 *
 *     handshake, by whoever made the connection       ─▶  prl_link_attach_tls(): the link's from then on
 *
 *     link ─ plaintext ─▶ SSL_write ─▶ [ out ] ─▶ send          recv ─▶ [ in ] ─▶ SSL_read ─ plaintext ─▶ link
 *
 * OpenSSL never sees the socket: it reads from `in` and writes to `out`, both of fixed size. So no write of its is ever
 * left half-done (it would have to be repeated with the same bytes), a batch is one send however many records it has,
 * and nothing is allocated once the connection stands.
 */
#ifndef PRL_IO_TLS_H
#define PRL_IO_TLS_H

#include "io/link.h"

#define PRL_TLS_KEY_BYTES 32u
/* Pair keys that a node accepts at a time: the one in use, and another one while it is changed. */
#define PRL_TLS_KEYS_MAX 2u
/* Name of a key, as the client says it in clear: of its hash, hexadecimal. */
#define PRL_TLS_ID_BYTES 16u
/* Records under one key: AES-GCM allows 2^24.5 (RFC 8446, 5.5). */
#define PRL_TLS_UPDATE_RECORDS (1u << 23)

/* Why a handshake failed. */
enum prl_tls_refusal {
    PRL_TLS_REFUSED_NONE = 0,
    PRL_TLS_REFUSED_PLAIN = 1,  /* what came is not TLS */
    PRL_TLS_REFUSED_KEY = 2,    /* the other side does not have our key; or it says so of us */
    PRL_TLS_REFUSED_FORGED = 3, /* what came was recorded, or changed on its way */
    PRL_TLS_REFUSED_ENDED = 4,  /* the connection ended before */
    PRL_TLS_REFUSED_COUNT = 5,
};

struct prl_tls;

/* The name of a key, without a terminating 0. 0 or -EIO (OpenSSL refused). */
int prl_tls_key_id(const uint8_t *key, uint8_t *id);
/* Prepares a handshake on the connected socket, which is taken over. `keys`: one after the other; a client shows the
 * first one, a server accepts all. NULL: no memory, or OpenSSL refused; the socket is still the caller's then. */
struct prl_tls *prl_tls_open(int fd, bool server, const uint8_t *keys, uint32_t count);
/* Goes on with it. 0: done, both sides are who they should be. -EAGAIN: call again when the socket is readable, or
 * writable if prl_tls_unsent(). Other: it has failed. */
int prl_tls_handshake(struct prl_tls *tls);
enum prl_tls_refusal prl_tls_refusal(const struct prl_tls *tls);
bool prl_tls_unsent(const struct prl_tls *tls);
uint32_t prl_tls_key(const struct prl_tls *tls); /* which of the keys it runs with, once it is done */
/* After so many records the keys of what is sent change (tests want few). */
void prl_tls_update_after(struct prl_tls *tls, uint32_t records);
/* Says close_notify if it can, and closes the socket. */
void prl_tls_close(struct prl_tls *tls);
/* After the handshake: the link takes it over. */
void prl_link_attach_tls(struct prl_link *link, struct prl_tls *tls);

#endif /* PRL_IO_TLS_H */
