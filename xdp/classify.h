/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What of an uplink's packets is ours, as the maps say it: the NIC's program (XDP) and the flows' (tcx) ask it alike.
 *
 *   to a pod        destination in pods4 / pods6, fragments and all
 *   VXLAN to us     UDP to the VXLAN port of an address in local4 / local6
 *   IPIP to us      protocol 4 to an address in local4
 *   from a pod      source in pods4 / pods6, destination in local4 / local6
 *   NAT replies     to an address in nat4 / nat6: TCP, UDP and SCTP to a port in nat_ports, protocols without ports
 *                   that are in it, echo replies, and ICMP errors about what such a port or protocol sent. Ports and
 *                   protocols are the dataplane's own: the host uses others.
 *
 *   tunnel errors   ICMP errors to an address in local4 / local6 about VXLAN or IPIP that we sent
 *
 * Left to the kernel on purpose:
 * - Later fragments of an outer VXLAN datagram. They carry no port, so nothing tells them from other UDP.
 *   The first fragment comes to us and is dropped and counted there: a VTEP must not fragment
 *   (RFC 7348 section 4.3).
 * - IPv6 VXLAN behind an extension header. Nobody sends that; walking the chain costs every packet.
 */
#ifndef CARACAL_CLASSIFY_H
#define CARACAL_CLASSIFY_H

#include "caracal.h"

#define IPV4_OFFSET_MASK bpf_htons(0x1fff)
#define IPV4_MORE_FRAGMENTS bpf_htons(0x2000)
#define IPV6_OFFSET_MASK bpf_htons(0xfff8)
#define IPV6_MORE_FRAGMENTS bpf_htons(0x0001)

/* What <linux/icmp.h> and <linux/icmpv6.h> would say, if programs could include them. */
#define PROTOCOL_ICMP6 58
#define PROTOCOL_FRAGMENT 44
#define PROTOCOL_DESTINATION_OPTIONS 60

struct icmp {
	__u8 type;
	__u8 code;
	__be16 checksum;
	__be32 rest;
};

enum {
	ICMP4_ECHO_REPLY = 0,
	ICMP4_UNREACHABLE = 3,
	ICMP4_TIME_EXCEEDED = 11,
	ICMP4_PARAMETER_PROBLEM = 12,
	ICMP6_UNREACHABLE = 1,
	ICMP6_TOO_BIG = 2,
	ICMP6_TIME_EXCEEDED = 3,
	ICMP6_PARAMETER_PROBLEM = 4,
	ICMP6_ECHO_REPLY = 129,
};

/* Words of nat_ports for TCP, for UDP, for SCTP, and for the protocols without ports. */
#define PORT_WORDS (65536 / 64)

enum class {
	PASSED,
	TO_POD,
	VXLAN,
	IPIP,
	FROM_POD,
	NAT_REPLY,
	TUNNEL_ERROR,
	CLASSES,
};

struct prefix4 {
	__u32 len;
	__u8 addr[4];
};

struct prefix6 {
	__u32 len;
	__u8 addr[16];
};

struct {
	__uint(type, BPF_MAP_TYPE_LPM_TRIE);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__uint(max_entries, 65536);
	__type(key, struct prefix4);
	__type(value, __u8);
} pods4 SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_LPM_TRIE);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__uint(max_entries, 65536);
	__type(key, struct prefix6);
	__type(value, __u8);
} pods6 SEC(".maps");

/* The node's own addresses that tunnels end at. */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 1024);
	__type(key, __u8[4]);
	__type(value, __u8);
} local4 SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 1024);
	__type(key, __u8[16]);
	__type(value, __u8);
} local6 SEC(".maps");

/* The VXLAN port in network order, 0 when there is no VXLAN. A map, since it can change at run time. */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, __be16);
} vxlan_port SEC(".maps");

/* The addresses that pods' connections to the outside leave with. */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 256);
	__type(key, __u8[4]);
	__type(value, __u8);
} nat4 SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 256);
	__type(key, __u8[16]);
	__type(value, __u8);
} nat6 SEC(".maps");

/*
 * The ports that they leave with, a bit each: TCP's, UDP's, SCTP's. Behind them a bit for each protocol that has no
 * ports and that they may leave with, by its number.
 */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 4 * PORT_WORDS);
	__type(key, __u32);
	__type(value, __u64);
} nat_ports SEC(".maps");

