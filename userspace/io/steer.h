/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Connections to port 179 begin at the listeners of a BGP front (bpf/steer.bpf.c). No part of the datapath: the front's own
 * process loads it, and it ends with that process.
 */
#ifndef PRL_IO_STEER_H
#define PRL_IO_STEER_H

#include "io/kernel.h"
#include "steering.h"

struct prl_steer;

/* Loads the program from the folder of compiled ones; it does nothing yet. NULL, and the reason in
 * error[PRL_ERROR_BYTES]. */
struct prl_steer *prl_steer_open(const char *object_dir, char *error);
/* Connections between these ends begin at the listening sockets `inner` and `outer`, which the caller keeps; once it is
 * attached. 0 or -errno. */
int prl_steer_add(struct prl_steer *steer, const struct prl_steer_ends *ends, int inner, int outer);
/* What begins between these ends, from the peer's address and this port (network order), is this host's own, and begins at whoever
 * listens there; PRL_STEER_NO_DIAL: nothing is. 0 or -errno. */
int prl_steer_dial(struct prl_steer *steer, const struct prl_steer_ends *ends, uint16_t port);
/* Attaches it to this thread's network namespace. 0 or -errno. */
int prl_steer_attach(struct prl_steer *steer);
void prl_steer_close(struct prl_steer *steer);

#endif /* PRL_IO_STEER_H */
