/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Objects of one size from whole pages of their own: nothing of them is in the heap, where what lives long would pin what
 * is freed around it. A page is the process's from the first use of an object on it (T7); what is given back is lent
 * again first, while the caches still have it (T6).
 */
#ifndef PRL_FLOW_SLAB_H
#define PRL_FLOW_SLAB_H

#include <stddef.h>
#include <stdint.h>

struct prl_slab {
    uint8_t *objects;
    void *free; /* given back; each begins with the pointer to the next */
    uint32_t object_bytes; /* a multiple of a pointer's */
    uint32_t capacity;
    uint32_t fresh; /* objects from here on have never been lent */
    uint32_t used;
};

/* Zeroed pages, for good; NULL when there is no memory. Given back with prl_pages_free() and the same size. */
void *prl_pages(size_t bytes);
void prl_pages_free(void *pages, size_t bytes);

int prl_slab_init(struct prl_slab *slab, uint32_t object_bytes, uint32_t capacity); /* 0 or -ENOMEM */
void prl_slab_destroy(struct prl_slab *slab);
void *prl_slab_get(struct prl_slab *slab); /* zeroed, or NULL when all are lent */
void prl_slab_put(struct prl_slab *slab, void *object);

#endif /* PRL_FLOW_SLAB_H */
