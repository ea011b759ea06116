/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Loading, pinning and attaching the BPF programs, and the memory that they share with userspace.
 *
 * Objects (bpf/<name>.bpf.o) share their maps by name, pinned under <pin_root>/<instance>/ (R25): an instance is
 * one prld. Everything that is attached by prl_kernel_attach() is detached by prl_kernel_close(); after a crash
 * prl_kernel_scrub() does the same.
 */
#ifndef PRL_IO_KERNEL_H
#define PRL_IO_KERNEL_H

#ifndef PRL_CFFI
#include <stddef.h>
#include <stdint.h>
#endif
#include "prl_abi.h"

#define PRL_PIN_ROOT "/sys/fs/bpf/prl"
#define PRL_ERROR_BYTES 256

enum prl_xdp_mode {
    PRL_XDP_NATIVE = 1,
    PRL_XDP_GENERIC = 2,
};

struct prl_kernel_config {
    const char *object_dir; /* where the .bpf.o files are */
    const char *instance;   /* names the pin directory, ≤ 63 characters, [A-Za-z0-9._-] */
    uint32_t flows_max;     /* ≤ PRL_FLOWS_MAX */
    uint32_t mode;          /* enum prl_xdp_mode */
    uint32_t fallback_mode; /* for all interfaces where one of them does not take `mode`; 0: none */
    uint32_t lifs;
    uint32_t ifindex[PRL_LIFS_MAX];
    uint32_t vrf_ifindex[PRL_LIFS_MAX]; /* the VRF device that the interface belongs to; 0: none */
    uint32_t inject_ifindex; /* TAP whose written frames are reinjected */
    uint32_t hold_ifindex;   /* TAP that held output goes to and is released from */
    uint64_t stale_ns;
};

/* What prl_kernel_guard() found. */
enum prl_guard {
    PRL_GUARD_KEPT = 0,
    PRL_GUARD_MISSING = 1,   /* a program was not there: it is now */
    PRL_GUARD_PASSED_BY = 2, /* it was not first in line: it is now */
};

struct prl_kernel; /* opaque */

/*
 * Whether a dead instance of that name still guards just these interfaces (L9). Then prl_kernel_open() takes its maps
 * over with all that they say, prl_kernel_attach() puts the programs in the place of its own without a gap, and
 * prl_kernel_forget() is to be called before the datapath enters flows.
 */
int prl_kernel_is_inherited(const char *instance, const uint32_t *ifindexes, uint32_t count);
/* Nothing of the former life's flows is replicated or held any more: their packets pass, where the address may speak. */
void prl_kernel_forget(struct prl_kernel *kernel);

/* Loads, pins, maps. NULL and a message in error[PRL_ERROR_BYTES] on failure (nothing is left behind). */
struct prl_kernel *prl_kernel_open(const struct prl_kernel_config *config, char *error);
/* Attaches in the order that keeps I4: silence first (tc egress), reinjection, then XDP. 0 or -errno + error; 0 with words
 * in error: why XDP runs in the fallback mode. */
int prl_kernel_attach(struct prl_kernel *kernel, char *error);
/* enum prl_xdp_mode: where XDP runs; 0 when no mode could be had. */
uint32_t prl_kernel_mode(const struct prl_kernel *kernel);
/*
 * Sees to it that an interface has the programs that it should have, first in line: a logical one and the TAPs what
 * prl_kernel_attach() gave them, any other prl_silence. Returns enum prl_guard, with words[PRL_ERROR_BYTES] about what was
 * in front, or -errno and why it cannot be. Without `whole` only what netlink does not tell of is looked at: what leaves by
 * interfaces, some microseconds each.
 */
int prl_kernel_guard(struct prl_kernel *kernel, uint32_t ifindex, int whole, char *words);
/* Takes prl_silence off an interface that needs none; one that has gone is forgotten. */
void prl_kernel_unguard(struct prl_kernel *kernel, uint32_t ifindex);
void prl_kernel_close(struct prl_kernel *kernel,
                      int keep_silence); /* keep_silence: leave pins and programs in place */

struct prl_node *prl_kernel_node(struct prl_kernel *kernel);            /* shared memory */
struct prl_flow *prl_kernel_flow(struct prl_kernel *kernel, uint32_t slot); /* shared memory */
int prl_kernel_flow_add(struct prl_kernel *kernel, const struct prl_flow_key *key, uint32_t handle, uint32_t slot);
int prl_kernel_flow_rename(struct prl_kernel *kernel, const struct prl_flow_key *key, uint32_t handle,
                           uint32_t slot);
int prl_kernel_flow_del(struct prl_kernel *kernel, const struct prl_flow_key *key);
/* Where struct prl_sieve counts a flow, for whoever enters flows of his own. */
uint32_t prl_kernel_sieve_cell(const struct prl_flow_key *key);
/* The mark gate (R1a) of one socket: attach before the flow is SETUP. Removing it is SO_DETACH_FILTER. */
int prl_kernel_gate_attach(struct prl_kernel *kernel, int fd, uint32_t slot);
int prl_kernel_gate_detach(struct prl_kernel *kernel, int fd);
/* For a socket that nobody has a descriptor of any more: the gate that stays on it lets everything pass. */
int prl_kernel_gate_cookie(int fd, uint64_t *cookie);
int prl_kernel_gate_forget(struct prl_kernel *kernel, uint64_t cookie);
/* Enters or replaces it; lif and bit are found from the key. -ENODEV: the interface is none of this instance's. */
int prl_kernel_addr_set(struct prl_kernel *kernel, const struct prl_addr_key *key, const struct prl_addr *value);
int prl_kernel_addr_get(struct prl_kernel *kernel, const struct prl_addr_key *key, struct prl_addr *value);
int prl_kernel_xsk_set(struct prl_kernel *kernel, uint32_t lif, uint32_t queue, int xsk_fd);
/* Reads the sockets' state of these slots into prl_flow.sock (one system call per PRL_SAMPLE_MAX slots). */
int prl_kernel_sample(struct prl_kernel *kernel, const uint32_t *slots, uint32_t count);
/* Name of the shadow congestion control of this instance, or NULL when the kernel has no struct_ops. */
const char *prl_kernel_shadow_cc(struct prl_kernel *kernel);
/* Removes what a dead instance left: XDP on its logical interfaces, struct_ops, pins; and silence on all interfaces of this
 * network namespace, if the caller knows that prld is_alone in it: silence does not tell whose it is. */
int prl_kernel_scrub(const char *instance, int is_alone, char *error);

#endif /* PRL_IO_KERNEL_H */
