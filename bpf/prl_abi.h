/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/*
 * The one ABI between the BPF programs, the C datapath and (through cffi) Python.
 *
 * Every structure here has fixed-width members and explicit padding, so that its layout is the same for
 * clang -target bpf, for gcc and for cffi. tests/unit/test_abi.py compares the three. Addresses are 16 bytes,
 * IPv4 as IPv4-mapped IPv6 (RFC 4291, 2.5.5.2), in network order; sequence numbers are host order, compared
 * by serial arithmetic (RFC 1982). Times are CLOCK_BOOTTIME nanoseconds (the clock runs on over a suspend,
 * and BPF reads the same one).
 */
#ifndef PRL_ABI_H
#define PRL_ABI_H

#ifndef PRL_CFFI
#include <linux/types.h>
#endif

#define PRL_ABI_VERSION 1

/* Limits of the kernel side. The two tables are sized at load time, up to these. */
#define PRL_FLOWS_MAX 131072
#define PRL_ADDRS_MAX 64 /* service addresses; each has an entry on every logical interface */
#define PRL_LIFS_MAX 16
#define PRL_QUEUES_MAX 64
/* Devices with a clsact that was made for prl: its TAPs, and before Linux 6.6 all interfaces. */
#define PRL_CLSACTS_MAX 1024
#define PRL_VLANS_MAX 2
/* What keeps frames of no concern from being looked up: bits for addresses and MAC addresses, cells for flows. At the
 * full table every eleventh strange segment is looked up all the same. A power of two each. */
#define PRL_ADDR_BITS 256
#define PRL_MAC_BITS 64
#define PRL_SIEVE_CELLS 1048576
#define PRL_TOKEN_BYTES 16 /* of a claim of a node without PRL_CAP_CLAIM_MAC */
/* Without word of the other node, a new owner repeats its claim so often for good (L7). */
#define PRL_CLAIM_SLOW_NS 200000000ull
#define PRL_TERMS_MAX 16 /* services */
#define PRL_PROBE_MAGIC 0x50524c51 /* "PRLQ" */

/* What all marks of prl's have in common: nobody else's may. */
#define PRL_MARKS 0x70726c00
#define PRL_MARKS_MASK 0xffffff00
/* skb->mark of a packet that prl itself handed to the stack or to the wire (R1a). */
#define PRL_MARK_RELEASE 0x70726c01
/* skb->mark of output on its way to the hold TAP: nothing else may enter it. */
#define PRL_MARK_HOLD 0x70726c02
/* skb->mark of what a shadow without a peer sent: never to leave, not even when it waited for the peer's MAC address
 * until the shadow was taken over. */
#define PRL_MARK_SHADOW 0x70726c03
/* skb->mark of what the datapath itself says on the LAN, claims among them. */
#define PRL_MARK_WORD 0x70726c04

/*
 * skb->mark of input that waits in the kernel (docs/carriers.md): which queue of netfilter's has it, and in which slot its
 * flow is. It is set by prl_ingress and taken off with the verdict: nobody else sees it but who looks before priority
 * "raw" of PREROUTING.
 */
#define PRL_QUEUE_MARKS 0x71000000
#define PRL_QUEUE_MARKS_MASK 0xff000000
#define PRL_QUEUE_MASK 0xfffe0000 /* of all packets of one queue */
#define PRL_QUEUE_SHIFT 17
#define PRL_QUEUE_SLOT 0x0001ffff
/* Numbers of queues: a prld takes the first that is free in its network namespace. */
#define PRL_QUEUE_FIRST 0x7072
#define PRL_QUEUE_COUNT 16

/*
 * The carrier "mirror" (docs/mirror.md): what is longer than so many bytes, from L3 on, goes down the cable. Its frames are known by
 * their source address: these two bytes, the second with the number of the logical interface, then the packet's number.
 */
#ifndef PRL_MIRROR_COPY_BYTES /* the simulator's packets are short */
#define PRL_MIRROR_COPY_BYTES 2048
#endif
#define PRL_MIRROR_MAC_0 0x72
#define PRL_MIRROR_MAC_1 0x60
#define PRL_MIRROR_MAC_LIF 0x0f

