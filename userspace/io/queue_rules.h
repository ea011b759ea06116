/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * The rules that have marked input wait in a queue (queue.h): for each of IPv4 and IPv6 one nftables table, with a chain at
 * PREROUTING, priority "raw", before connection tracking, and one at INPUT for what has passed that by. The tables belong to a socket (NFT_TABLE_F_OWNER): nobody else can
 * change or flush them, and the kernel removes them when the socket is closed, however its process ends
 * (net/netfilter/nf_tables_api.c, nft_rcv_nl_event). What the host itself has in its tables is not touched.
 */
#ifndef PRL_IO_QUEUE_RULES_H
#define PRL_IO_QUEUE_RULES_H

#include <stdint.h>

/* Input whose mark is `mark` under PRL_QUEUE_MASK goes to queue `number`. A descriptor, whose closing ends it; or -errno, and
 * words in error[PRL_ERROR_BYTES]. */
int prl_queue_rules_enter(uint16_t number, uint32_t mark, char *error);

#endif /* PRL_IO_QUEUE_RULES_H */
