/* SPDX-License-Identifier: BSD-2-Clause */
#include "io/umem.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#include "io/error.h"

#define CACHE_LINE 64

struct prl_umem *prl_umem_open(uint32_t frames, uint32_t frame_bytes, char *error)
{
    struct prl_umem *umem = calloc(1, sizeof(*umem));
    size_t bytes = (size_t)frames * frame_bytes;

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
        uint8_t *from = umem->area + (size_t)frame * umem->frame_bytes + umem->offset[frame];

        if (pieces && (uint8_t *)piece[pieces - 1].iov_base + piece[pieces - 1].iov_len == from)
            piece[pieces - 1].iov_len += umem->length[frame];
        else
            piece[pieces++] = (struct iovec){.iov_base = from, .iov_len = umem->length[frame]};
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
    uint32_t first = PRL_FRAME_NONE, *end = &first;

    if (pieces > umem->free_count || pieces > PRL_PACKET_PIECES_MAX)
        return PRL_FRAME_NONE;
    for (uint32_t at = 0; at < count; at += umem->frame_bytes) {
        uint32_t frame = umem->free[--umem->free_count];

        umem->offset[frame] = 0;
        umem->length[frame] = count - at < umem->frame_bytes ? count - at : umem->frame_bytes;
        memcpy(umem->area + (size_t)frame * umem->frame_bytes, bytes + at, umem->length[frame]);
        *end = frame;
        end = &umem->next[frame];
    }
    *end = PRL_FRAME_NONE;
    return first;
}

void prl_umem_free_packet(struct prl_umem *umem, uint32_t packet)
{
    uint32_t at;

    for (uint32_t frame = packet; frame != PRL_FRAME_NONE; frame = umem->next[frame])
        umem->free_count++;
    for (at = umem->free_count; packet != PRL_FRAME_NONE; packet = umem->next[packet])
        umem->free[--at] = packet;
}
