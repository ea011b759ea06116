/* SPDX-License-Identifier: BSD-2-Clause */
/* Requests of netlink's that libbpf has not. 0 or -errno. */
#ifndef PRL_IO_KERNEL_NETLINK_H
#define PRL_IO_KERNEL_NETLINK_H

#include <stdint.h>

/* The filter that clsact runs first on one side of a device. */
struct prl_filter {
    uint32_t handle; /* 0: there is none */
    uint32_t priority;
    uint32_t program; /* id of its BPF program, or 0 */
    char kind[16];
};

int prl_netlink_remove_queue(uint32_t ifindex);
/* Another classifier on `ifindex`'s ingress: what `program` says yes to goes to the ingress of `target`, by act_mirred. */
int prl_netlink_add_mirror(uint32_t ifindex, uint16_t priority, int program, uint32_t target);
/* The first filter of chain 0 of a device's TC_H_MIN_EGRESS or TC_H_MIN_INGRESS; all zero when there is none. */
int prl_netlink_first_filter(uint32_t ifindex, uint16_t side, struct prl_filter *first);

#endif /* PRL_IO_KERNEL_NETLINK_H */