/* No flow (metadata of a frame that belongs to none; also an unused slot). */
#define PRL_SLOT_NONE 0xffffffff

/* A flow as a frame from the peer shows it: local is the frame's destination. A UDP socket without a peer has one
 * flow for all of them: remote and remote_port are zero (nobody's address, not even IPv4's mapped one). */
struct prl_flow_key {
    __u8 local[16];
    __u8 remote[16];
    __be16 local_port;
    __be16 remote_port;
    __u32 vlans; /* outer VID << 12 | inner VID; a single tag is the inner one, 0 = untagged */
    __u16 lif;   /* logical interface: index into the configuration's list */
    __u8 proto;  /* IPPROTO_TCP or IPPROTO_UDP */
    __u8 pad;
};

/* Value of the flow table: where the flow's state is. */
struct prl_flow_ref {
    __u32 handle;
    __u32 slot;
};

/* What classify writes in front of every frame that it redirects (XDP metadata). */
struct prl_meta {
    __u32 handle;
    __u32 slot;
};

/* Flow flags, written by userspace alone (R2). None of the first two: the flow's packets pass. */
enum prl_flow_flag {
    PRL_FLOW_SETUP = 1 << 0,     /* input is queued as pending, output is held, nothing passes */
    PRL_FLOW_ACTIVE = 1 << 1,    /* input and output are replicated */
    PRL_FLOW_SECONDARY = 1 << 2, /* a shadow: input comes from the link alone, output is silent */
    PRL_FLOW_VOID = 1 << 3,      /* this shadow may have missed something: it never speaks */
    PRL_FLOW_OPEN = 1 << 4,      /* given up: unmarked packets pass the mark gate, all if userspace is dead */
    PRL_FLOW_CLAMP = 1 << 5,     /* advertised window is limited to edge_limit */
    PRL_FLOW_RELAY = 1 << 7,     /* input goes through userspace in order, unreplicated; output leaves (R21) */
    PRL_FLOW_MD5 = 1 << 6,       /* RFC 2385 signatures: headers must not be rewritten in the kernel */
    PRL_FLOW_MIRRORS = 1 << 8,   /* long packets go to the other node by the cable (docs/mirror.md) */
};
#define PRL_FLOW_HELD (PRL_FLOW_SETUP | PRL_FLOW_ACTIVE)   /* what the socket sends waits in userspace */
#define PRL_FLOW_CAPTURED (PRL_FLOW_HELD | PRL_FLOW_RELAY) /* what the peer sends goes through userspace */
/* A shadow that has not taken over, or that never may (L4): the network neither feeds nor hears it. */
#define PRL_FLOW_SILENT (PRL_FLOW_SECONDARY | PRL_FLOW_VOID)

/*
 * Packets of a protected flow that go another way than prl's programs, noted for userspace, which gives the flow up. The
 * other bits of prl_flow.stray: CLOCK_BOOTTIME in PRL_STRAY_UNIT_NS.
 */
enum prl_stray {
    PRL_STRAY_IN = 1
        << 0,  /* its gate goes on refusing, and nothing is captured: input comes in by another interface */
    PRL_STRAY_OUT = 1 << 1, /* output was stolen that would have left by another interface */
};
#define PRL_STRAY_BITS 2
#define PRL_STRAY_UNIT_NS (1ull << 20)
/* From the first refusal to the one that counts: what was under way when capture began is sent again sooner. */
#define PRL_STRAY_AFTER_NS 250000000ull
/* A first refusal so long ago has nothing to do with one of now: TCP would have sent again in between. */
#define PRL_STRAY_OVER_NS 2000000000ull

/* Which members of struct prl_flow have been set. */
enum prl_last {
    PRL_LAST_ACK = 1 << 0,    /* last_ack and last_window */
    PRL_LAST_STAMPS = 1 << 1, /* last_tsval and last_tsecr */
    PRL_LAST_EDGE = 1 << 2,   /* last_edge */
    PRL_LAST_HOLE = 1 << 3,   /* out_hole */
};

