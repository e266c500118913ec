// SPDX-License-Identifier: Apache-2.0
/*
 * The NIC's program: everything goes to the kernel, except what the maps say is ours.
 *
 *   to a pod        destination in pods4 / pods6, fragments and all
 *   VXLAN to us     UDP to the VXLAN port of an address in local4 / local6
 *   IPIP to us      protocol 4 to an address in local4
 *   from a pod      source in pods4 / pods6, destination in local4 / local6
 *
 * It errs towards the kernel: whatever is short, malformed, VLAN-tagged, sent to a group MAC or not
 * IP passes, and so does all of it while no socket is bound to the queue.
 *
 * Left to the kernel on purpose:
 * - Later fragments of an outer VXLAN datagram. They carry no port, so nothing tells them from other UDP.
 *   The first fragment comes to us and is dropped and counted there: a VTEP must not fragment
 *   (RFC 7348 section 4.3).
 * - IPv6 VXLAN behind an extension header. Nobody sends that; walking the chain costs every packet.
 */
#include "caracal.h"

#define IPV4_OFFSET_MASK bpf_htons(0x1fff)

enum class {
	PASSED,
	TO_POD,
	VXLAN,
	IPIP,
	FROM_POD,
	NO_SOCKET,
	CLASSES,
};

COUNTERS(CLASSES);

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

/* By receive queue. */
struct {
	__uint(type, BPF_MAP_TYPE_XSKMAP);
	__uint(max_entries, 256);
	__type(key, __u32);
	__type(value, __u32);
} xsks SEC(".maps");

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
		if (is_pod4(&ip->saddr))
			return FROM_POD;
	}
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
		if (is_pod6(&ip->saddr))
			return FROM_POD;
	}
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

SEC("xdp")
int caracal_nic(struct xdp_md *ctx)
{
	const enum class class = classify((void *)(long)ctx->data, (void *)(long)ctx->data_end);
	int verdict;

	if (class == PASSED) {
		COUNT(PASSED);
		return XDP_PASS;
	}
	verdict = bpf_redirect_map(&xsks, ctx->rx_queue_index, XDP_PASS);
	COUNT(verdict == XDP_REDIRECT ? class : NO_SOCKET);
	return verdict;
}

/* No helper used here is for GPL programs only. */
char LICENSE[] SEC("license") = "Apache-2.0";
