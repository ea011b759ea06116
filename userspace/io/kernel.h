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
#include "io/error.h"
#include "prl_abi.h"

#define PRL_PIN_ROOT "/sys/fs/bpf/prl"

enum prl_xdp_mode {
    PRL_XDP_NATIVE = 1,
    PRL_XDP_GENERIC = 2,
    PRL_XDP_KERNEL = 3, /* no XDP: tc ingress marks, NFQUEUE holds (docs/carriers.md) */
    PRL_XDP_MIRROR = 4, /* the same, and long packets go to the other node by the cable (docs/mirror.md) */
};

#ifndef PRL_CFFI
/* Input waits in the kernel: there is no XDP. */
static inline int prl_mode_is_queued(uint32_t mode)
{
    return mode == PRL_XDP_KERNEL || mode == PRL_XDP_MIRROR;
}
#endif

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
    uint32_t link_ifindex; /* towards the other node, whose probes are answered there and on ifindex[0]; 0: none */
    uint64_t stale_ns;
    uint64_t hold_ns, hung_ns; /* struct prl_node; hung_ns 0: no probes are answered */
};

/* What prl_kernel_guard() found. */
enum prl_guard {
    PRL_GUARD_KEPT = 0,
    PRL_GUARD_MISSING = 1, /* a program was not there: it is now */
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
void prl_kernel_close(struct prl_kernel *kernel,
                      int keep_silence); /* keep_silence: leave pins and programs in place */

struct prl_node *prl_kernel_node(struct prl_kernel *kernel); /* shared memory */
/* CLOCK_BOOTTIME, when the other node's lease ends: a dead datapath's flows may open. */
uint64_t prl_kernel_open_at_ns(struct prl_kernel *kernel);
/* The cable of the carrier "mirror", shared memory; NULL: this is another carrier. */
struct prl_mirror *prl_kernel_mirror(struct prl_kernel *kernel);
/* Long packets go by the link's interface, to this address there, or, mac NULL, nowhere. -ENOTSUP: this is another carrier. */
int prl_kernel_mirror_set(struct prl_kernel *kernel, const uint8_t *mac);
/* Name of the shadow congestion control of this instance, or NULL when the kernel has no struct_ops. */
const char *prl_kernel_shadow_cc(struct prl_kernel *kernel);
/* Removes what a dead instance left: XDP on its logical interfaces, struct_ops, pins; and silence on all interfaces of this
 * network namespace, if the caller knows that prld is_alone in it: silence does not tell whose it is. */
int prl_kernel_scrub(const char *instance, int is_alone, char *error);

#endif /* PRL_IO_KERNEL_H */
