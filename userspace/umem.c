/* SPDX-License-Identifier: BSD-2-Clause */
#include "umem.h"

#include <errno.h>
#include <linux/if_xdp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <xdp/xsk.h>

#include "kernel.h"

/* Multi-buffer AF_XDP (kernel ≥ 6.6); Debian 12's headers do not have the names. */
#ifndef XDP_USE_SG
#define XDP_USE_SG (1 << 4)
#endif
#ifndef XDP_PKT_CONTD
#define XDP_PKT_CONTD (1 << 0)
#endif

#define RING_SIZE 4096u
#define CACHE_LINE 64
/* Descriptors ahead whose frames are fetched: another CPU wrote them. */
#define PREFETCH_AHEAD 4

struct prl_umem {
    struct xsk_umem *umem;
    /* the rings that come with the area; the first port uses them */
    struct xsk_ring_prod fill;
    struct xsk_ring_cons completion;
    int rings_taken;
    uint8_t *area;
    uint32_t frames, frame_bytes;
    uint32_t *next;   /* of a frame in a packet */
    uint32_t *length; /* bytes in a frame of a packet */
    uint32_t *offset; /* where they start */
    uint32_t *free;   /* stack */
    uint32_t free_count;
};

struct prl_port {
    struct prl_umem *umem;
    struct xsk_socket *socket;
    struct xsk_ring_cons receive;
    struct xsk_ring_prod own_fill;
    struct xsk_ring_cons own_completion;
    struct xsk_ring_prod *fill;
    uint32_t share; /* frames that the kernel may hold for this port */
    uint32_t given; /* frames that it does hold */
    uint64_t oversized;
};

struct prl_umem *prl_umem_open(uint32_t frames, uint32_t frame_bytes, char *error)
{
    struct xsk_umem_config config = {
        .fill_size = RING_SIZE,
        .comp_size = XSK_RING_CONS__DEFAULT_NUM_DESCS,
        .frame_size = frame_bytes,
    };
    struct prl_umem *umem = calloc(1, sizeof(*umem));
    size_t bytes = (size_t)frames * frame_bytes;
    int err;

    if (!umem)
        goto no_memory;
    umem->frames = frames;
    umem->frame_bytes = frame_bytes;
    umem->area = MAP_FAILED;
    umem->next = calloc(frames, sizeof(uint32_t));
    umem->length = calloc(frames, sizeof(uint32_t));
    umem->offset = calloc(frames, sizeof(uint32_t));
    umem->free = calloc(frames, sizeof(uint32_t));
    umem->area = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (!umem->next || !umem->length || !umem->offset || !umem->free || umem->area == MAP_FAILED)
        goto no_memory;
    madvise(umem->area, bytes, MADV_HUGEPAGE); /* every packet is in other pages; it is all resident in any case */
    err = xsk_umem__create(&umem->umem, umem->area, bytes, &umem->fill, &umem->completion, &config);
    if (err) {
        snprintf(error, PRL_ERROR_BYTES, "AF_XDP packet memory of %zu MiB: %s", bytes >> 20, strerror(-err));
        prl_umem_close(umem);
        return NULL;
    }
    for (uint32_t i = 0; i < frames; i++)
        umem->free[umem->free_count++] = frames - 1 - i;
    return umem;

no_memory:
    snprintf(error, PRL_ERROR_BYTES, "no memory for %u packet frames", frames);
    prl_umem_close(umem);
    return NULL;
}

void prl_umem_close(struct prl_umem *umem)
{
    if (!umem)
        return;
    if (umem->umem)
        xsk_umem__delete(umem->umem);
    if (umem->area != MAP_FAILED)
        munmap(umem->area, (size_t)umem->frames * umem->frame_bytes);
    free(umem->next);
    free(umem->length);
    free(umem->offset);
    free(umem->free);
    free(umem);
}

uint32_t prl_umem_free_frames(const struct prl_umem *umem)
{
    return umem->free_count;
}

void prl_umem_prefetch(const struct prl_umem *umem, uint32_t packet)
{
    const uint8_t *header = umem->area + (size_t)packet * umem->frame_bytes + umem->offset[packet];

    __builtin_prefetch(header);
    __builtin_prefetch(header + CACHE_LINE);
}

uint32_t prl_umem_pieces(struct prl_umem *umem, uint32_t packet, struct iovec *piece)
{
    uint32_t pieces = 0;

    for (uint32_t frame = packet; frame != PRL_FRAME_NONE && pieces < PRL_PACKET_PIECES_MAX;
         frame = umem->next[frame]) {
        piece[pieces].iov_base = umem->area + (size_t)frame * umem->frame_bytes + umem->offset[frame];
        piece[pieces].iov_len = umem->length[frame];
        pieces++;
    }
    return pieces;
}

void prl_umem_trim(struct prl_umem *umem, uint32_t packet, uint32_t front, uint32_t bytes)
{
    umem->offset[packet] += front;
    umem->length[packet] -= front;
    for (uint32_t frame = packet; frame != PRL_FRAME_NONE; frame = umem->next[frame]) {
        if (umem->length[frame] > bytes)
            umem->length[frame] = bytes;
        bytes -= umem->length[frame];
    }
}

uint32_t prl_umem_copy(struct prl_umem *umem, const uint8_t *bytes, uint32_t count)
{
    uint32_t pieces = (count + umem->frame_bytes - 1) / umem->frame_bytes;
    uint32_t first = PRL_FRAME_NONE;

    if (pieces > umem->free_count || pieces > PRL_PACKET_PIECES_MAX)
        return PRL_FRAME_NONE;
    while (pieces > 0) { /* from the last to the first */
        uint32_t frame = umem->free[--umem->free_count];
        uint32_t at = --pieces * umem->frame_bytes;

        umem->next[frame] = first;
        umem->offset[frame] = 0;
        umem->length[frame] = count - at < umem->frame_bytes ? count - at : umem->frame_bytes;
        memcpy(umem->area + (size_t)frame * umem->frame_bytes, bytes + at, umem->length[frame]);
        first = frame;
    }
    return first;
}