/* Kernel's view of the flow's socket, stored by sample and by egress (no system call to read). */
struct prl_sock_view {
    __u64 stamp_ns; /* when; 0 = never */
    __u32 state;    /* TCP_ESTABLISHED …; 0 = no such socket */
    __u32 rcv_nxt;
    __u32 rcv_wup;
    __u32 rcv_wnd;
    __u32 snd_una;
    __u32 snd_nxt;
    __u32 write_seq;
    __u32 rmem_bytes;
    __u32 rcvbuf_bytes;
    __u32 drops;
    __u32 has_ooo; /* 1: the out-of-order queue is not empty */
    __u32 segs_in;
};

/* State of one flow; element `slot` of prl_flow_state, mapped by userspace. */
struct prl_flow {
    /* written by userspace */
    struct prl_flow_key key;
    __u32 handle;
    __u32 flags;         /* enum prl_flow_flag */
    __u32 generation;    /* counts snapshots */
    __u32 out_committed; /* payload up to this sequence number may leave */
    __u32 edge_limit;    /* right edge that the other side can take (R10), valid with PRL_FLOW_CLAMP */
    __u32 rcv_wscale;    /* shift of the window that this host advertises */
    /* written by the BPF programs */
    __u32 out_held;     /* highest sequence number handed to the hold device */
    __u32 out_valid;    /* out_held is valid since this generation (holds generation + 1) */
    __u32 last_ack;     /* newest ack, window, timestamp emitted: carried by released segments */
    __u32 last_edge;    /* right edge last advertised; never moves back */
    __u32 last_tsval;   /* host order */
    __u32 last_tsecr;   /* host order */
    __u32 last_window;  /* raw header field */
    __u32 last_valid;   /* enum prl_last */
    __u32 clamped;      /* the window field was lowered since userspace last cleared this */
    __u32 out_hole;     /* the hold device refused what starts here: nothing behind it is held before it */
    __u32 stray;        /* enum prl_stray; above it when the gate first refused since the last capture */
    struct prl_sock_view sock;
    /* counters, packets */
    __u64 in_redirected; /* what was addressed to this node, and likewise what passed */
    __u64 in_passed;
    __u64 in_dropped;
    __u64 out_passed;
    __u64 out_held_packets;
    __u64 out_duplicates; /* retransmissions of held payload, swallowed */
    __u64 out_silenced;
    __u64 gate_refused; /* unmarked segments that reached the socket's gate */
};

/* Machines on the LAN whose answers alone count, where some are named (lan.witnesses). */
#define PRL_WITNESSES_MAX 4

/* What is evidence that this node is on the LAN (L6). */
enum prl_watch {
    PRL_WATCH_NOT = 0,
    PRL_WATCH_FRAMES = 1,  /* any machine's: it knows nobody whom it could ask */
    PRL_WATCH_ANSWERS = 2, /* an answer to its own questions alone: what it sends reaches the LAN as well */
};

/* Ownership of a service address on this node (L1). */
enum prl_addr_state {
    PRL_ADDR_NONE = 0,
    PRL_ADDR_STANDBY = 1, /* silent: the other node owns it */
    PRL_ADDR_OWNER = 2,
    PRL_ADDR_FENCED = 3, /* silent: it was taken from us */
    PRL_ADDR_LEAVING =
        4, /* silent: given to the other node; input of its flows is still captured, to be relayed */
};

enum prl_spoken {
    PRL_SPOKEN_NOT = 0,
    PRL_SPOKEN_IN_TIME = 1, /* the first emission came before first_by_ns */
    PRL_SPOKEN_FOR_GOOD = 2, /* first_by_ns is of no interest any more */
};

/* Which address on which interface: routing instances may use the same addresses. */
struct prl_addr_key {
    __u8 addr[16];
    __u32 ifindex;
};

/* What the MAC of a claim is over (L7): SipHash-2-4 of these words, with the key of the claims of this epoch. */
struct prl_claimed {
    __u64 epoch;
    __u64 term;   /* of the claimant's ownership: it silences whoever owns the service since an earlier one */
    __u64 number; /* only ever grows while the claimant runs: the claimant's CLOCK_BOOTTIME */
    __u32 service;
    __u32 claimant; /* index of the node */
    __u8 addr[16];
};
#define PRL_CLAIMED_WORDS 6

