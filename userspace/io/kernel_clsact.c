/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * The clsact qdisc of a device, and whether it was made for prl. It is a device's only one, has no name and no owner: that it
 * was made for prl is noted in prl_clsacts, which outlives prld as the qdisc does. An index means a device of one network
 * namespace, so the note has the namespace's cookie, which the kernel gives once (net/core/net_namespace.c).
 */
#include <bpf/bpf.h>
#include <bpf/libbpf.h>
#include <errno.h>
#include <linux/pkt_sched.h>
#include <sys/socket.h>
#include <unistd.h>
#include "io/kernel_clsact.h"
#include "io/kernel_netlink.h"
#include "io/kernel_private.h"

/* Of the caller's network namespace. */
static int cookie_here(uint64_t *cookie)
{
    socklen_t bytes = sizeof(*cookie);
    int fd = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);
    int code = fd < 0 || getsockopt(fd, SOL_SOCKET, SO_NETNS_COOKIE, cookie, &bytes) < 0 ? -errno : 0;

    if (fd >= 0)
        close(fd);
    return code;
}

static void destroy(uint32_t ifindex)
{
    /* Both points together mean the qdisc (libbpf.h): the enum's values are flags.
     * NOLINTNEXTLINE(clang-analyzer-optin.core.EnumCastOutOfRange) */
    LIBBPF_OPTS(bpf_tc_hook, hook, .ifindex = (int)ifindex, .attach_point = BPF_TC_INGRESS | BPF_TC_EGRESS);

    bpf_tc_hook_destroy(&hook);
}

int prl_clsact_make(int made, uint32_t ifindex)
{
    LIBBPF_OPTS(bpf_tc_hook, hook, .ifindex = (int)ifindex, .attach_point = BPF_TC_EGRESS);
    uint64_t cookie;
    int code = bpf_tc_hook_create(&hook);

    if (code)
        return code == -EEXIST ? 0 : code;
    code = cookie_here(&cookie);
    if (!code)
        code = bpf_map_update_elem(made, &ifindex, &cookie, BPF_ANY);
    if (code)
        destroy(ifindex);
    return code == -E2BIG ? -ENOSPC : code;
}

/* Whether nobody has a filter there: the qdisc that was made for prl may be somebody else's by now. */
static bool is_unused(uint32_t ifindex)
{
    static const uint16_t sides[] = {TC_H_MIN_INGRESS, TC_H_MIN_EGRESS};
    struct prl_filter first;

    for (size_t i = 0; i < sizeof(sides) / sizeof(sides[0]); i++) {
        if (prl_netlink_first_filter(ifindex, sides[i], &first) || first.handle)
            return false;
    }
    return true;
}

void prl_clsact_remove(int made, uint32_t ifindex)
{
    uint64_t cookie, noted;

    if (cookie_here(&cookie) || bpf_map_lookup_elem(made, &ifindex, &noted) || noted != cookie)
        return;
    if (is_unused(ifindex))
        destroy(ifindex);
    bpf_map_delete_elem(made, &ifindex);
}

/* How many there are. All at once: a walk over a table begins anew where its entry has gone. */
static uint32_t read_all(int made, uint32_t index[PRL_CLSACTS_MAX])
{
    const uint32_t *last = NULL;
    uint32_t known = 0;

    while (known < PRL_CLSACTS_MAX && bpf_map_get_next_key(made, last, &index[known]) == 0)
        last = &index[known++];
    return known;
}

void prl_clsact_remove_all(int made)
{
    uint32_t index[PRL_CLSACTS_MAX], known = read_all(made, index);

    for (uint32_t i = 0; i < known; i++)
        prl_clsact_remove(made, index[i]);
}

void prl_clsact_forget_gone(int made)
{
    uint32_t index[PRL_CLSACTS_MAX], known = read_all(made, index);
    char name[IF_NAMESIZE];

    for (uint32_t i = 0; i < known; i++) {
        if (!if_indextoname(index[i], name))
            bpf_map_delete_elem(made, &index[i]);
    }
}
