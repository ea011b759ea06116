/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * What the carrier "mirror" needs beside the others (docs/mirror.md): on the owner, which flow's long packets go by the cable; on the
 * standby, the frames that came by it, until the message that names them is worked on, and messages whose frames are not here yet.
 */
#ifndef PRL_PATH_MIRROR_H
#define PRL_PATH_MIRROR_H

#include "flow/dp.h"

/* Frames that wait, and their numbers, a power of two; the older of two at one place goes. */
#define DP_MIRROR_FRAMES 4096u
/* Frames of one packet: a NIC cuts it to the link's MTU. */
#define DP_MIRROR_PIECES 64u
/* Frames that wait leave all else so many entries. */
#define DP_MIRROR_RESERVE 8u
/* A message waits so long for its frames: if those of a later one are here already, and if not. */
#define DP_MIRROR_GAP_NS 2000000ull
#define DP_MIRROR_WAIT_NS 20000000ull
/* Frames wait so long for their message: the owner has dropped their packet. */
#define DP_MIRROR_FRAME_NS 1000000000ull
/* So many packets refused in a row end mirroring: dp_mirror_refused(). */
#define DP_MIRROR_REFUSED_MAX 8u
#define DP_MIRROR_DEAF_NS 1000000ull
#define DP_MIRROR_QUIET_NS 10000000ull
/* While messages wait their flows are looked at so often. */
#define DP_MIRROR_TICK_NS 1000000ull

int dp_mirror_open(struct prl_dp *dp); /* 0 or -ENOMEM */
void dp_mirror_close(struct prl_dp *dp);

/* ---- owner ---- */

/* Whether a packet whose payload is not here can be dealt with now: it can neither wait to be sent nor be relayed. */
bool dp_mirror_goes_now(const struct prl_dp *dp, const struct dp_flow *flow);
/* A packet was sent at once: if it is a long one, its flow's next long ones may go by the cable. */
void dp_mirror_begin(struct prl_dp *dp, struct dp_flow *flow, const struct prl_packet *packet);
/* Until another one was sent at once they do not. What is under way is dropped where it cannot be dealt with. */
void dp_mirror_end(const struct dp_flow *flow);

/* A message has been sent that names frames; or all that a flow has sent was answered. */
void dp_mirror_sent(struct prl_dp *dp);
void dp_mirror_answered(struct prl_dp *dp);
/* Of a packet whose payload went by the cable, sent at `sent_ns`: it was acknowledged; or refused. Once DP_MIRROR_REFUSED_MAX were refused in
 * a row, each sent after the one before, no more go by the cable before the link has been lost: a cable on which one side sends and the
 * other does not get it would starve its sessions. What is acknowledged of another flow ends no row, for its packets may be such as get
 * through. */
void dp_mirror_acknowledged(struct prl_dp *dp, const struct dp_flow *flow);
void dp_mirror_refused(struct prl_dp *dp, const struct dp_flow *flow, uint64_t sent_ns);
/* Long packets may go by the cable from now on. */
void dp_mirror_start(struct prl_dp *dp);
/* The other node has sent one. */
void dp_mirror_named(struct prl_dp *dp);

/* ---- both: when frames are looked at ---- */

/* While the link tells soon enough when they are to be looked at, frames that come wake nobody, and are looked for in each pass: as
 * owner, while a message that names some is unanswered, for DP_MIRROR_DEAF_NS at most; as standby, until a message misses its own, or none
 * has come for DP_MIRROR_QUIET_NS. */
bool dp_mirror_listens(const struct prl_dp *dp);
bool dp_mirror_is_deaf(const struct prl_dp *dp); /* as owner: the next pass must not be later than that */

/* ---- standby: frames ---- */

/* A frame of that number is here: `hold`, without bytes, is the table's from now on. */
void dp_mirror_put(struct prl_dp *dp, const struct dp_flow *flow, uint32_t number, struct prl_hold *hold);
/* Whether the flow's frames of that number are just the stream from `tcp_seq` to `tcp_end`. */
bool dp_mirror_has(const struct prl_dp *dp, const struct dp_flow *flow, uint32_t number, uint32_t tcp_seq,
                   uint32_t tcp_end);
/* They are the caller's from now on. */
void dp_mirror_take(struct prl_dp *dp, const struct dp_flow *flow, uint32_t number, struct prl_chain *frames);
/* All that wait, of all flows. */
uint32_t dp_mirror_count(const struct prl_dp *dp);
/* They are dropped, if there are any. */
void dp_mirror_drop(struct prl_dp *dp, const struct dp_flow *flow, uint32_t number);
/* Before another is put: the oldest go where all else lacks entries (DP_MIRROR_RESERVE). */
void dp_mirror_make_room(struct prl_dp *dp);
/* Drops those that are too old. */
void dp_mirror_tick(struct prl_dp *dp);
/* Drops all: what would have named them went with the link. */
void dp_mirror_link_lost(struct prl_dp *dp);

/* ---- standby: messages ---- */

/* Where one of several pieces is put together, until the next one is: PRL_PACKET_MAX bytes. */
uint8_t *dp_mirror_whole(const struct prl_dp *dp);
/* The first that waits, or NULL. */
struct prl_hold *dp_mirror_waiting(const struct dp_flow *flow);
void dp_mirror_wait(struct prl_dp *dp, struct dp_flow *flow, struct prl_hold *hold);
struct prl_hold *dp_mirror_go(struct prl_dp *dp, struct dp_flow *flow); /* takes that first one out */
/* The shadow ends, or its link has: what waits will not be worked on. */
void dp_mirror_forget(struct prl_dp *dp, struct dp_flow *flow);
/* When flows whose messages wait are to be looked at; UINT64_MAX: there are none. */
uint64_t dp_mirror_next_ns(const struct prl_dp *dp);
/* They were. */
void dp_mirror_advanced(struct prl_dp *dp);

#endif /* PRL_PATH_MIRROR_H */
