/* SPDX-License-Identifier: Apache-2.0 */
/*
 * DPDK's route tables as peers of flowtable::lpm.
 *
 *   lpm-peer fib4|fib4-huge|lpm4|fib6|fib6-huge <EAL arguments>
 *
 * "-huge" puts DPDK's memory into transparent huge pages: --no-huge gives it pages of 4 KiB, and hugetlbfs,
 * which it has in production, needs an administrator.
 *
 * Reads commands from stdin, one a line, and answers each with a line that begins with "= ":
 *
 *   routes FILE    build the table; "= <CPU ns> <bytes of resident memory it took>"
 *   addrs FILE     the addresses to look up from now on; "= <how many>"
 *   batch          look all of them up, 64 at a time; "= <CPU ns>"
 *   single         look all of them up one by one; "= <CPU ns>"
 *   outputs FILE   write the next hop of each, 16 bits, 0 for none; "= 0"
 *   churn N        remove N of the routes and add them again; "= <CPU ns>"
 *
 * A route is 16 bytes of address in network order (4 used by IPv4), 16 bits of length, 16 bits of next hop.
 * An address is 32 bits in host order or 16 bytes in network order.
 */
#include "peer.h"

#include <rte_fib.h>
#include <rte_fib6.h>
#include <rte_lpm.h>
#include <rte_memory.h>

#define BATCH 64
/* What 16-bit entries can number, and enough for a routing table with few routes longer than /24. */
#define GROUPS 32767

struct route {
	uint8_t addr[16];
	uint16_t len;
	uint16_t hop;
};

static struct rte_fib *fib4;
static struct rte_lpm *lpm4;
static struct rte_fib6 *fib6;

static struct route *routes;
static size_t n_routes;
static void *addrs;
static size_t n_addrs;

struct table {
	const char *name;
	size_t addr_size;
	int (*create)(void);
	int (*add)(const struct route *);
	int (*del)(const struct route *);
	/* Look up n addresses from the i-th on; next hops into out, as the library gives them. */
	void (*batch)(size_t i, unsigned n, void *out);
	void (*single)(size_t i, void *out);
	uint16_t (*hop)(const void *out, unsigned at);
};

static uint32_t ip4(const struct route *r)
{
	return (uint32_t)r->addr[0] << 24 | (uint32_t)r->addr[1] << 16 | (uint32_t)r->addr[2] << 8 | r->addr[3];
}

static uint16_t hop64(const void *out, unsigned at)
{
	return (uint16_t)((const uint64_t *)out)[at];
}

/* rte_fib, DIR24_8 with 2-byte entries. */

static int fib4_create(void)
{
	struct rte_fib_conf conf = { .type = RTE_FIB_DIR24_8, .max_routes = (int)n_routes + 1024 };
	conf.dir24_8.nh_sz = RTE_FIB_DIR24_8_2B;
	conf.dir24_8.num_tbl8 = GROUPS;
	fib4 = rte_fib_create("fib4", SOCKET_ID_ANY, &conf);
	return !fib4 || rte_fib_select_lookup(fib4, RTE_FIB_LOOKUP_DIR24_8_VECTOR_AVX512);
}
static int fib4_add(const struct route *r) { return rte_fib_add(fib4, ip4(r), r->len, r->hop); }
static int fib4_del(const struct route *r) { return rte_fib_delete(fib4, ip4(r), r->len); }
static void fib4_batch(size_t i, unsigned n, void *out)
{
	rte_fib_lookup_bulk(fib4, (uint32_t *)addrs + i, out, (int)n);
}
static void fib4_single(size_t i, void *out) { fib4_batch(i, 1, out); }

/* rte_lpm. It knows no prefix of length 0, so that the default route is two of length 1. */

