/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Held packets and the queues that they wait in (R4).
 *
 *     pool:   free ── free ── free           one slab, allocated once
 *     chain:  head ─▶ hold ─▶ hold ─▶ tail   order of arrival; an entry is in exactly one chain
 *
 * An entry owns nothing but a reference (`frame`) to bytes that the datapath keeps; whoever takes an entry out
 * of its last chain gives the frame back and then the entry.
 */
#ifndef PRL_CORE_HOLD_H
#define PRL_CORE_HOLD_H

#ifndef PRL_CFFI
#include <stdbool.h>
#include <stdint.h>
#endif

struct prl_hold {
    struct prl_hold *next;
    uint64_t arrived_ns;
    uint64_t frame;        /* the datapath's reference to the bytes; opaque here */
    uint32_t bytes;        /* whole packet */
    uint32_t seq;          /* prl's sequence number, valid once replicated */
    uint32_t tcp_seq;      /* first payload byte */
    uint32_t tcp_end;      /* behind the last payload byte (output: a FIN counts one; input: it does not) */
    uint16_t lif;
    uint16_t packet_flags; /* PRL_PACKET_* */
    uint8_t bits;          /* output: PRL_OUTPUT_* */
    uint8_t is_output;
    uint8_t pad[2];
};

struct prl_chain {
    struct prl_hold *head;
    struct prl_hold *tail;
    uint32_t count;
    uint32_t bytes;
};

struct prl_pool {
    struct prl_hold *slab;
    struct prl_hold *free;
    uint32_t capacity;
    uint32_t used;
};

/* How long packets were held: bucket b counts those of less than 2^(b + PRL_HOLD_FIRST_BIT) ns that no bucket before it
 * counts; the last one counts all that were longer, too. */
#define PRL_HOLD_FIRST_BIT 12 /* 4.1 us */
#define PRL_HOLD_BUCKETS 20 /* the last with a bound: 1.07 s */

struct prl_hold_times {
    uint64_t sum_ns;
    uint64_t bucket[PRL_HOLD_BUCKETS];
};

void prl_hold_times_add(struct prl_hold_times *times, uint64_t held_ns);

int prl_pool_init(struct prl_pool *pool, uint32_t capacity); /* 0 or -ENOMEM */
void prl_pool_destroy(struct prl_pool *pool);
struct prl_hold *prl_pool_get(struct prl_pool *pool); /* zeroed entry, or NULL when the pool is used up */
void prl_pool_put(struct prl_pool *pool, struct prl_hold *hold);

void prl_chain_push(struct prl_chain *chain, struct prl_hold *hold);
struct prl_hold *prl_chain_pop(struct prl_chain *chain); /* first, or NULL */
/* Moves everything with seq <= `seq` (serial order) from the front of `from` to the end of `to`. */
void prl_chain_split(struct prl_chain *from, uint32_t seq, struct prl_chain *to);
void prl_chain_append(struct prl_chain *to, struct prl_chain *from); /* `from` is empty afterwards */
/* Takes the entry with exactly this seq out; NULL when there is none. */
struct prl_hold *prl_chain_take(struct prl_chain *chain, uint32_t seq);

#endif /* PRL_CORE_HOLD_H */
