/* SPDX-License-Identifier: BSD-2-Clause */
/* AF_XDP: the receive queues of the interfaces, one port each, all of which capture into one packet memory (umem.h). */
#ifndef PRL_IO_XSK_H
#define PRL_IO_XSK_H

#include <stdint.h>

#include "io/umem.h"

struct prl_xsk;

/* Registers the memory, which must outlast it. NULL and words in error[PRL_ERROR_BYTES] on failure. */
struct prl_xsk *prl_xsk_open(struct prl_umem *umem, char *error);
void prl_xsk_close(struct prl_xsk *xsk);
/* One more port, on a queue of an interface; at most `share` frames are the kernel's at a time. 0, or -errno and words. */
int prl_xsk_add(struct prl_xsk *xsk, const char *interface, uint32_t queue, uint32_t share, char *error);
int prl_xsk_fd(const struct prl_xsk *xsk, uint32_t port);

/* Takes up to `capacity` whole packets. Packets with too many pieces are dropped and counted. */
uint32_t prl_xsk_receive(struct prl_xsk *xsk, uint32_t port, struct prl_received *received, uint32_t capacity);
/* Gives the kernel frames to fill, as far as there are free ones. */
void prl_xsk_refill(struct prl_xsk *xsk);
uint64_t prl_xsk_oversized(const struct prl_xsk *xsk);

#endif /* PRL_IO_XSK_H */
