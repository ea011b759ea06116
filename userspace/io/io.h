/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * What the datapath asks of the machine that it runs on, as one table of functions: the clock, what it sleeps on, frames
 * and bytes in and out, the tables of the BPF programs, the calls on the sessions' sockets. host.c is the machine itself;
 * the simulator (tests/sim) has a machine of its own, so that it runs the loop, ownership, switchover, set-up and
 * verification as they are shipped. Nothing else in the datapath makes a system call whose answer it depends on.
 *
 * All of it is called by whoever has the datapath's lock, but for wait(), wake() and now_ns(). None of it blocks, but for
 * wait(). Pieces and buffers are the caller's and are done with when the function returns; sockets are named by
 * descriptors, which mean something to the machine alone. Where nothing else is said: 0, or -errno.
 */
#ifndef PRL_IO_IO_H
#define PRL_IO_IO_H

#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>
#include <sys/uio.h>

#include "io/link.h"
#include "tcp/moment.h"
#include "prl_abi.h"
#include "io/tls.h"
#include "io/umem.h"

struct prl_host; /* the machine: whoever fills the table knows what it is */

/* Sources that can be watched by turns; all others are watched always. */
enum prl_source {
    PRL_SOURCE_LINK,
    PRL_SOURCE_HOLD,
    PRL_SOURCE_HEADERS, /* frames of which the headers alone are read (docs/mirror.md): unwatched, they are looked for in each pass */
};
enum { PRL_WATCH_READ = 1, PRL_WATCH_WRITE = 2 };

/* What a wait found; an error of the source is found by reading it. */
enum prl_io_ready { PRL_READY_LINK = 1, PRL_READY_HOLD = 2, PRL_READY_UDP = 4, PRL_READY_ALL = 7 };

/* What the machine counts, in packets. */
struct prl_io_counts {
    uint64_t not_received; /* of more pieces than can be, or there was no room in the kernel's queue */
    uint64_t
        verdicts_refused; /* by the kernel (settle): the packet had gone, with its interface, or there was no memory */
};

struct prl_io {
    uint64_t (*now_ns)(struct prl_host *host); /* CLOCK_BOOTTIME */

    /* Opens what captures frames into `umem`; the memory stays until close(). -errno and words in error. */
    int (*start)(struct prl_host *host, struct prl_umem *umem, char *error);
    void (*close)(struct prl_host *host);

    /* Waiting. What is ready: enum prl_io_ready, or -errno; captured frames, the timer and wake() end it as well. */
    int (*wait)(struct prl_host *host, bool sleeps);
    void (*wake)(struct prl_host *host);
    int (*watch)(struct prl_host *host, enum prl_source source, uint32_t events);
    int (*set_timer)(struct prl_host *host,
                     uint64_t at_ns); /* a wait ends then, or at an earlier time set before */
    void (*hurry)(struct prl_host *host, bool on); /* the loop's thread gets the CPU early, until it is off */

    /* The peers' frames: port by port, one for each queue of each interface, as the configuration has them. */
    uint32_t (*receive)(struct prl_host *host, uint32_t port, struct prl_received *received, uint32_t capacity);
    void (*refill)(struct prl_host *host); /* frames that are free again may be captured into */
    void (*count)(struct prl_host *host, struct prl_io_counts *counts);
    /* What becomes of a packet that waits in the kernel (struct prl_received.queued): it goes on to the own stack, or nowhere.
     * Gathered, in order; settle_all() has it done. */
    void (*settle)(struct prl_host *host, uint64_t queued, bool passes);
    void (*settle_all)(struct prl_host *host);
    /* A frame for the own stack, as tap.h makes it: the inject TAP. */
    int (*inject)(struct prl_host *host, const struct iovec *piece, int pieces);
    /* The hold TAP: a held segment (bytes, 0 when there is none), and one for the wire. */
    int (*hold_read)(struct prl_host *host, uint8_t *buffer, uint32_t capacity);
    int (*hold_write)(struct prl_host *host, const uint8_t *buffer, uint32_t bytes);
    int (*send_frame)(struct prl_host *host, uint32_t lif, const uint8_t *frame, uint32_t bytes);