void prl_umem_free_packet(struct prl_umem *umem, uint32_t packet)
{
    while (packet != PRL_FRAME_NONE) {
        uint32_t next = umem->next[packet];

        umem->free[umem->free_count++] = packet;
        packet = next;
    }
}

struct prl_port *prl_port_open(struct prl_umem *umem, const char *interface, uint32_t queue, int *sg,
                               uint32_t share, char *error)
{
    struct xsk_socket_config config = {
        .rx_size = RING_SIZE,
        .libxdp_flags = XSK_LIBXDP_FLAGS__INHIBIT_PROG_LOAD,
        .bind_flags = XDP_COPY | XDP_USE_NEED_WAKEUP,
    };
    struct prl_port *port = calloc(1, sizeof(*port));
    struct xsk_ring_cons *completion;
    int err;

    if (!port) {
        snprintf(error, PRL_ERROR_BYTES, "no memory for an AF_XDP port");
        return NULL;
    }
    port->umem = umem;
    port->share = share < RING_SIZE ? share : RING_SIZE;
    port->fill = umem->rings_taken ? &port->own_fill : &umem->fill;
    completion = umem->rings_taken ? &port->own_completion : &umem->completion;
    if (*sg)
        config.bind_flags |= XDP_USE_SG;
    err = xsk_socket__create_shared(&port->socket, interface, queue, umem->umem, &port->receive, NULL, port->fill,
                                    completion, &config);
    if (err == -EINVAL && *sg) { /* a kernel before 6.6 knows no XDP_USE_SG */
        *sg = 0;
        config.bind_flags &= (uint16_t)~XDP_USE_SG;
        err = xsk_socket__create_shared(&port->socket, interface, queue, umem->umem, &port->receive, NULL,
                                        port->fill, completion, &config);
    }
    if (err) {
        snprintf(error, PRL_ERROR_BYTES, "AF_XDP socket on %s queue %u: %s", interface, queue, strerror(-err));
        free(port);
        return NULL;
    }
    umem->rings_taken = 1;
    prl_port_refill(port);
    return port;
}

void prl_port_close(struct prl_port *port)
{
    if (!port)
        return;
    xsk_socket__delete(port->socket);
    free(port);
}

int prl_port_fd(const struct prl_port *port)
{
    return xsk_socket__fd(port->socket);
}

uint64_t prl_port_oversized(const struct prl_port *port)
{
    return port->oversized;
}

void prl_port_refill(struct prl_port *port)
{
    struct prl_umem *umem = port->umem;
    uint32_t want = port->share - port->given;
    uint32_t at;

    if (want > umem->free_count)
        want = umem->free_count;
    if (want == 0 || xsk_ring_prod__reserve(port->fill, want, &at) != want)
        return;
    for (uint32_t i = 0; i < want; i++)
        *xsk_ring_prod__fill_addr(port->fill, at + i) =
            (uint64_t)umem->free[--umem->free_count] * umem->frame_bytes;
    xsk_ring_prod__submit(port->fill, want);
    port->given += want;
    if (xsk_ring_prod__needs_wakeup(port->fill))
        recvfrom(prl_port_fd(port), NULL, 0, MSG_DONTWAIT, NULL, NULL);
}

/* Enters one descriptor as the packet's next frame. */
static uint32_t take_frame(struct prl_umem *umem, const struct xdp_desc *desc)
{
    uint32_t frame = (uint32_t)(desc->addr / umem->frame_bytes);

    umem->next[frame] = PRL_FRAME_NONE;
    umem->offset[frame] = (uint32_t)(desc->addr % umem->frame_bytes);
    umem->length[frame] = desc->len;
    return frame;
}

uint32_t prl_port_receive(struct prl_port *port, struct prl_received *received, uint32_t capacity)
{
    struct prl_umem *umem = port->umem;
    uint32_t packets = 0, consumed = 0, at;
    uint32_t descs = xsk_ring_cons__peek(&port->receive, RING_SIZE, &at);

    while (packets < capacity && consumed < descs) {
        struct prl_received *one = &received[packets];
        uint32_t last = PRL_FRAME_NONE, pieces = 0, here = consumed;
        bool more = true;

        for (; more && here < descs; here++) {
            const struct xdp_desc *desc = xsk_ring_cons__rx_desc(&port->receive, at + here);
            uint32_t frame = take_frame(umem, desc);

            if (here + PREFETCH_AHEAD < descs)
                __builtin_prefetch(umem->area +
                                   xsk_ring_cons__rx_desc(&port->receive, at + here + PREFETCH_AHEAD)->addr -
                                   sizeof(one->meta));

            more = desc->options & XDP_PKT_CONTD;
            if (pieces++ == 0) {
                one->packet = frame;
                one->bytes = 0;
                memcpy(&one->meta, umem->area + desc->addr - sizeof(one->meta), sizeof(one->meta));
            } else {
                umem->next[last] = frame;
            }
            one->bytes += desc->len;
            last = frame;
        }
        if (more) /* the packet's end is not in the ring yet: leave all of it */
            break;
        consumed = here;
        port->given -= pieces;
        if (pieces > PRL_PACKET_PIECES_MAX) {
            port->oversized++;
            prl_umem_free_packet(umem, one->packet);
        } else {
            packets++;
        }
    }
    xsk_ring_cons__cancel(&port->receive, descs - consumed);
    xsk_ring_cons__release(&port->receive, consumed);
    return packets;
}