/* By which way a probe goes, and its answer comes back. */
enum prl_probe_path { PRL_PROBE_LAN = 0, PRL_PROBE_LINK = 1, PRL_PROBE_PATHS = 2 };
enum prl_probe_type { PRL_PROBE_ASKS = 1, PRL_PROBE_ANSWERS = 2 };
enum prl_probe_flag {
    PRL_PROBE_LINKED = 1 << 0,   /* the asker hears the link of this epoch */
    PRL_PROBE_LEASES = 1 << 1,   /* an answer that renews the asker's lease, as an echo does (L2) */
    PRL_PROBE_BYPASSED = 1 << 2, /* an answer: the programs have opened the flows (L9) */
};

/*
 * What one node's datapath asks the other node's kernel, and what that answers (L3a; docs/kernel-answers.md). Behind a UDP
 * header, in network order. An answer repeats the question up to `confirms`; what follows is zero in a question.
 */
struct prl_probe {
    __be32 magic; /* PRL_PROBE_MAGIC */
    __u8 type;    /* enum prl_probe_type */
    __u8 path;    /* enum prl_probe_path */
    __u8 asker;   /* index of the node */
    __u8 flags;   /* enum prl_probe_flag */
    __be64 epoch;
    __be64 number;    /* only ever grows on a path: the asker's CLOCK_BOOTTIME */
    __be64 confirms;  /* at_ns of the newest answer that the asker has had; 0 = none in this epoch */
    __be64 at_ns;     /* the answerer's CLOCK_BOOTTIME */
    __be64 pass_ns;   /* age of its datapath's last pass */
    __be64 known_ns;  /* the newest `confirms` that it has had, of a question with PRL_PROBE_LINKED */
    __be16 owned;     /* bit per service: it owns it, as far as its kernel knows … */
    __be16 fenced;    /* … but a claim has taken it away … */
    __be16 silent;    /* … or it emits nothing for it */
    __be16 pad;
    __u8 term[PRL_TERMS_MAX]; /* low 8 bits */
    __be64 mac;
};
#define PRL_PROBE_WORDS 10 /* that its MAC is over, as they are on the wire */

struct prl_addr {
    __u32 state;         /* enum prl_addr_state; XDP itself writes FENCED, see prl_node.fenced */
    __u16 service;       /* index of the service that the address belongs to */
    __u16 lif;           /* logical interface, set by prl_kernel_addr_set() */
    __u64
        first_by_ns; /* the first emission as owner, and a frame from the LAN, must come before this (L2, L6); 0 =
                          any time */
    __u32 spoken; /* enum prl_spoken */
    __u32 bit; /* prl_addr_bit() of its key, set by prl_kernel_addr_set() */
    __u64 fenced_by_ns; /* when a claim fenced us */
    __u64 foreign_claims; /* claims that were not obeyed: defended, alarmed */
    __u64 claim_epoch, claim_term, claim_number, claim_mac; /* the newest that was obeyed, as it came */
    __u64 in_dropped;
    __u64 out_silenced;
};

/* How reinjected frames go to a logical interface. act_mirred, the short way, takes none to an interface without a carrier. */
enum prl_way {
    PRL_WAY_REDIRECT = 0, /* bpf_redirect() */
    PRL_WAY_MIRRED = 1, /* act_mirred (prl_pick) */
    PRL_WAY_NO_CARRIER = 2, /* bpf_redirect() until the carrier is back, then act_mirred */
};

/* A logical interface: where reinjected packets appear and released packets leave. */
struct prl_lif {
    __u32 ifindex;
    __u8 mac[6];
    __u16 way; /* enum prl_way */
};

