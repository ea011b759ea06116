/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Hearing of the connections that unchanged programs accept (bpf/listen.bpf.c). Not part of the datapath: the control
 * plane's thread alone calls this.
 */
#ifndef PRL_IO_LISTEN_H
#define PRL_IO_LISTEN_H

#include "io/kernel.h"

struct prl_listen;

/* Loads the filter from the folder of compiled programs. NULL, and the reason in error[PRL_ERROR_BYTES]. */
struct prl_listen *prl_listen_open(const char *object_dir, char *error);
void prl_listen_close(struct prl_listen *listen);
/* Readable while something was heard. */
int prl_listen_fd(const struct prl_listen *listen);
/* Puts the filter on a listener, in the place of any other; the caller keeps fd. 0 or -errno. */
int prl_listen_attach(struct prl_listen *listen, int fd);
/* Takes it off a listener, or off a socket that has inherited it. 0 or -errno. */
int prl_listen_detach(struct prl_listen *listen, int fd);
/* The oldest record: its length (struct prl_heard and payload), 0 when there is none, or -errno. */
int prl_listen_next(struct prl_listen *listen, uint8_t *record, uint32_t capacity);
/* Records lost because the ring was full. */
uint64_t prl_listen_lost(const struct prl_listen *listen);

#endif /* PRL_IO_LISTEN_H */
