/* SPDX-License-Identifier: BSD-2-Clause */
#include "io/xsk.h"

#include <errno.h>
#include <linux/if_xdp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <xdp/xsk.h>

#include "io/error.h"

/* Multi-buffer AF_XDP (kernel ≥ 6.6); Debian 12's headers do not have the names. */
#ifndef XDP_USE_SG
#define XDP_USE_SG (1 << 4)
#endif
#ifndef XDP_PKT_CONTD
#define XDP_PKT_CONTD (1 << 0)
#endif

#define RING_SIZE 4096u
/* Descriptors ahead whose frames are fetched: another CPU wrote them. */
#define PREFETCH_AHEAD 4

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

struct prl_xsk {
    struct prl_umem *memory;
    struct xsk_umem *umem;
    /* the rings that come with the area; the first port uses them */
    struct xsk_ring_prod fill;
    struct xsk_ring_cons completion;
    int sg; /* packets of several frames (kernels ≥ 6.6) */
    uint32_t ports;
    struct prl_port *port[PRL_LIFS_MAX * PRL_QUEUES_MAX];
};

struct prl_xsk *prl_xsk_open(struct prl_umem *memory, char *error)
{
    struct xsk_umem_config config = {
        .fill_size = RING_SIZE,
        .comp_size = XSK_RING_CONS__DEFAULT_NUM_DESCS,
        .frame_size = memory->frame_bytes,
    };
    size_t bytes = (size_t)memory->frames * memory->frame_bytes;
    struct prl_xsk *xsk = calloc(1, sizeof(*xsk));
    int err = xsk ? 0 : -ENOMEM;

    if (!err) {
        xsk->memory = memory;
        xsk->sg = 1;
        err = xsk_umem__create(&xsk->umem, memory->area, bytes, &xsk->fill, &xsk->completion, &config);
    }
    if (err) {
        snprintf(error, PRL_ERROR_BYTES, "AF_XDP packet memory of %zu MiB: %s", bytes >> 20, strerror(-err));
        free(xsk);
        return NULL;
    }
    return xsk;
}

void prl_xsk_close(struct prl_xsk *xsk)
{
    if (!xsk)
        return;
    for (uint32_t i = 0; i < xsk->ports; i++) {
        xsk_socket__delete(xsk->port[i]->socket);
        free(xsk->port[i]);
    }
    xsk_umem__delete(xsk->umem);
    free(xsk);
}

static void refill(struct prl_port *port)
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
        recvfrom(xsk_socket__fd(port->socket), NULL, 0, MSG_DONTWAIT, NULL, NULL);
}

int prl_xsk_add(struct prl_xsk *xsk, const char *interface, uint32_t queue, uint32_t share, char *error)
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
        return -ENOMEM;
    }
    port->umem = xsk->memory;
    port->share = share < RING_SIZE ? share : RING_SIZE;
    port->fill = xsk->ports ? &port->own_fill : &xsk->fill;
    completion = xsk->ports ? &port->own_completion : &xsk->completion;
    if (xsk->sg)
        config.bind_flags |= XDP_USE_SG;
    err = xsk_socket__create_shared(&port->socket, interface, queue, xsk->umem, &port->receive, NULL, port->fill,
                                    completion, &config);
    if (err == -EINVAL && xsk->sg) { /* a kernel before 6.6 knows no XDP_USE_SG */
        xsk->sg = 0;
        config.bind_flags &= (uint16_t)~XDP_USE_SG;
        err = xsk_socket__create_shared(&port->socket, interface, queue, xsk->umem, &port->receive, NULL,
                                        port->fill, completion, &config);
    }
    if (err) {
        snprintf(error, PRL_ERROR_BYTES, "AF_XDP socket on %s queue %u: %s", interface, queue, strerror(-err));
        free(port);
        return err;
    }
    xsk->port[xsk->ports++] = port;
    refill(port);
    return 0;
}

int prl_xsk_fd(const struct prl_xsk *xsk, uint32_t port)
{
    return xsk_socket__fd(xsk->port[port]->socket);
}

uint64_t prl_xsk_oversized(const struct prl_xsk *xsk)
{
    uint64_t oversized = 0;

    for (uint32_t i = 0; i < xsk->ports; i++)
        oversized += xsk->port[i]->oversized;
    return oversized;
}

void prl_xsk_refill(struct prl_xsk *xsk)
{
    for (uint32_t i = 0; i < xsk->ports; i++)
        refill(xsk->port[i]);
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

uint32_t prl_xsk_receive(struct prl_xsk *xsk, uint32_t number, struct prl_received *received, uint32_t capacity)
{
    struct prl_port *port = xsk->port[number];
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