/* Node-wide state; single element of prl_node, mapped by userspace. */
struct prl_node {
    __u64 heartbeat_ns; /* the datapath was alive */
    __u64 stale_ns; /* heartbeat older than this: the datapath is dead or hung (L9) */
    __u64 open_at_ns; /* not before this may a dead datapath's flows open: prl_open_at_ns() */
    __u32 bypassed; /* latched by classify when it opened; cleared by a new prld */
    __u32 policy_stop; /* 1: never open without userspace (policy stop) */
    __u32 hold_ifindex; /* TAP that held output goes to */
    __u32 open_wanted; /* egress stole output of a dead datapath's flow: any frame that arrives may open (L6) */
    __u8 cookie[6]; /* source MAC of reinjected frames (generic XDP sees them again) */
    __u16 pad2;
    __u32 silent; /* bit per service: its owner emits nothing for now (L6) */
    __u32 watch; /* enum prl_watch: the two times below are wanted */
    __u64 lan_first_ns; /* first and newest frame from the LAN since userspace cleared lan_first_ns */
    __u64 lan_seen_ns;
    __u32 witnesses; /* addresses in witness: answers from them alone are evidence; 0 = anybody's are */
    __u32 queue_mark; /* of input that waits in the kernel, without a slot; 0: there is no queue */
    __u8 witness[PRL_WITNESSES_MAX][16]; /* v4-mapped */
    __u64 addr_bits[PRL_ADDR_BITS / 64]; /* prl_addr_bit() of every entry of prl_addrs; never cleared */
    __u64
        any_bits[PRL_ADDR_BITS / 64]; /* the same of every address as though of interface 0: whichever it is on */
    __u64 open_bits[PRL_ADDR_BITS / 64]; /* of these, the ones that one entry alone has, whose state is OWNER */
    __u8 open_lif[PRL_ADDR_BITS]; /* logical interface of the entry that has an open bit */
    __u64 mac_bits; /* prl_mac_bit() of every address in prl_lifs */
    __u64 fresh_jiffies; /* when the programs last found the datapath alive, by which heartbeat */
    __u64 fresh_heartbeat_ns;
    __u64 word_ns; /* userspace was told by somebody that this node may speak: what first_by_ns says is past */
    __u64
        speak_by_ns; /* where arbiter or witnesses decide: nothing is said for any service from then on; 0 = no limit (L6, L12) */
    __u64 terms[PRL_TERMS_MAX]; /* of each service; they only ever grow, and outlive prld */
    /* What the other node's claims are known by: userspace writes it with each epoch, and it outlives prld. */
    __u64 claim_key[2]; /* zero = none is */
    __u64 claim_epoch;
    __u8 claim_token[PRL_TOKEN_BYTES]; /* instead, of a node without PRL_CAP_CLAIM_MAC; zero = none is */
    __u32 claimant; /* the other node's index */
    /* Bit per service: a program has taken it away. Only atomic operations change it, so that no write to an entry of
     * prl_addrs, which userspace replaces as a whole, undoes what a program has seen meanwhile. */
    __u32 fenced;
    __u64 netns_cookie; /* of prld's network namespace: sock_ops programs are called for all that there are */
    __u64 news_missed; /* what the ring of news had no room for */
    /* What prl_answer knows the other node's probes by, and answers (L3a): of userspace, and it outlives prld. */
    __u64 probe_key[2]; /* zero = none is */
    __u64 probe_epoch;
    __u64 hold_ns; /* the flows stay closed so long after an answer that has renewed the lease */
    __u64 hung_ns; /* none does of a datapath so late */
    __u32 owned; /* bit per service: enum prl_addr_state is OWNER */
    __u32 leases; /* 1: the link is up, and nothing was opened: an answer renews the other node's lease */
    /* of prl_answer */
    __u64 probe_seen[PRL_PROBE_PATHS]; /* the newest number */
    __u64 answered_ns; /* when an answer last renewed the lease */
    __u64 confirmed_ns; /* of its answers, the newest that the other node is known to have had */
    __u64 lan_probed_ns; /* when a probe last came by the LAN */
    __u64 probes_answered;
    __u64 probes_refused; /* forged, replayed, of another epoch */
    /* counters, packets */
    __u64 frames;
    __u64 malformed;
    __u64 fragments; /* fragments towards a service address: only the mark gate judges them */
    __u64 tunnelled; /* more than PRL_VLANS_MAX tags, or too many extension headers: passed up */
    __u64 icmp_quoted; /* ICMP errors that quoted a flow */
    __u64 reentered; /* own reinjected frames seen again by generic XDP */
    __u64 stale_dropped;
    __u64 claims_obeyed;
    __u64 claims_foreign;
    __u64 claims_replayed; /* the other node's, but of an ownership that is over, or obeyed before */
    __u64 redirect_failed;
    __u64 strays; /* packets that made a flow a stray (enum prl_stray) */
    __u64
        shadow_stray_ns; /* when a shadow's output last would have left by an interface that is not its service's own */
    __u32 shadow_stray_ifindex; /* which */
    __u32
        claiming; /* bit per service: just taken over, nothing leaves before our claim has silenced the old owner (I7) */
    __u64 elsewhere_silenced; /* what would have left for a service address by an interface that is not its own */
    __u64 births; /* sessions that began to wait at the end of their handshake */
    __u64 births_late; /* sessions whose time was over before they were protected or refused */
    __u64 births_dropped; /* input that came meanwhile, although the peer was told that there is no room */
    __u64
        births_evicted; /* sessions of which prl_newborns had nothing any more at the end of their handshake: it is full */
    __u32 awaited; /* entries of prl_awaited: of userspace */
    __u32 pad3;
};

