/* SPDX-License-Identifier: BSD-2-Clause */
/* The table of flows: by slot, by handle, by key, and by the handle that a flow had before it moved here. */
#ifndef PRL_FLOW_TABLE_H
#define PRL_FLOW_TABLE_H

#include <stdbool.h>
#include <stdint.h>

#include "flow/note.h"
#include "flow/siphash.h"
#include "flow/spec.h"
#include "prl_abi.h"

#define DP_LIST_END 0xffffffffu
/* Flows that a call goes by before it gives the lock up for a moment: some 0.1 ms, if the caches have none of them. */
#define DP_LOOK_FLOWS 1024u

struct prl_dp;
struct dp_flow;

/* The table's own, but for dp->flows. */
struct dp_table {
    uint32_t *by_handle, *by_key; /* buckets */
    uint32_t *by_former, *next_by_former; /* likewise, and chains: flows whose handle as a shadow was another */
    struct prl_siphash_key hash_key; /* addresses, ports and handles are chosen by others */
    uint32_t buckets;
    struct prl_note *notes; /* by slot, in pages of their own: resident from the first note on */
    uint32_t *slots_free;
    uint32_t slots_free_count;
    uint32_t last_handle; /* that this node has allocated */
};

int dp_table_open(struct prl_dp *dp); /* 0 or -ENOMEM */
void dp_table_close(struct prl_dp *dp);
/* What a flow takes in this process and in the mapped table, and what of it is taken from the start. */
uint32_t dp_table_flow_bytes(void);
uint32_t dp_table_slot_bytes(void);

struct dp_flow *dp_flow_by_handle(struct prl_dp *dp, uint32_t handle);
/* The flow that a frame was captured for; it may have been renamed since. NULL: it was forgotten. */
struct dp_flow *dp_flow_of_frame(struct prl_dp *dp, const struct prl_meta *meta);
/* The flow that had this handle as a shadow, and has moved here. */
struct dp_flow *dp_flow_by_former(struct prl_dp *dp, uint32_t handle);
struct dp_flow *dp_flow_by_key(struct prl_dp *dp, const struct prl_flow_key *key);
uint32_t dp_service_of(const struct prl_dp *dp, const struct prl_flow_key *key); /* or PRL_SLOT_NONE */

/* Enters a flow, a primary's, in table and kernel; the kernel's flags are zero, so its packets pass. 0 and the flow,
 * or -errno and NULL. */
int dp_flow_enter(struct prl_dp *dp, const struct prl_flow_spec *spec, struct dp_flow **result);
/* Takes out a flow of which nothing waits any more, with its socket and its key (dp_flow_forget() is for all others). */
void dp_flow_remove(struct prl_dp *dp, struct dp_flow *flow);
/* The specification of a new set-up, with the datapath's duplicate of the socket. */
void dp_flow_keep_spec(struct dp_flow *flow, const struct prl_flow_spec *spec, int fd);
/* Whether the control plane has noted something of it: then it alone may have it forgotten. */
bool dp_flow_is_noted(const struct prl_dp *dp, const struct dp_flow *flow);
/* A handle of this node's that no flow has. */
uint32_t dp_flow_new_handle(struct prl_dp *dp);
/* The flow stays where it is, in the kernel's table, too; what is under way to us has the former handle. 0 or -errno. */
int dp_flow_rename(struct prl_dp *dp, struct dp_flow *flow, uint32_t handle);

#endif /* PRL_FLOW_TABLE_H */
