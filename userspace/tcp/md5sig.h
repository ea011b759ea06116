/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * TCP signatures (RFC 2385): MD5 over pseudo-header, TCP header without options and with a zero checksum, payload, key.
 * Acknowledgement number and window are signed, so whatever is rewritten must be signed again. Nothing here keeps state.
 */
#ifndef PRL_TCP_MD5SIG_H
#define PRL_TCP_MD5SIG_H

#ifndef PRL_CFFI
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#endif

#define PRL_MD5_DIGEST_BYTES 16
#define PRL_MD5_KEY_MAX 80 /* TCP_MD5SIG_MAXKEYLEN */
/* NOP NOP kind length digest, as Linux lays it out in front of all other options (net/ipv4/tcp_output.c). */
#define PRL_MD5_OPTION_BYTES 20
#define PRL_MD5_OPTION_KIND 19
#define PRL_MD5_OPTION_LENGTH 18

struct prl_packet;

struct prl_md5_key {
    uint32_t bytes; /* 0: the flow is not signed */
    uint8_t key[PRL_MD5_KEY_MAX];
};

/* MD5 (RFC 1321) of `count` pieces, one behind the other. */
struct prl_md5_piece {
    const void *data;
    size_t bytes;
};
void prl_md5(const struct prl_md5_piece *piece, uint32_t count, uint8_t out[PRL_MD5_DIGEST_BYTES]);

/* Puts the signature into a parsed segment that lies in one piece from L3 on. False: it has no option for one. */
bool prl_md5sig_sign(uint8_t *l3, const struct prl_packet *packet, const struct prl_md5_key *key);
/* Whether the segment carries the signature that this key gives. */
bool prl_md5sig_check(const uint8_t *l3, const struct prl_packet *packet, const struct prl_md5_key *key);

#endif /* PRL_TCP_MD5SIG_H */