/* The cable of the carrier "mirror"; single element of prl_mirror, mapped by userspace. */
struct prl_mirror {
    __u32 ifindex; /* its interface; 0: nothing is mirrored */
    __u32
        queue_mark; /* of packets of which prld is given the headers alone, without a slot; 0: there is no such queue */
    __u8 mac[6]; /* the other node's on it */
    __u16 pad;
    __u32 newest; /* number of the newest packet */
    /* counters, frames */
    __u64 cloned;
    __u64 clone_failed; /* its packet goes by the link */
    __u64 taken; /* that came, for prld to join */
    __u64 refused; /* that came for no shadow, or while prld is dead */
};

/*
 * How many flows of the table there are by prl_sieve_cell(), kept by userspace: a segment whose cell is zero belongs to
 * none. A count that is too high costs a look-up; one too low would let a flow's packets pass. So a flow is counted before
 * it is entered and until it has gone, and a cell that is full stays so.
 */
struct prl_sieve {
    __u8 flows[PRL_SIEVE_CELLS];
};

/*
 * Ethernet header of a frame that userspace writes to the reinjection device. The destination tells the
 * program there which logical interface the frame belongs to; the program replaces both addresses.
 */
struct prl_inject_eth {
    __u8 tag[4]; /* PRL_INJECT_TAG */
    __u8 lif_hi;
    __u8 lif_lo;
    __u8 source[6];
    __be16 proto;
};

#define PRL_INJECT_TAG_0 0x02
#define PRL_INJECT_TAG_1 0x70
#define PRL_INJECT_TAG_2 0x72
#define PRL_INJECT_TAG_3 0x6c

/*
 * Trailer of a claim: behind the 28 bytes of an ARP message, or as option PRL_ND_OPT_CLAIM of an
 * unsolicited neighbour advertisement (RFC 4861; 253 is an experimental type, RFC 4727). What else the MAC is over
 * (struct prl_claimed) its receiver knows.
 */
#define PRL_ND_OPT_CLAIM 253
struct prl_claim {
    __u8 type; /* PRL_ND_OPT_CLAIM */
    __u8 length8; /* 4: length in units of 8 bytes */
    __u8 magic[2]; /* 'P','R' */
    __u8 pad[4];
    __be64 term;
    __be64 number;
    __be64 mac;
};

/* The same of a node without PRL_CAP_CLAIM_MAC. */
struct prl_claim_token {
    __u8 type; /* PRL_ND_OPT_CLAIM */
    __u8 length8; /* 3 */
    __u8 magic[2];
    __u8 token[PRL_TOKEN_BYTES];
    __u8 pad[4];
};

/*
 * Sessions that wait to be protected (docs/sessions.md), by the flow's key without tags: struct prl_newborn. Endpoints whose
 * new sessions do: struct prl_awaited, by the same key without the peer, of what peers open, or without the own port (R32).
 */
#define PRL_AWAITED_MAX 1024
#define PRL_NEWBORNS_MAX 16384 /* of more, the oldest is open before its time */
/* From the SYN-ACK to the end of the handshake; from there on the endpoint's own limit counts. */
#define PRL_HANDSHAKE_NS 4000000000ull
/* So many sessions of an endpoint in turn whose time was over, and the next ones do not wait, until one is set up: it may be
 * that nobody has its sessions protected. */