    /* The stream to the other node, in clear or with TLS: gives `link` its transport; detach closes it. */
    int (*link_attach)(struct prl_host *host, struct prl_link *link, int fd);
    int (*link_attach_tls)(struct prl_host *host, struct prl_link *link, struct prl_tls *tls);
    void (*link_detach)(struct prl_host *host, struct prl_link *link);
    /* Datagrams between the nodes: heartbeats on the LAN, probes there and on the link (enum prl_probe_path). Bytes or -errno.
     * udp_open() takes a socket in place of the last one, also on failure. */
    int (*udp_open)(struct prl_host *host, uint32_t path, int fd);
    ssize_t (*udp_send)(struct prl_host *host, uint32_t path, const void *bytes, size_t count);
    ssize_t (*udp_receive)(struct prl_host *host, uint32_t path, void *bytes,
                           size_t capacity); /* of the whole, cut or not */

    /* The tables that the BPF programs read; as in kernel.h. The two pointers are shared memory. */
    struct prl_node *(*node)(struct prl_host *host);
    struct prl_flow *(*flow)(struct prl_host *host, uint32_t slot);
    int (*flow_add)(struct prl_host *host, const struct prl_flow_key *key, uint32_t handle, uint32_t slot);
    int (*flow_rename)(struct prl_host *host, const struct prl_flow_key *key, uint32_t handle, uint32_t slot);
    int (*flow_del)(struct prl_host *host, const struct prl_flow_key *key);
    int (*addr_set)(struct prl_host *host, const struct prl_addr_key *key, const struct prl_addr *value);
    int (*addr_get)(struct prl_host *host, const struct prl_addr_key *key, struct prl_addr *value);
    int (*sample)(struct prl_host *host, const uint32_t *slots, uint32_t count);
    /* Sessions that wait to be protected; as in kernel_tables.h. */
    int (*await)(struct prl_host *host, const struct prl_flow_key *endpoint, uint64_t wait_ns);
    bool (*newborn_end)(struct prl_host *host, const struct prl_flow_key *key, struct prl_newborn *found);
    /* The oldest of what TCP has told of the flows' sockets; false: there is nothing. */
    bool (*news)(struct prl_host *host, struct prl_news *news);

    /* The sessions' sockets. */
    int (*sock_dup)(struct prl_host *host, int fd); /* the new descriptor, or -errno */
    void (*sock_close)(struct prl_host *host, int fd);
    int (*sock_get)(struct prl_host *host, int fd, int level, int option, void *value, uint32_t bytes);
    int (*sock_set)(struct prl_host *host, int fd, int level, int option, const void *value, uint32_t bytes);
    int (*sock_unsent)(struct prl_host *host,
                       int fd); /* bytes of the send queue that were never sent, or -errno */
    ssize_t (*sock_send)(struct prl_host *host, int fd, const uint8_t *bytes, size_t count, int flags);
    int (*sock_end)(struct prl_host *host, int fd); /* no more output: a FIN */
    /* The mark gate (kernel.h): on a socket; and of one that is only known by its cookie. */
    int (*gate_attach)(struct prl_host *host, int fd, uint32_t slot);
    int (*gate_detach)(struct prl_host *host, int fd);
    int (*gate_cookie)(struct prl_host *host, int fd, uint64_t *cookie);
    int (*gate_forget)(struct prl_host *host, uint64_t cookie);
    /* moment.h */
    int (*moment_copy)(struct prl_host *host, int fd, struct prl_moment *moment, uint8_t *queues,
                       uint32_t queues_max, struct prl_moment_counts *counts, const char **call);
    int (*moment_rest)(struct prl_host *host, const struct prl_flow_key *key, int fd, struct prl_moment *moment,
                       struct prl_moment_counts *counts); /* kernel_sockets.h, prl_kernel_rest() */
    int (*moment_restore)(struct prl_host *host, int fd, const struct prl_ready *ready, uint32_t snd_wscale,
                          uint32_t rcv_wscale, const struct prl_moment *moment, const uint8_t *queues,
                          uint64_t elapsed_ms, struct prl_moment_counts *counts, const char **call);
    int (*moment_segs_in)(struct prl_host *host, int fd, uint32_t *segs_in);
    int (*moment_keep_ahead)(struct prl_host *host, int fd, uint32_t seen, uint32_t elapsed_ms);
};

#endif /* PRL_IO_IO_H */
