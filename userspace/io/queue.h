/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Input that waits in the kernel: one queue of netfilter's (NFQUEUE), read and answered by netlink (docs/carriers.md).
 *
 *     kernel: packet, marked by prl_ingress ─▶ queue ─┬─ verdict "accept", with the release mark ─▶ conntrack ─▶ stack
 *                        │                            └─ verdict "drop", or this socket is closed ─▶ freed
 *                        └─ copied, once ─▶ frames of the packet memory ─▶ struct prl_received, with its number
 *
 * A packet's number stays valid until its verdict; every packet gets exactly one. Verdicts are gathered, each of one packet
 * (a batch verdict would be for all flows), as many as packets can wait, and leave with prl_queue_flush(), the oldest packet's first.
 */
#ifndef PRL_IO_QUEUE_H
#define PRL_IO_QUEUE_H

#ifndef PRL_CFFI
#include <stdbool.h>
#include <stdint.h>

#include "io/umem.h"
#endif

/* Packets that wait in the queue, read or not; what comes then is dropped, and counted by the kernel. */
#define PRL_QUEUE_PACKETS_MAX 16384
/* Memory of packets that have not been read: likewise. */
#define PRL_QUEUE_UNREAD_BYTES (32 << 20)
#define PRL_QUEUE_WHOLE 0xffffu /* the kernel cuts it to what an attribute can hold: 65,531 */

/* Whether the kernel can do it, in the caller's network namespace: 0, or -errno and words in error[PRL_ERROR_BYTES]. */
int prl_queue_probe(char *error);

#ifndef PRL_CFFI
struct prl_queue;

/* Takes a queue and enters the rules for it. copy_bytes: so much of each packet is read, from L3 on, at most PRL_QUEUE_WHOLE; only where
 * that is less, what is longer is taken, cut. *mark: what prl_ingress is to set. NULL, and words in error[PRL_ERROR_BYTES]. */
struct prl_queue *prl_queue_open(struct prl_umem *umem, uint32_t copy_bytes, uint32_t *mark, char *error);
void prl_queue_close(struct prl_queue *queue);
int prl_queue_fd(const struct prl_queue *queue);
uint16_t prl_queue_number(const struct prl_queue *queue);

/* Packets with an Ethernet header in front, whose addresses are zero but for the source; received.meta.slot is the flow's, the
 * handle is the caller's affair. */
uint32_t prl_queue_receive(struct prl_queue *queue, struct prl_received *received, uint32_t capacity);
/* Whether there may be more than it took. */
bool prl_queue_goes_on(const struct prl_queue *queue);
/* The verdict: on to the stack, or nowhere. */
void prl_queue_settle(struct prl_queue *queue, uint32_t number, bool passes);
void prl_queue_flush(struct prl_queue *queue);
/* Packets that were dropped: longer than the kernel can copy in one message, no room in the packet memory, the queue or what was
 * unread of it full (counted by the kernel, and read from /proc). Verdicts that the kernel did not take: the packet had gone
 * with its interface, or there was no memory. */
void prl_queue_count(const struct prl_queue *queue, uint64_t *not_received, uint64_t *refused);

#endif

#endif /* PRL_IO_QUEUE_H */