#define PRL_BIRTHS_LATE_MAX 8
struct prl_awaited {
    __u64 wait_ns;
    __u32 late; /* in turn */
    __u32 pad;
};
struct prl_newborn {
    __u64 until_ns; /* CLOCK_BOOTTIME */
    /* What the session's stack has said up to now, for whoever tells the peer that there is room. */
    __u32 iss; /* a retransmission of SYN or SYN-ACK does not begin anew */
    __u32 tsval; /* host order; 0 where there are no timestamps */
    __u32 tsecr;
    __u8 peer_mac[6]; /* next hop towards the peer; zero: nothing has left */
    __u8 pad[6];
};

/* What bpf/sessions.bpf.c tells the datapath. */
#define PRL_NEWS_RING_BYTES 1048576 /* a power of two, and of pages: 32,000 news between two passes */
enum prl_news_kind {
    PRL_NEWS_ENDED = 1, /* the flow's socket is closed for good, or in TIME_WAIT */
    PRL_NEWS_BORN = 2, /* a session of a service address is established: no flow's yet, slot and handle are 0 */
};
struct prl_news {
    __u64 cookie; /* the socket's */
    __u32 kind; /* enum prl_news_kind */
    __u32 slot;
    __u32 handle;
    __u32 pad;
};

/* A session of a service address that no flow of prld's has (bpf/sessions.bpf.c). */
struct prl_stranger {
    __u8 local[16];
    __u8 remote[16];
    __be16 local_port;
    __be16 remote_port;
    __u32 ifindex; /* of the device that its socket is bound to; 0: none */
};

/* What the filter on an unchanged program's listener heard; `bytes` bytes of payload follow. */
#define PRL_LISTENERS_MAX 64
struct prl_heard {
    __u8 local[16];
    __u8 remote[16];
    __be16 local_port;
    __be16 remote_port;
    __u32 bytes;
    __u32 seq; /* TCP sequence number of the first byte, host order */
    __u32 is_new; /* 1: the end of a handshake */
};

/* Question to the references program, in place of a frame (BPF_PROG_TEST_RUN), and its answer. */
struct prl_references {
    __u8 header[16]; /* where a frame has its Ethernet header: zero */
    struct prl_flow_key key;
    __u32 is_filtered; /* 1: it has a socket filter that is not one of prl's: its name does not begin so */
    __u64 inode; /* of the TCP socket with these ends; 0: there is none */
    __u64
        count; /* references to its file: one for each descriptor, of any process, and each on its way in a message */
};

/* Likewise, to the rest program: whether a TCP socket is at rest, which is where repair mode is not needed to copy it, and then what of
 * it no system call tells. */
struct prl_rest {
    __u8 header[16];
    struct prl_flow_key key;
    __u32 is_at_rest; /* 1: ESTABLISHED, both queues are empty, and all is acknowledged, both ways */
    __u64 inode; /* of the socket; 0: there is none */
    __u64 bytes_received,
        bytes_acked; /* what TCP_INFO counts: whoever has asked that knows whether it has moved since */
    __u32 segs_in, segs_out;
    __u32 rcv_seq, snd_seq;
    __u32 snd_wl1, snd_wnd, max_window, rcv_wnd; /* struct tcp_repair_window; its rcv_wup is rcv_seq */
    __u32 rcv_edge; /* the highest right edge ever advertised */
    __u32 mss; /* the peer's maximum segment size */
};

/* Request to the sample program (BPF_PROG_TEST_RUN): slots whose socket view is wanted. */
#define PRL_SAMPLE_MAX 64
struct prl_sample {
    __u32 count;
    __u32 slot[PRL_SAMPLE_MAX];
};

#ifndef PRL_CFFI
static inline __u32 prl_addr_bit(const __u8 addr[16], __u32 ifindex)
{
    __u32 words[4];
    __builtin_memcpy(words, addr, sizeof(words));
    __u32 mixed = (words[0] ^ words[1] ^ words[2] ^ words[3]) + ifindex * 0x85ebca6bu;
    return mixed * 0x9e3779b1u >> 24; /* 8 bits of Fibonacci hashing */
}

static inline __u32 prl_mac_bit(const __u8 mac[6])
{
    return (mac[3] ^ mac[4] ^ mac[5]) & (PRL_MAC_BITS - 1);
}

