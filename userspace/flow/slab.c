/* SPDX-License-Identifier: BSD-2-Clause */
#include "flow/slab.h"

#include <assert.h>
#include <errno.h>
#include <string.h>
#include <sys/mman.h>

void *prl_pages(size_t bytes)
{
    void *pages = mmap(NULL, bytes ? bytes : 1, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

    if (pages == MAP_FAILED)
        return NULL;
    madvise(pages, bytes, MADV_NOHUGEPAGE); /* a page that nobody has used yet takes nothing */
    return pages;
}

void prl_pages_free(void *pages, size_t bytes)
{
    if (pages)
        munmap(pages, bytes ? bytes : 1);
}

int prl_slab_init(struct prl_slab *slab, uint32_t object_bytes, uint32_t capacity)
{
    assert(object_bytes >= sizeof(void *) && object_bytes % sizeof(void *) == 0);
    memset(slab, 0, sizeof(*slab));
    slab->objects = prl_pages((size_t)object_bytes * capacity);
    if (!slab->objects)
        return -ENOMEM;
    slab->object_bytes = object_bytes;
    slab->capacity = capacity;
    return 0;
}

void prl_slab_destroy(struct prl_slab *slab)
{
    prl_pages_free(slab->objects, (size_t)slab->object_bytes * slab->capacity);
    memset(slab, 0, sizeof(*slab));
}

void *prl_slab_get(struct prl_slab *slab)
{
    void *object = slab->free;

    if (object)
        memcpy((void *)&slab->free, object, sizeof(slab->free));
    else if (slab->fresh < slab->capacity)
        object = slab->objects + (size_t)slab->object_bytes * slab->fresh++;
    else
        return NULL;
    slab->used++;
    return memset(object, 0, slab->object_bytes);
}

void prl_slab_put(struct prl_slab *slab, void *object)
{
    assert(slab->used > 0);
    memcpy(object, (const void *)&slab->free, sizeof(slab->free));
    slab->free = object;
    slab->used--;
}