/*
 * Where the first fragment of a datagram to a NAT address went: later ones follow it. One that overtook its first
 * comes to us, and goes on to the host if the datagram turns out to be none of ours.
 */
struct fragment {
	__u8 src[16];
	__u8 dst[16];
	__u32 id;
	__u32 protocol;
};

struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__uint(max_entries, 4096);
	__type(key, struct fragment);
	__type(value, __u8);
} fragments SEC(".maps");

/*
 * Until when nobody is there on purpose, in nanoseconds of CLOCK_BOOTTIME. Then nat_ports has what is to be lost meanwhile.
 */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, __u64);
} away_until SEC(".maps");

static __always_inline int is_pod4(const void *addr)
{
	struct prefix4 key = { .len = 32 };

	__builtin_memcpy(key.addr, addr, sizeof(key.addr));
	return bpf_map_lookup_elem(&pods4, &key) != 0;
}

static __always_inline int is_pod6(const void *addr)
{
	struct prefix6 key = { .len = 128 };

	__builtin_memcpy(key.addr, addr, sizeof(key.addr));
	return bpf_map_lookup_elem(&pods6, &key) != 0;
}

static __always_inline int is_vxlan(const struct udphdr *udp, const void *end)
{
	const __u32 zero = 0;
	const __be16 *port = bpf_map_lookup_elem(&vxlan_port, &zero);

	return port && *port && (const void *)(udp + 1) <= end && udp->dest == *port;
}

/* Whether an ICMP error is about a packet of a tunnel of ours: who is in it is to be told. */
static __always_inline int is_tunnel_error4(const struct icmp *icmp, const void *end)
{
	const struct iphdr *sent = (const void *)(icmp + 1);

	if ((const void *)(sent + 1) > end)
		return 0;
	if (icmp->type != ICMP4_UNREACHABLE && icmp->type != ICMP4_TIME_EXCEEDED)
		return 0;
	return sent->protocol == IPPROTO_IPIP ||
	       (sent->protocol == IPPROTO_UDP && is_vxlan((const void *)sent + sent->ihl * 4, end));
}

static __always_inline int is_tunnel_error6(const struct icmp *icmp, const void *end)
{
	const struct ipv6hdr *sent = (const void *)(icmp + 1);

	if ((const void *)(sent + 1) > end)
		return 0;
	if (icmp->type < ICMP6_UNREACHABLE || icmp->type > ICMP6_TIME_EXCEEDED)
		return 0;
	return sent->nexthdr == IPPROTO_UDP && is_vxlan((const void *)(sent + 1), end);
}

/* The place of a protocol's ports in nat_ports; that of the protocols without ports for all others. */
static __always_inline __u32 ports_of(__u8 protocol)
{
	switch (protocol) {
	case IPPROTO_TCP:
		return 0;
	case IPPROTO_UDP:
		return PORT_WORDS;
	case IPPROTO_SCTP:
		return 2 * PORT_WORDS;
	default:
		return 3 * PORT_WORDS;
	}
}

/* Whether a port of our NAT is at `l4 + offset`, or the protocol is one of our NAT's that has none. */
static __always_inline int is_nat_port(__u8 protocol, const void *l4, __u32 offset, const void *end)
{
	const __u32 first = ports_of(protocol);
	const __be16 *at = l4 + offset;
	__u16 number = protocol;
	const __u64 *word;
	__u32 key;

	if (first != 3 * PORT_WORDS) {
		if ((const void *)(at + 1) > end)
			return 0;
		number = bpf_ntohs(*at);
	}
	key = first + number / 64;
	word = bpf_map_lookup_elem(&nat_ports, &key);
	return word && (*word >> (number % 64)) & 1;
}