/* The cell of a key; those of a flow and of its segments are the same, except for a datagram of a socket without a peer. */
static inline __u32 prl_sieve_cell(const struct prl_flow_key *key)
{
    __u32 remote[4], local[4], ports;
    __builtin_memcpy(remote, key->remote, sizeof(remote));
    __builtin_memcpy(local, key->local, sizeof(local));
    __builtin_memcpy(&ports, &key->local_port, sizeof(ports));
    __u32 ends = remote[0] ^ remote[1] ^ remote[2] ^ remote[3] ^ (local[3] << 16 | local[3] >> 16);
    return (__u32)((((__u64)ports << 32 | ends) * 0x9e3779b97f4a7c15ull) >> 44); /* 20 bits of the same */
}

/* When a dead datapath's flows may open: the lease has ended that echoes (open_at_ns, which userspace alone writes) and answers
 * (answered_ns, which prl_answer alone writes) have renewed. */
static inline __attribute__((always_inline)) __u64 prl_open_at_ns(const volatile struct prl_node *node)
{
    __u64 open_at_ns = node->open_at_ns, answered_ns = node->answered_ns;
    __u64 renewed_ns = answered_ns ? answered_ns + node->hold_ns : 0;

    return renewed_ns > open_at_ns ? renewed_ns : open_at_ns;
}

/*
 * The advertised window of a segment with this ack, as it stands in the header, lowered to what the other side can take
 * too (R10), rounded down to the window's unit: what the peer may send, both sides take. The right edge does not move back,
 * but for that rounding (RFC 7323, 2.4): rounding up instead would let it creep by up to a unit with every ack.
 */
static inline __attribute__((always_inline)) __u32 prl_clamped_window(const volatile struct prl_flow *flow,
                                                                      __u32 ack, __u32 window)
{
    __u32 edge = flow->edge_limit, last_edge = flow->last_edge, lower;

    if ((flow->last_valid & PRL_LAST_EDGE) && (__s32)(last_edge - edge) > 0)
        edge = last_edge;
    if ((__s32)(ack - edge) > 0)
        edge = ack;
    lower = (edge - ack) >> (flow->rcv_wscale & 15);
    return lower < window ? lower : window;
}

_Static_assert(PRL_FLOWS_MAX - 1 <= PRL_QUEUE_SLOT, "a slot fits into the mark");
_Static_assert(PRL_ADDR_BITS == 1 << 8, "prl_addr_bit() has 8 bits");
_Static_assert(PRL_SIEVE_CELLS == 1 << 20, "prl_sieve_cell() has 20 bits");

#define PRL_ASSERT_SIZE(type, bytes) _Static_assert(sizeof(type) == (bytes), #type " has an unexpected size")
PRL_ASSERT_SIZE(struct prl_flow_key, 44);
PRL_ASSERT_SIZE(struct prl_sock_view, 56);
PRL_ASSERT_SIZE(struct prl_flow, 232);
PRL_ASSERT_SIZE(struct prl_addr_key, 20);
PRL_ASSERT_SIZE(struct prl_claimed, 48);
_Static_assert(sizeof(struct prl_claimed) == PRL_CLAIMED_WORDS * 8, "the MAC is over all of it");
PRL_ASSERT_SIZE(struct prl_addr, 88);
PRL_ASSERT_SIZE(struct prl_node, 992);
PRL_ASSERT_SIZE(struct prl_probe, 88);
_Static_assert(sizeof(struct prl_probe) == PRL_PROBE_WORDS * 8 + 8, "the MAC is over all that is in front of it");
PRL_ASSERT_SIZE(struct prl_inject_eth, 14);
PRL_ASSERT_SIZE(struct prl_claim, 32);
PRL_ASSERT_SIZE(struct prl_claim_token, 24);
PRL_ASSERT_SIZE(struct prl_heard, 48);
PRL_ASSERT_SIZE(struct prl_awaited, 16);
PRL_ASSERT_SIZE(struct prl_newborn, 32);
PRL_ASSERT_SIZE(struct prl_news, 24);
PRL_ASSERT_SIZE(struct prl_stranger, 40);
PRL_ASSERT_SIZE(struct prl_references, 80);
PRL_ASSERT_SIZE(struct prl_rest, 128);
#endif

#endif /* PRL_ABI_H */
