/* SPDX-License-Identifier: Apache-2.0 */
/*
 * DPDK's rte_acl as a peer of flowtable::acl.
 *
 *   acl-peer avx512x32|avx512x16|avx2 <EAL arguments>
 *
 * Reads commands from stdin, one a line, and answers each with a line that begins with "= ":
 *
 *   rules FILE     build the context; "= <CPU ns> <bytes of resident memory it took>"
 *   packets FILE   the packets to classify from now on; "= <how many>"
 *   batch          classify all of them, 64 at a time; "= <CPU ns>"
 *   outputs FILE   write the number of the rule of each, 32 bits, 0 for none; "= 0"
 *
 * A rule is eight 32-bit words: source, its prefix length, destination, its prefix length, source ports
 * (first in the low half, last in the high half), destination ports, protocol, protocol mask. The first
 * rule has the highest priority and is number 1. A packet is 16 bytes in network order: protocol and
 * three bytes of nothing, source, destination, source port, destination port.
 */
#include "peer.h"

#include <rte_acl.h>

#define BATCH 64
#define FIELDS 5

RTE_ACL_RULE_DEF(five_tuple, FIELDS);

struct rule {
	uint32_t src, src_len, dst, dst_len, src_ports, dst_ports, proto, proto_mask;
};

static const struct rte_acl_field_def defs[FIELDS] = {
	{ RTE_ACL_FIELD_TYPE_BITMASK, 1, 0, 0, 0 },
	{ RTE_ACL_FIELD_TYPE_MASK, 4, 1, 1, 4 },
	{ RTE_ACL_FIELD_TYPE_MASK, 4, 2, 2, 8 },
	{ RTE_ACL_FIELD_TYPE_RANGE, 2, 3, 3, 12 },
	{ RTE_ACL_FIELD_TYPE_RANGE, 2, 4, 3, 14 },
};

static struct rte_acl_ctx *ctx;
static uint8_t *packets;
static const uint8_t **pointers;
static size_t n_packets;

static void build(const char *path, enum rte_acl_classify_alg alg)
{
	size_t n = 0;
	struct rule *rules = read_file(path, sizeof *rules, &n);
	uint64_t before = resident(), start = cpu_ns();
	struct rte_acl_param param = {
		.name = "peer", .socket_id = SOCKET_ID_ANY,
		.rule_size = RTE_ACL_RULE_SZ(FIELDS), .max_rule_num = (uint32_t)n,
	};
	ctx = rte_acl_create(&param);
	if (!ctx)
		die("create");
	for (size_t i = 0; i < n; i++) {
		const struct rule *r = &rules[i];
		struct five_tuple it = {
			.data = { .category_mask = 1, .priority = (int32_t)(n - i), .userdata = (uint32_t)i + 1 },
		};
		it.field[0].value.u8 = (uint8_t)r->proto;
		it.field[0].mask_range.u8 = (uint8_t)r->proto_mask;
		it.field[1].value.u32 = r->src;
		it.field[1].mask_range.u32 = r->src_len;
		it.field[2].value.u32 = r->dst;
		it.field[2].mask_range.u32 = r->dst_len;
		it.field[3].value.u16 = (uint16_t)r->src_ports;
		it.field[3].mask_range.u16 = (uint16_t)(r->src_ports >> 16);
		it.field[4].value.u16 = (uint16_t)r->dst_ports;
		it.field[4].mask_range.u16 = (uint16_t)(r->dst_ports >> 16);
		if (rte_acl_add_rules(ctx, (struct rte_acl_rule *)&it, 1))
			die("add");
	}
	struct rte_acl_config config = { .num_categories = 1, .num_fields = FIELDS };
	memcpy(config.defs, defs, sizeof defs);
	if (rte_acl_build(ctx, &config))
		die("build");
	if (rte_acl_set_ctx_classify(ctx, alg))
		die("this processor or DPDK cannot classify that way");
	printf("= %" PRIu64 " %" PRIu64 "\n", cpu_ns() - start, resident() - before);
	free(rules);
}

static void load(const char *path)
{
	free(packets);
	free(pointers);
	packets = read_file(path, 16, &n_packets);
	pointers = malloc(n_packets * sizeof *pointers);
	if (!pointers)
		die("memory");
	for (size_t i = 0; i < n_packets; i++)
		pointers[i] = packets + 16 * i;
	printf("= %zu\n", n_packets);
}

static uint64_t run(FILE *out)
{
	uint32_t found[BATCH] __attribute__((aligned(64)));
	uint64_t start = cpu_ns();
	for (size_t i = 0; i + BATCH <= n_packets; i += BATCH) {
		rte_acl_classify(ctx, pointers + i, found, BATCH, 1);
		__asm__ volatile("" : : "r"(found) : "memory");
		if (out)
			fwrite(found, sizeof found, 1, out);
	}
	return cpu_ns() - start;
}

int main(int argc, char **argv)
{
	enum rte_acl_classify_alg alg = RTE_ACL_CLASSIFY_DEFAULT;
	if (argc > 1 && !strcmp(argv[1], "avx512x32"))
		alg = RTE_ACL_CLASSIFY_AVX512X32;
	else if (argc > 1 && !strcmp(argv[1], "avx512x16"))
		alg = RTE_ACL_CLASSIFY_AVX512X16;
	else if (argc > 1 && !strcmp(argv[1], "avx2"))
		alg = RTE_ACL_CLASSIFY_AVX2;
	if (alg == RTE_ACL_CLASSIFY_DEFAULT) {
		fprintf(stderr, "usage: acl-peer avx512x32|avx512x16|avx2 <EAL arguments>\n");
		return 2;
	}
	argv[1] = argv[0];
	if (rte_eal_init(argc - 1, argv + 1) < 0)
		die("EAL");
	setvbuf(stdout, NULL, _IOLBF, 0);
	printf("= ready\n");

	char line[4096];
	while (fgets(line, sizeof line, stdin)) {
		line[strcspn(line, "\n")] = 0;
		char *arg = strchr(line, ' ');
		if (arg)
			*arg++ = 0;
		if (!strcmp(line, "rules") && arg) {
			build(arg, alg);
		} else if (!strcmp(line, "packets") && arg) {
			load(arg);
		} else if (!strcmp(line, "batch")) {
			printf("= %" PRIu64 "\n", run(NULL));
		} else if (!strcmp(line, "outputs") && arg) {
			FILE *f = fopen(arg, "wb");
			if (!f)
				die(arg);
			run(f);
			fclose(f);
			printf("= 0\n");
		} else {
			fprintf(stderr, "acl-peer: what is %s?\n", line);
			return 2;
		}
	}
	return 0;
}