/* Whether an ICMP message to a NAT address is about a packet that our NAT sent. */
static __always_inline int is_nat_icmp4(const struct icmp *icmp, const void *end)
{
	const struct iphdr *sent = (const void *)(icmp + 1);

	if ((const void *)sent > end)
		return 0;
	switch (icmp->type) {
	case ICMP4_ECHO_REPLY:
		return 1;
	case ICMP4_UNREACHABLE:
	case ICMP4_TIME_EXCEEDED:
	case ICMP4_PARAMETER_PROBLEM:
		if ((const void *)(sent + 1) > end)
			return 0;
		/* Of a ping nothing tells whose it was. */
		if (sent->protocol == IPPROTO_ICMP)
			return 1;
		return is_nat_port(sent->protocol, (const void *)sent + sent->ihl * 4, 0, end);
	default:
		return 0;
	}
}

/*
 * The upper layer behind options for the destination, which Linux's tunnels put in front of GRE and the like
 * (RFC 2473 section 4.1.1). Other extension headers are not walked.
 */
static __always_inline const void *skip_options(__u8 *protocol, const void *l4, const void *end)
{
	const struct {
		__u8 nexthdr;
		__u8 len;
	} *options = l4;

	if (*protocol != PROTOCOL_DESTINATION_OPTIONS || (const void *)(options + 1) > end)
		return l4;
	*protocol = options->nexthdr;
	return l4 + (options->len + 1) * 8;
}

static __always_inline int is_nat_icmp6(const struct icmp *icmp, const void *end)
{
	const struct ipv6hdr *sent = (const void *)(icmp + 1);
	const void *l4;
	__u8 protocol;

	if ((const void *)sent > end)
		return 0;
	switch (icmp->type) {
	case ICMP6_ECHO_REPLY:
		return 1;
	case ICMP6_UNREACHABLE:
	case ICMP6_TOO_BIG:
	case ICMP6_TIME_EXCEEDED:
	case ICMP6_PARAMETER_PROBLEM:
		if ((const void *)(sent + 1) > end)
			return 0;
		if (sent->nexthdr == PROTOCOL_ICMP6)
			return 1;
		protocol = sent->nexthdr;
		l4 = skip_options(&protocol, sent + 1, end);
		return is_nat_port(protocol, l4, 0, end);
	default:
		return 0;
	}
}

/* Remembers where a first fragment goes, or tells where a later one is to go. */
static __always_inline int follow(const struct fragment *key, int is_first, int is_nat)
{
	const __u8 *known;
	__u8 value = is_nat;

	if (is_first) {
		bpf_map_update_elem(&fragments, key, &value, BPF_ANY);
		return is_nat;
	}
	known = bpf_map_lookup_elem(&fragments, key);
	return !known || *known;
}

static __always_inline int is_nat_reply4(const struct iphdr *ip, const void *l4, const void *end)
{
	const int is_first = !(ip->frag_off & IPV4_OFFSET_MASK);
	int is_nat = 0;

	if (is_first) {
		if (ip->protocol == IPPROTO_ICMP)
			is_nat = is_nat_icmp4(l4, end);
		else
			is_nat = is_nat_port(ip->protocol, l4, 2, end);
	}
	if (ip->frag_off & (IPV4_OFFSET_MASK | IPV4_MORE_FRAGMENTS)) {
		struct fragment key = { .id = ip->id, .protocol = ip->protocol };

		__builtin_memcpy(key.src, &ip->saddr, sizeof(ip->saddr));
		__builtin_memcpy(key.dst, &ip->daddr, sizeof(ip->daddr));
		return follow(&key, is_first, is_nat);
	}
	return is_nat;
}

static __always_inline int is_nat_upper6(__u8 protocol, const void *l4, const void *end)
{
	if (protocol == PROTOCOL_ICMP6)
		return is_nat_icmp6(l4, end);
	l4 = skip_options(&protocol, l4, end);
	return is_nat_port(protocol, l4, 2, end);
}

static __always_inline int is_nat_reply6(const struct ipv6hdr *ip, const void *end)
{
	/* <linux/ipv6.h> has no fragment header for programs. */
	const struct {
		__u8 nexthdr;
		__u8 reserved;
		__be16 offset;
		__be32 id;
	} *frag = (const void *)(ip + 1);
	struct fragment key = { };
	int is_first;

	if (ip->nexthdr != PROTOCOL_FRAGMENT)
		return is_nat_upper6(ip->nexthdr, ip + 1, end);
	if ((const void *)(frag + 1) > end)
		return 0;
	is_first = !(frag->offset & IPV6_OFFSET_MASK);
	key.id = frag->id;
	__builtin_memcpy(key.src, &ip->saddr, sizeof(key.src));
	__builtin_memcpy(key.dst, &ip->daddr, sizeof(key.dst));
	return follow(&key, is_first, is_first && is_nat_upper6(frag->nexthdr, frag + 1, end));
}

