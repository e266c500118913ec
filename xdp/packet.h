/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What is read of a packet: TCP and UDP, IPv4 without options or fragments, IPv6 without extension headers, whole and with a right
 * header checksum, as the pollers' quick way takes them (fastpath/src/stage/parse/ordinary.rs). Others are theirs.
 */
#ifndef CARACAL_PACKET_H
#define CARACAL_PACKET_H

#include "flow.h"

#define IPV4_FRAGMENT bpf_htons(0x3fff)
#define IPV4_DONT_FRAGMENT bpf_htons(0x4000)

/* <linux/tcp.h> has no names for these. */
enum {
	TCP_FIN = 0x01,
	TCP_SYN = 0x02,
	TCP_RST = 0x04,
	TCP_ACK = 0x10,
};

struct tcp {
	__be16 ports[2];
	__be32 seq;
	__be32 ack;
	__u8 offset;
	__u8 flags;
	__be16 window;
	__be16 checksum;
	__be16 urgent;
};

struct packet {
	/* Where the IP header is that counts: of what came by a tunnel the inner one. */
	__u32 l3;
	/* The IP packet's bytes, of a super-frame all of them; and those of its headers, transport included. */
	__u32 len;
	__u32 headers;
	/* Packets on the wire. */
	__u32 packets;
	__u32 seq;
	__u32 ack;
	__u16 window;
	/* Of IPv4. */
	__u16 id;
	__u8 is6;
	__u8 is_udp;
	__u8 may_fragment;
	__u8 ttl;
	__u8 ecn;
	__u8 tcp_flags;
};

/* Has the first `len` bytes of a packet, or all of them, where they can be read. */
static __always_inline void pull(struct __sk_buff *skb, __u32 len)
{
	if (len > skb->len)
		len = skb->len;
	if ((long)skb->data + len > (long)skb->data_end)
		bpf_skb_pull_data(skb, len);
}

/* The sum of an IPv4 header without options is zero. */
static __always_inline int is_header_right(const struct iphdr *ip)
{
	const __u32 *word = (const void *)ip;
	__u64 sum = (__u64)word[0] + word[1] + word[2] + word[3] + word[4];

	sum = (sum & 0xffff) + ((sum >> 16) & 0xffff) + (sum >> 32);
	sum = (sum & 0xffff) + (sum >> 16);
	sum = (sum & 0xffff) + (sum >> 16);
	return sum == 0xffff;
}

/* Reads the ports, and of TCP what the connection's state is judged by. `size`: the IP header's bytes. */
static __always_inline int read_transport(struct packet *p, const void *l4, const void *end, __u32 size, __be32 *ports)
{
	const struct tcp *tcp = l4;

	if (l4 + 8 > end)
		return 0;
	*ports = *(__be32 *)l4;
	if (p->is_udp) {
		p->headers = size + 8;
		return p->len >= p->headers;
	}
	if ((void *)(tcp + 1) > end)
		return 0;
	p->headers = size + (tcp->offset >> 4) * 4;
	p->seq = bpf_ntohl(tcp->seq);
	p->ack = bpf_ntohl(tcp->ack);
	p->window = bpf_ntohs(tcp->window);
	p->tcp_flags = tcp->flags;
	return p->headers >= size + sizeof(*tcp) && p->len >= p->headers;
}

/* `room`: how many bytes there are at the most for the IP packet. */
static __always_inline int read4(struct packet *p, const void *l3, const void *end, __u32 room, struct key4 *key)
{
	const struct iphdr *ip = l3;

	if ((void *)(ip + 1) > end || *(__u8 *)l3 != 0x45 || (ip->frag_off & IPV4_FRAGMENT) || !is_header_right(ip))
		return 0;
	if (ip->protocol != IPPROTO_TCP && ip->protocol != IPPROTO_UDP)
		return 0;
	p->is6 = 0;
	p->is_udp = ip->protocol == IPPROTO_UDP;
	p->len = bpf_ntohs(ip->tot_len);
	p->id = bpf_ntohs(ip->id);
	p->may_fragment = !(ip->frag_off & IPV4_DONT_FRAGMENT);
	p->ttl = ip->ttl;
	p->ecn = ip->tos & 3;
	key->ends.src = ip->saddr;
	key->ends.dst = ip->daddr;
	return p->len <= room && read_transport(p, ip + 1, end, sizeof(*ip), &key->ports);
}

static __always_inline int read6(struct packet *p, const void *l3, const void *end, __u32 room, struct key6 *key)
{
	const struct ipv6hdr *ip = l3;
	const __u64 *words = l3;

	if ((void *)(ip + 1) > end || ip->version != 6)
		return 0;
	if (ip->nexthdr != IPPROTO_TCP && ip->nexthdr != IPPROTO_UDP)
		return 0;
	p->is6 = 1;
	p->is_udp = ip->nexthdr == IPPROTO_UDP;
	p->len = sizeof(*ip) + bpf_ntohs(ip->payload_len);
	p->id = 0;
	p->may_fragment = 0;
	p->ttl = ip->hop_limit;
	p->ecn = (((__u8 *)l3)[1] >> 4) & 3;
	key->ends.src[0] = words[1];
	key->ends.src[1] = words[2];
	key->ends.dst[0] = words[3];
	key->ends.dst[1] = words[4];
	return p->len <= room && read_transport(p, ip + 1, end, sizeof(*ip), &key->ports);
}

#endif
