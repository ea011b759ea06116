/* SPDX-License-Identifier: BSD-2-Clause */
/* Questions to the other node's kernel, and its answers (L3a; docs/kernel-answers.md). */
#ifndef PRL_NODE_PROBE_H
#define PRL_NODE_PROBE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "core/ownership.h"
#include "prl_abi.h"

struct prl_dp;

/* The newest answer, as it came. */
struct dp_probe_said {
    uint16_t owned, fenced, silent;
    uint8_t term[PRL_TERMS_MAX];
};

int dp_probe_open(struct prl_dp *dp); /* 0 or -ENOMEM */
void dp_probe_close(struct prl_dp *dp);
/* The key of a new epoch, for both nodes' questions and answers; NULL: neither asks in this epoch. */
void dp_probe_set_key(struct prl_dp *dp, const uint8_t key[32]);
void dp_probe_ask(struct prl_dp *dp, uint32_t path);
/* Whether a datagram that came by `path` is meant as an answer; a good one is in *answer, of which sent_ns is 0 otherwise. */
bool dp_probe_read(struct prl_dp *dp, uint32_t path, const void *bytes, size_t count, struct prl_answer *answer);
/* 1 and the next answer that came by the link, 0: something else did, or -errno: there is none. */
int dp_probe_next(struct prl_dp *dp, struct prl_answer *answer);
/* Tells the state machine what this node's own kernel was asked. */
void dp_probe_asked(struct prl_dp *dp);
/* Tells the kernel what to answer; before anything is opened, and after all that changes it. */
void dp_probe_tell(struct prl_dp *dp);
const struct dp_probe_said *dp_probe_said(const struct prl_dp *dp);

#endif /* PRL_NODE_PROBE_H */
