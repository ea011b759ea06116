/* SPDX-License-Identifier: BSD-2-Clause */
#include "io/kernel_sockets.h"

#include <bpf/bpf.h>
#include <errno.h>
#include <limits.h>
#include <netinet/in.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>

#include "io/kernel_private.h"
#include "io/kernel_tables.h"

#define SAMPLE_FRAME_BYTES 64 /* of the frame that BPF_PROG_TEST_RUN wants; its contents mean nothing */

static int cookie_of(int fd, uint64_t *cookie)
{
    socklen_t bytes = sizeof(*cookie);
    return getsockopt(fd, SOL_SOCKET, SO_COOKIE, cookie, &bytes) < 0 ? -errno : 0;
}

int prl_kernel_gate_attach(struct prl_kernel *kernel, int fd, uint32_t slot)
{
    uint64_t cookie;

    if (slot >= kernel->flows_max)
        return -EINVAL;
    int code = cookie_of(fd, &cookie);
    if (!code)
        code = bpf_map_update_elem(kernel->map[PRL_MAP_GATES], &cookie, &slot, BPF_ANY);
    if (code)
        return code;
    if (setsockopt(fd, SOL_SOCKET, SO_ATTACH_BPF, &kernel->program[PRL_PROG_GATE], sizeof(int)) < 0) {
        code = -errno;
        bpf_map_delete_elem(kernel->map[PRL_MAP_GATES], &cookie);
    }
    return code;
}

int prl_kernel_gate_cookie(int fd, uint64_t *cookie)
{
    return cookie_of(fd, cookie);
}

int prl_kernel_gate_forget(struct prl_kernel *kernel, uint64_t cookie)
{
    int code = bpf_map_delete_elem(kernel->map[PRL_MAP_GATES], &cookie);

    return code == -ENOENT ? 0 : code;
}

int prl_kernel_gate_detach(struct prl_kernel *kernel, int fd)
{
    uint64_t cookie;
    int unused = 0;

    int code = cookie_of(fd, &cookie);
    if (code)
        return code;
    if (setsockopt(fd, SOL_SOCKET, SO_DETACH_FILTER, &unused, sizeof(unused)) < 0 && errno != ENOENT)
        return -errno;
    return prl_kernel_gate_forget(kernel, cookie);
}

/* How many of the flows, from the first on, have the first one's logical interface. */
static uint32_t same_lif(struct prl_kernel *kernel, const uint32_t *slots, uint32_t count)
{
    const struct prl_flow *first = prl_kernel_flow(kernel, slots[0]);
    uint32_t same = 1;

    for (; same < count; same++) {
        const struct prl_flow *next = prl_kernel_flow(kernel, slots[same]);

        if (!first || !next || next->key.lif != first->key.lif)
            break;
    }
    return same;
}

/* Samples the sockets of kernel->sample as though a packet had come in by this interface. */
static int sample_from(const struct prl_kernel *kernel, uint32_t ifindex)
{
    uint8_t frame[SAMPLE_FRAME_BYTES] = {0};
    struct __sk_buff context = {.ifindex = ifindex};
    LIBBPF_OPTS(bpf_test_run_opts, options, .data_in = frame, .data_size_in = sizeof(frame), .ctx_in = &context,
                .ctx_size_in = sizeof(context), .repeat = 1);

    return bpf_prog_test_run_opts(kernel->program[PRL_PROG_SAMPLE], &options);
}

/* Asks the references program as though a packet had come in by this interface. */
static int references_from(const struct prl_kernel *kernel, struct prl_references *asked, uint32_t ifindex)
{
    struct __sk_buff context = {.ifindex = ifindex};
    LIBBPF_OPTS(bpf_test_run_opts, options, .data_in = asked, .data_size_in = sizeof(*asked), .data_out = asked,
                .data_size_out = sizeof(*asked), .ctx_in = &context, .ctx_size_in = sizeof(context), .repeat = 1);

    return bpf_prog_test_run_opts(kernel->program[PRL_PROG_REFERENCES], &options);
}

static int look_up(const struct prl_kernel *kernel, const struct prl_flow_key *key, int fd,
                   struct prl_references *found)
{
    bool has_lif = key->lif < kernel->lifs;
    uint32_t vrf_ifindex = has_lif ? kernel->vrf_ifindex[key->lif] : 0;
    struct stat own;
    int code;

    *found = (struct prl_references){.key = *key};
    if (fstat(fd, &own))
        return -errno;
    code = references_from(kernel, found, has_lif ? kernel->ifindex[key->lif] : 0);
    if (code >= 0 && !found->inode && vrf_ifindex) /* as for samples */
        code = references_from(kernel, found, vrf_ifindex);
    if (code < 0)
        return code;
    return found->inode == own.st_ino ? 0 : -ENOENT;
}

int prl_kernel_references(const struct prl_kernel *kernel, const struct prl_flow_key *key, int fd)
{
    struct prl_references found;
    int code = look_up(kernel, key, fd, &found);

    if (code)
        return code;
    return found.count <= INT_MAX ? (int)found.count : -ENOENT;
}

int prl_kernel_is_filtered(const struct prl_kernel *kernel, const struct prl_flow_key *key, int fd)
{
    struct prl_references found;
    int code = look_up(kernel, key, fd, &found);

    return code ? code : found.is_filtered != 0;
}

/* Before Linux 6.5 a look-up from a VRF's port does not find a socket of the VRF (net/core/filter.c, dev_sdif()): those that
 * were not found are looked up once more, from the VRF device. */
static int sample_from_vrf(struct prl_kernel *kernel, uint32_t ifindex)
{
    struct prl_sample *sample = kernel->sample;
    uint32_t left = 0;

    for (uint32_t i = 0; i < sample->count; i++) {
        const struct prl_flow *flow = prl_kernel_flow(kernel, sample->slot[i]);

        if (flow && flow->key.proto == IPPROTO_TCP && !flow->sock.state)
            sample->slot[left++] = sample->slot[i];
    }
    sample->count = left;
    return left ? sample_from(kernel, ifindex) : 0;
}

int prl_kernel_sample(struct prl_kernel *kernel, const uint32_t *slots, uint32_t count)
{
    while (count) {
        const struct prl_flow *first = prl_kernel_flow(kernel, slots[0]);
        uint32_t chunk = same_lif(kernel, slots, count < PRL_SAMPLE_MAX ? count : PRL_SAMPLE_MAX);
        bool has_lif = first && first->key.lif < kernel->lifs;
        uint32_t vrf_ifindex = has_lif ? kernel->vrf_ifindex[first->key.lif] : 0;

        kernel->sample->count = chunk;
        memcpy(kernel->sample->slot, slots, chunk * sizeof(*slots));
        /* A socket that is bound to a device, or in a VRF, is found from its own interface only. */
        int code = sample_from(kernel, has_lif ? kernel->ifindex[first->key.lif] : 0);
        if (code >= 0 && vrf_ifindex)
            code = sample_from_vrf(kernel, vrf_ifindex);
        if (code < 0)
            return code;
        slots += chunk;
        count -= chunk;
    }
    return 0;
}
