/* SPDX-License-Identifier: Apache-2.0 */
/* What the NIC's and the endpoints' programs share. */
#ifndef CARACAL_H
#define CARACAL_H

#include <linux/bpf.h>
#include <linux/if_ether.h>
#include <linux/in.h>
#include <linux/ip.h>
#include <linux/ipv6.h>
#include <linux/udp.h>

#include <bpf/bpf_endian.h>
#include <bpf/bpf_helpers.h>

/* One counter a verdict; the loader mirrors the order (control/src/xdp/counters.rs). */
#define COUNTERS(n)                                      \
	struct {                                         \
		__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY); \
		__uint(max_entries, n);                  \
		__type(key, __u32);                      \
		__type(value, __u64);                    \
	} counters SEC(".maps")

#define COUNT(which)                                                     \
	do {                                                             \
		__u32 key_ = (which);                                    \
		__u64 *count_ = bpf_map_lookup_elem(&counters, &key_);   \
		if (count_)                                              \
			(*count_)++;                                     \
	} while (0)

#endif