static int lpm4_create(void)
{
	struct rte_lpm_config conf = { .max_rules = (uint32_t)n_routes + 1024, .number_tbl8s = GROUPS };
	lpm4 = rte_lpm_create("lpm4", SOCKET_ID_ANY, &conf);
	return !lpm4;
}
static int lpm4_add(const struct route *r)
{
	if (r->len == 0)
		return rte_lpm_add(lpm4, 0, 1, r->hop) || rte_lpm_add(lpm4, 1u << 31, 1, r->hop);
	return rte_lpm_add(lpm4, ip4(r), (uint8_t)r->len, r->hop);
}
static int lpm4_del(const struct route *r)
{
	if (r->len == 0)
		return rte_lpm_delete(lpm4, 0, 1) || rte_lpm_delete(lpm4, 1u << 31, 1);
	return rte_lpm_delete(lpm4, ip4(r), (uint8_t)r->len);
}
static void lpm4_batch(size_t i, unsigned n, void *out)
{
	rte_lpm_lookup_bulk(lpm4, (const uint32_t *)addrs + i, (uint32_t *)out, n);
}
static void lpm4_single(size_t i, void *out)
{
	uint32_t hop = 0;
	int miss = rte_lpm_lookup(lpm4, ((const uint32_t *)addrs)[i], &hop);
	*(uint32_t *)out = miss ? 0 : hop | RTE_LPM_LOOKUP_SUCCESS;
}
static uint16_t lpm4_hop(const void *out, unsigned at)
{
	uint32_t hop = ((const uint32_t *)out)[at];
	return hop & RTE_LPM_LOOKUP_SUCCESS ? (uint16_t)hop : 0;
}

/* rte_fib6, a trie of 24 and then 8 bits a level, 4-byte entries. */

static int fib6_create(void)
{
	struct rte_fib6_conf conf = { .type = RTE_FIB6_TRIE, .max_routes = (int)n_routes + 1024 };
	conf.trie.nh_sz = RTE_FIB6_TRIE_4B;
	conf.trie.num_tbl8 = 1 << 19;
	fib6 = rte_fib6_create("fib6", SOCKET_ID_ANY, &conf);
	return !fib6 || rte_fib6_select_lookup(fib6, RTE_FIB6_LOOKUP_TRIE_VECTOR_AVX512);
}
static int fib6_add(const struct route *r) { return rte_fib6_add(fib6, r->addr, (uint8_t)r->len, r->hop); }
static int fib6_del(const struct route *r) { return rte_fib6_delete(fib6, r->addr, (uint8_t)r->len); }
static void fib6_batch(size_t i, unsigned n, void *out)
{
	rte_fib6_lookup_bulk(fib6, (uint8_t(*)[16])addrs + i, out, (int)n);
}
static void fib6_single(size_t i, void *out) { fib6_batch(i, 1, out); }

static const struct table tables[] = {
	{ "fib4", 4, fib4_create, fib4_add, fib4_del, fib4_batch, fib4_single, hop64 },
	{ "lpm4", 4, lpm4_create, lpm4_add, lpm4_del, lpm4_batch, lpm4_single, lpm4_hop },
	{ "fib6", 16, fib6_create, fib6_add, fib6_del, fib6_batch, fib6_single, hop64 },
};

/*
 * Replaces a range of DPDK's memory by anonymous memory in huge pages that says the same. Called before
 * there is a table, while nothing but the heap's own records is in there.
 */
static int make_huge(const struct rte_memseg_list *list, const struct rte_memseg *segment, size_t len, void *arg)
{
	(void)list;
	(void)arg;
	const size_t page = (size_t)sysconf(_SC_PAGESIZE);
	const size_t pages = len / page;
	uint8_t *start = segment->addr;
	unsigned char *there = malloc(pages);
	uint8_t *kept = malloc(len);
	if (!there || !kept || mincore(start, len, there))
		die("mincore");
	for (size_t i = 0; i < pages; i++)
		if (there[i] & 1)
			memcpy(kept + i * page, start + i * page, page);
	if (mmap(start, len, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0) == MAP_FAILED ||
	    madvise(start, len, MADV_HUGEPAGE))
		die("huge pages");
	for (size_t i = 0; i < pages; i++)
		if (there[i] & 1)
			memcpy(start + i * page, kept + i * page, page);
	free(kept);
	free(there);
	return 0;
}