static __always_inline enum class classify4(const struct iphdr *ip, const void *end)
{
	const __u32 header_len = ip->ihl * 4;
	__u8 to[4];

	if (ip->version != 4 || header_len < sizeof(*ip))
		return PASSED;

	__builtin_memcpy(to, &ip->daddr, sizeof(to));
	if (bpf_map_lookup_elem(&local4, to)) {
		const int first = !(ip->frag_off & IPV4_OFFSET_MASK);

		if (ip->protocol == IPPROTO_UDP && first &&
		    is_vxlan((const void *)ip + header_len, end))
			return VXLAN;
		if (ip->protocol == IPPROTO_IPIP)
			return IPIP;
		if (ip->protocol == IPPROTO_ICMP && first &&
		    is_tunnel_error4((const void *)ip + header_len, end))
			return TUNNEL_ERROR;
		if (is_pod4(&ip->saddr))
			return FROM_POD;
	}
	if (bpf_map_lookup_elem(&nat4, to) && is_nat_reply4(ip, (const void *)ip + header_len, end))
		return NAT_REPLY;
	return is_pod4(&ip->daddr) ? TO_POD : PASSED;
}

static __always_inline enum class classify6(const struct ipv6hdr *ip, const void *end)
{
	__u8 to[16];

	if (ip->version != 6)
		return PASSED;

	__builtin_memcpy(to, &ip->daddr, sizeof(to));
	if (bpf_map_lookup_elem(&local6, to)) {
		if (ip->nexthdr == IPPROTO_UDP && is_vxlan((const void *)(ip + 1), end))
			return VXLAN;
		if (ip->nexthdr == PROTOCOL_ICMP6 && is_tunnel_error6((const void *)(ip + 1), end))
			return TUNNEL_ERROR;
		if (is_pod6(&ip->saddr))
			return FROM_POD;
	}
	if (bpf_map_lookup_elem(&nat6, to) && is_nat_reply6(ip, end))
		return NAT_REPLY;
	return is_pod6(&ip->daddr) ? TO_POD : PASSED;
}

static __always_inline enum class classify(const void *data, const void *end)
{
	const struct ethhdr *eth = data;
	const void *ip = eth + 1;

	/* RFC 1122 section 3.3.6: no unicast IP packet in a link-layer broadcast. The kernel drops those. */
	if (ip > end || eth->h_dest[0] & 1)
		return PASSED;
	if (eth->h_proto == bpf_htons(ETH_P_IP) && ip + sizeof(struct iphdr) <= end)
		return classify4(ip, end);
	if (eth->h_proto == bpf_htons(ETH_P_IPV6) && ip + sizeof(struct ipv6hdr) <= end)
		return classify6(ip, end);
	return PASSED;
}

static __always_inline int is_away(void)
{
	const __u32 zero = 0;
	const __u64 *until = bpf_map_lookup_elem(&away_until, &zero);

	return until && *until && bpf_ktime_get_boot_ns() < *until;
}

static __always_inline int has_answers(__u8 protocol)
{
	return protocol == IPPROTO_TCP || protocol == IPPROTO_UDP || protocol == IPPROTO_SCTP;
}

/*
 * Whether the host would answer to an answer of our NAT: to whole datagrams and first fragments of TCP, UDP and SCTP. An
 * ICMP message may be about the host's own pings.
 */
static __always_inline int would_be_refused(const void *data, const void *end)
{
	const struct ethhdr *eth = data;
	const struct iphdr *ip = (const void *)(eth + 1);
	const struct ipv6hdr *ip6 = (const void *)(eth + 1);

	if ((const void *)(ip + 1) > end)
		return 0;
	if (eth->h_proto == bpf_htons(ETH_P_IP))
		return !(ip->frag_off & IPV4_OFFSET_MASK) && has_answers(ip->protocol);
	return (const void *)(ip6 + 1) <= end && has_answers(ip6->nexthdr);
}

#endif
