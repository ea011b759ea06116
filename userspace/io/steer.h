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
/* Of these ends: from now on, once it is attached. 0 or -errno. */
int prl_steer_add(struct prl_steer *steer, const struct prl_steer_ends *ends);
/* The listening socket `fd` is one of the two; the caller keeps it. 0 or -errno. */
int prl_steer_to(struct prl_steer *steer, enum prl_steer_listener which, int fd);
/* Attaches it to this thread's network namespace. 0 or -errno. */
int prl_steer_attach(struct prl_steer *steer);
void prl_steer_close(struct prl_steer *steer);

#endif /* PRL_IO_STEER_H */
