/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/*
 * What the parser of the programs (parse.h) and that of the datapath (userspace/tcp/packet.c) must both say of a packet: a
 * packet that only one of them takes for a flow's would be held without being understood. IPPROTO_* come from whoever
 * includes this, linux/in.h and linux/in6.h or netinet/in.h.
 */
#ifndef PRL_HEADERS_H
#define PRL_HEADERS_H

/* More extension headers than this are nobody's honest traffic. */
#define PRL_EXTENSIONS_MAX 6

/* RFC 792; linux/icmp.h draws in libc's headers, which know no bpf target. */
#define PRL_ICMP_DEST_UNREACH 3
#define PRL_ICMP_TIME_EXCEEDED 11
#define PRL_ICMP_PARAMETER_PROBLEM 12
/* RFC 4443: the errors that quote a packet. */
#define PRL_ICMP6_ERROR_MIN 1
#define PRL_ICMP6_ERROR_MAX 4
/* Type, code, checksum and four bytes more stand in front of what an error quotes. */
#define PRL_ICMP_HEADER_BYTES 8

/* IPv6 extension headers that are stepped over. A fragment header is, when it says that the packet is whole. */
static inline int prl_is_extension(__u32 proto)
{
    return proto == IPPROTO_HOPOPTS || proto == IPPROTO_ROUTING || proto == IPPROTO_DSTOPTS ||
           proto == IPPROTO_AH || proto == IPPROTO_FRAGMENT;
}

/* Of an extension header whose second byte is `length` (RFC 8200; RFC 4302 for AH). */
static inline __u32 prl_extension_bytes(__u32 proto, __u8 length)
{
    if (proto == IPPROTO_FRAGMENT)
        return 8;
    return proto == IPPROTO_AH ? (length + 2u) * 4 : (length + 1u) * 8;
}

/* Whether an ICMP message quotes a packet of this host's. */
static inline int prl_is_icmp_error(int is_v6, __u8 type)
{
    if (is_v6)
        return type >= PRL_ICMP6_ERROR_MIN && type <= PRL_ICMP6_ERROR_MAX;
    return type == PRL_ICMP_DEST_UNREACH || type == PRL_ICMP_TIME_EXCEEDED || type == PRL_ICMP_PARAMETER_PROBLEM;
}

#endif /* PRL_HEADERS_H */
