/* SPDX-License-Identifier: BSD-2-Clause */
/* What the control plane tells a datapath when it is opened, and the limits that it keeps. */
#ifndef PRL_FLOW_CONFIG_H
#define PRL_FLOW_CONFIG_H

#ifndef PRL_CFFI
#include <stdint.h>
#endif

#include "core/ownership.h"
#include "core/primary.h"
#include "core/switchover.h"
#include "io/lif.h"
#include "prl_abi.h"

/* Limits; reaching one is counted in struct prl_dp_counters. Who tries the datapath with inputs by the million has it built with
 * less memory. */
#ifndef PRL_DP_FRAMES
#define PRL_DP_FRAMES 16384       /* UMEM frames: packets in our hands, receive rings included */
#define PRL_DP_OUTPUT_BUFFERS 256 /* held output segments of up to 64 KiB each */
#define PRL_DP_HOLDS 16384
#define PRL_DP_LINK_TX_BYTES (8 << 20)
#endif
#define PRL_DP_FRAME_BYTES 4096
#define PRL_DP_EVENTS 4096       /* events that wait for Python, besides those of flows: */
#define PRL_DP_EVENTS_PER_FLOW 4 /* a take-over, or the loss of the link, is told of every flow at once */
#define PRL_RESYNC_KEEP_NS 5000000000ull  /* L10: shadows wait so long for the link, and flows that are alone */
#define PRL_RESYNC_WAIT_NS 1000000000ull  /* with the link, an owner waits so long for what the standby says */
#define PRL_RESYNC_BATCH 256u             /* flows that it says what it has of, in one pass */
#define PRL_TAKEOVER_SHARE_NS 1000000ull  /* of each pass, for sessions that were taken over and wait */
#define PRL_TAKEOVER_HUSH_NS 20000000ull  /* so long Python hears nothing of a take-over that goes on */
#define PRL_SETUPS_MAX 64 /* set-ups in two steps that are under way, on either side; the others go in one */
#define PRL_DP_CLAIM_BURSTS \
    25   /* claims are repeated so often, PRL_DP_CLAIM_INTERVAL_MS apart; see PRL_CLAIM_SLOW_NS */
#define PRL_DP_CLAIM_INTERVAL_MS 20
#define PRL_DP_NEIGHBOURS_MAX 64 /* asked for evidence and told of claims; more are not */
#define PRL_DP_DEFEND_INTERVAL_MS 100 /* an address is defended at most so often (L7) … */
#define PRL_DP_ALARM_INTERVAL_MS 1000 /* … and an alarm is raised */

struct prl_dp_address {
    uint8_t addr[16]; /* v4-mapped */
    uint32_t service;
    uint32_t
        lif; /* where it is spoken for; on the others it is silent likewise, unless it is another service's there */
};

/* A machine on the LAN that peers' packets come from: a peer or a gateway. */
struct prl_dp_neighbour {
    uint8_t addr[16]; /* v4-mapped */
    uint8_t mac[6];
    uint16_t lif;
};

/* How the datapath waits for work. Polling gives the CPU up (sched_yield) after each look. */
enum prl_poll_mode {
    PRL_POLL_BLOCKING = 0, /* sleeps: no CPU without work, a wake-up for each batch */
    PRL_POLL_ADAPTIVE = 1, /* polls for poll_ns after work, then sleeps */
    PRL_POLL_BUSY = 2, /* takes all the CPU that nobody else wants; sleeps only while others want it */
};

struct prl_dp_config {
    uint8_t own_addr[2][16]; /* this node's own addresses on the LAN, IPv4 (mapped) and IPv6; zero = none */
    uint32_t witnesses; /* in witness; 0 = whoever answers shows that this node is on the LAN (L6) */
    uint8_t witness[PRL_WITNESSES_MAX][16]; /* v4-mapped */
    uint32_t node_index; /* 0 or 1 */
    uint32_t flows_max;
    uint32_t mode; /* enum prl_xdp_mode */
    uint32_t poll_mode; /* enum prl_poll_mode */
    uint64_t poll_ns; /* adaptive: looks for work so long after the last work */
    struct prl_owner_config owner;
    struct prl_primary_limits limits;
    struct prl_move_config move;
    uint32_t lifs;
    struct prl_dp_lif lif[PRL_LIFS_MAX];
    uint32_t
        adopted; /* bit per service: this node owned it in a former life, and it was shown that it still does */
    uint32_t addresses;
    struct prl_dp_address address[PRL_ADDRS_MAX];
    int lan_fd; /* bound and connected UDP socket to the other node's LAN address, or -1: prl_dp_udp() */
    int inject_fd; /* the TAPs, IFF_VNET_HDR (taken over by the datapath) */
    int hold_fd;
};

#endif /* PRL_FLOW_CONFIG_H */
