/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The flows that are treated here, and what is counted of them. The loader writes and reads these bytes
 * (control/src/xdp/flow_bytes.rs): a change here is a change there.
 */
#ifndef CARACAL_FLOW_H
#define CARACAL_FLOW_H

#include "caracal.h"

/* Of a key's `from`: UDP instead of TCP; out of a tunnel, whatever device it came by. The rest is the device's index. */
#define FROM_UDP (1u << 30)
#define FROM_TUNNEL (1u << 31)

struct ends4 {
	__be32 src;
	__be32 dst;
};

struct ends6 {
	__u64 src[2];
	__u64 dst[2];
};

struct key4 {
	struct ends4 ends;
	/* Source and destination port, as they lie in the packet. */
	__be32 ports;
	__u32 from;
};

struct key6 {
	struct ends6 ends;
	__be32 ports;
	__u32 from;
};

/* How packets leave. */
enum {
	WAY_POD,
	WAY_UPLINK,
};

/* What is in front of the IP packet then. */
enum {
	KIND_ETHERNET,
	KIND_IPIP,
	KIND_VXLAN,
};

/* What of a flow is set. */
enum {
	HAS_MAC = 1,
	HAS_PEER = 2,
	IS_TRANSLATED = 4,
};

#define HEAD_LEN 64
/* Of `window`, beside the window: something was seen. Of `closing`: it is set. */
#define SEEN (1u << 16)
#define CLOSING (1ull << 56)

struct flow {
	/* What every packet needs, and what changes with every packet, come first. */

	/* `check4` or `check6` of the key. First of all, where the kernel's copy of a flow usually begins. */
	__u64 check;
	__u32 out;
	__u32 hash;
	/* The outer source, if HAS_PEER. */
	__be32 peer;
	__u16 mtu;
	__u8 way;
	__u8 kind;
	/* The frame's source, if HAS_MAC. */
	__u8 mac[6];
	__u8 set;
	/* Set with `closing`, behind it. */
	__u8 is_closing;
	/* Of TCP: the largest window, and SEEN. */
	__u32 window;
	/* Folded sum of the outer IPv4 header as it is in `head`, in host order. */
	__u16 base_sum;
	__u16 unused;
	__u64 packets;
	__u64 bytes;
	/* Of TCP's latest segment: acknowledgement, and the sequence number after it in the upper half. */
	__u64 seen;

	/* What is put in front, with zeros in what is patched. */
	__u64 head[HEAD_LEN / 8];
	/* What addresses and ports become, if IS_TRANSLATED; of IPv4 in the first 8 bytes. */
	union {
		struct ends4 to4;
		struct ends6 to6;
	};
	__be32 to_ports;
	/* The number by which the loader knows it. */
	__u32 mark;
	/* TCP's first SYN, FIN or RST: payload's bytes, window << 32, flags << 48, CLOSING. */
	__u64 closing;
	/* Its sequence number, and its acknowledgement in the upper half. Written before `closing`. */
	__u64 closing_at;
	/*
	 * As `check`. Last of all, since the kernel's copy of a flow may as well begin at its end. Up to here a flow of IPv4 is 256 bytes of the
	 * kernel's table, with its key and what the kernel has in front: each has cache lines of its own.
	 */
	__u64 check_again;
};

/*
 * Whose flow it is, in one word. The kernel gives the memory of a flow that is removed to the next one at once, and who found it a moment
 * before reads on. What was read is that flow's alone if the word is still right at the end, at both its places.
 */
static __always_inline __u64 check4(const struct key4 *key)
{
	return (key->ends.src | (__u64)key->ends.dst << 32) +
	       (key->ports | (__u64)key->from << 32) * 0x9e3779b97f4a7c15ull;
}

static __always_inline __u64 check6(const struct key6 *key)
{
	return key->ends.src[0] + key->ends.src[1] * 0xbf58476d1ce4e5b9ull + key->ends.dst[0] * 0x94d049bb133111ebull +
	       key->ends.dst[1] * 0xd6e8feb86659fd93ull + (key->ports | (__u64)key->from << 32) * 0x9e3779b97f4a7c15ull;
}

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 1024);
	__type(key, struct key4);
	__type(value, struct flow);
} flows4 SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 1024);
	__type(key, struct key6);
	__type(value, struct flow);
} flows6 SEC(".maps");

/* What the control thread may change while packets go on. */
struct config {
	/* The device that leads to the pollers; 0: there is none. */
	__u32 punt;
	/* All goes to the pollers, flows or not. */
	__u32 is_paused;
	/* IPIP is taken out of its tunnel here, and VXLAN. */
	__u32 takes_ipip;
	__u32 takes_vxlan;
	/* Our end of VXLAN: the network's identifier as it lies in the header, the MAC address. */
	__be32 vni;
	__u8 mac[6];
	__u8 unused[2];
	/* Where our tunnels end: of the addresses in local4 this one. 0: nothing is taken out of a tunnel here. */
	__be32 tunnel;
};

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct config);
} config SEC(".maps");

#endif