static void build(const struct table *t, const char *path)
{
	routes = read_file(path, sizeof *routes, &n_routes);
	uint64_t before = resident();
	uint64_t start = cpu_ns();
	if (t->create())
		die("create");
	for (size_t i = 0; i < n_routes; i++)
		if (t->add(&routes[i]))
			die("add");
	uint64_t ns = cpu_ns() - start;
	printf("= %" PRIu64 " %" PRIu64 "\n", ns, resident() - before);
}

/* Inlined into one loop for each table, so that the calls are direct. */
static inline __attribute__((always_inline)) uint64_t run(const struct table *t, int single)
{
	uint64_t out[BATCH] __attribute__((aligned(64)));
	uint64_t start = cpu_ns();
	for (size_t i = 0; i + BATCH <= n_addrs; i += BATCH) {
		if (single) {
			for (unsigned at = 0; at < BATCH; at++) {
				t->single(i + at, out);
				used(out);
			}
		} else {
			t->batch(i, BATCH, out);
			used(out);
		}
	}
	return cpu_ns() - start;
}

static uint64_t run_table(const struct table *t, int single)
{
	if (t == &tables[0])
		return single ? run(&tables[0], 1) : run(&tables[0], 0);
	if (t == &tables[1])
		return single ? run(&tables[1], 1) : run(&tables[1], 0);
	return single ? run(&tables[2], 1) : run(&tables[2], 0);
}

static void outputs(const struct table *t, const char *path)
{
	uint64_t out[BATCH];
	FILE *f = fopen(path, "wb");
	if (!f)
		die(path);
	for (size_t i = 0; i + BATCH <= n_addrs; i += BATCH) {
		uint16_t hops[BATCH];
		t->batch(i, BATCH, out);
		for (unsigned at = 0; at < BATCH; at++)
			hops[at] = t->hop(out, at);
		fwrite(hops, sizeof hops, 1, f);
	}
	fclose(f);
	printf("= 0\n");
}

static void churn(const struct table *t, size_t n)
{
	if (n > n_routes)
		n = n_routes;
	size_t stride = n_routes / n;
	uint64_t start = cpu_ns();
	for (size_t i = 0; i < n; i++)
		if (t->del(&routes[i * stride]) || t->add(&routes[i * stride]))
			die("churn");
	printf("= %" PRIu64 "\n", cpu_ns() - start);
}

int main(int argc, char **argv)
{
	const struct table *t = NULL;
	char *huge = argc > 1 ? strstr(argv[1], "-huge") : NULL;
	if (huge)
		*huge = 0;
	for (size_t i = 0; argc > 1 && i < sizeof tables / sizeof *tables; i++)
		if (!strcmp(argv[1], tables[i].name))
			t = &tables[i];
	if (!t) {
		fprintf(stderr, "usage: lpm-peer fib4|fib4-huge|lpm4|fib6|fib6-huge <EAL arguments>\n");
		return 2;
	}
	argv[1] = argv[0];
	if (rte_eal_init(argc - 1, argv + 1) < 0)
		die("EAL");
	if (huge && rte_memseg_contig_walk(make_huge, NULL))
		die("huge pages");
	setvbuf(stdout, NULL, _IOLBF, 0);
	printf("= ready\n");

	char line[4096];
	while (fgets(line, sizeof line, stdin)) {
		line[strcspn(line, "\n")] = 0;
		char *arg = strchr(line, ' ');
		if (arg)
			*arg++ = 0;
		if (!strcmp(line, "routes") && arg) {
			build(t, arg);
		} else if (!strcmp(line, "addrs") && arg) {
			free(addrs);
			addrs = read_file(arg, t->addr_size, &n_addrs);
			printf("= %zu\n", n_addrs);
		} else if (!strcmp(line, "batch")) {
			printf("= %" PRIu64 "\n", run_table(t, 0));
		} else if (!strcmp(line, "single")) {
			printf("= %" PRIu64 "\n", run_table(t, 1));
		} else if (!strcmp(line, "outputs") && arg) {
			outputs(t, arg);
		} else if (!strcmp(line, "churn") && arg) {
			churn(t, strtoul(arg, NULL, 10));
		} else {
			fprintf(stderr, "lpm-peer: what is %s?\n", line);
			return 2;
		}
	}
	return 0;
}
