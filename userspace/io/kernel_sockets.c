/* SPDX-License-Identifier: BSD-2-Clause */
#include "io/kernel_sockets.h"

#include <bpf/bpf.h>
#include <errno.h>
#include <limits.h>
#include <linux/tcp.h>
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

/* Asks a program about a socket as though a packet had come in by this interface. */
static int ask_from(int program, void *asked, uint32_t bytes, uint32_t ifindex)
{
    struct __sk_buff context = {.ifindex = ifindex};
    LIBBPF_OPTS(bpf_test_run_opts, options, .data_in = asked, .data_size_in = bytes, .data_out = asked,
                .data_size_out = bytes, .ctx_in = &context, .ctx_size_in = sizeof(context), .repeat = 1);

    return bpf_prog_test_run_opts(program, &options);
}

/* Asks it about the socket with these ends; `*inode`, which is part of what is asked, must be that of `fd`. */
static int ask(const struct prl_kernel *kernel, enum prl_program program, const struct prl_flow_key *key, int fd,
               void *asked, uint32_t bytes, const __u64 *inode)
{
    bool has_lif = key->lif < kernel->lifs;
    uint32_t vrf_ifindex = has_lif ? kernel->vrf_ifindex[key->lif] : 0;
    struct stat own;
    int code;

    if (fstat(fd, &own))
        return -errno;
    code = ask_from(kernel->program[program], asked, bytes, has_lif ? kernel->ifindex[key->lif] : 0);
    if (code >= 0 && !*inode && vrf_ifindex) /* as for samples */
        code = ask_from(kernel->program[program], asked, bytes, vrf_ifindex);
    if (code < 0)
        return code;
    return *inode == own.st_ino ? 0 : -ENOENT;
}

static int look_up(const struct prl_kernel *kernel, const struct prl_flow_key *key, int fd,
                   struct prl_references *found)
{
    *found = (struct prl_references){.key = *key};
    return ask(kernel, PRL_PROG_REFERENCES, key, fd, found, sizeof(*found), &found->inode);
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

/* Whatever has come or gone since: the look was at a socket that nobody held. */
static bool has_moved(const struct tcp_info *info, const struct prl_rest *rest)
{
    return info->tcpi_segs_in != rest->segs_in || info->tcpi_segs_out != rest->segs_out ||
           info->tcpi_bytes_received != rest->bytes_received || info->tcpi_bytes_acked != rest->bytes_acked;
}

int prl_kernel_rest(const struct prl_kernel *kernel, const struct prl_flow_key *key, int fd,
                    struct prl_moment *moment, struct prl_moment_counts *counts)
{
    struct prl_rest rest = {.key = *key};
    struct tcp_info info = {0};
    uint32_t tsval;
    socklen_t bytes = sizeof(info), tsval_bytes = sizeof(tsval);
    int code;

    /* First of all what waits for the socket is worked off: whoever asks for TCP_INFO holds it (release_sock()). */
    if (getsockopt(fd, IPPROTO_TCP, TCP_INFO, &info, &bytes) < 0)
        return -errno;
    code = ask(kernel, PRL_PROG_REST, key, fd, &rest, sizeof(rest), &rest.inode);
    if (code)
        return code;
    if (!rest.is_at_rest || has_moved(&info, &rest) || !rest.mss)
        return -EBUSY;
    if (getsockopt(fd, IPPROTO_TCP, TCP_TIMESTAMP, &tsval, &tsval_bytes) < 0)
        return -errno;
    *moment = (struct prl_moment){
        .rcv_seq = rest.rcv_seq,
        .snd_seq = rest.snd_seq,
        .tsval = tsval,
        .snd_wl1 = rest.snd_wl1,
        .snd_wnd = rest.snd_wnd,
        .max_window = rest.max_window,
        .rcv_wnd = rest.rcv_wnd,
        .rcv_wup = rest.rcv_seq,
        .rcv_edge = rest.rcv_edge,
        .mss = rest.mss,
        .state = PRL_TCP_ESTABLISHED,
        .in_bytes = rest.bytes_received,
        .out_bytes = rest.bytes_acked,
    };
    *counts = (struct prl_moment_counts){
        .bytes_received = rest.bytes_received,
        .bytes_acked = rest.bytes_acked,
        .segs_in = rest.segs_in,
    };
    return 0;
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
