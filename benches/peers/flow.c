/* SPDX-License-Identifier: Apache-2.0 */
/*
 * DPDK's rte_hash, with readers and writers that do not lock, as a peer of flowtable::flow.
 *
 *   flow-peer small|huge <EAL arguments>
 *
 * The first argument is the pages that DPDK's memory is on: those that --no-huge gives it, or transparent huge ones.
 *
 * Reads commands from stdin, one a line, and answers each with a line that begins with "= ":
 *
 *   table SLOTS FILE  a table of SLOTS slots with the keys of FILE; "= <CPU ns> <bytes of resident memory it took>"
 *   keys FILE         the keys to look up from now on; "= <how many>"
 *   batch N           look all of them up, N at a time; "= <CPU ns>"
 *   outputs FILE      write what was found for each, 32 bits: the place in the table's file, or all ones; "= 0"
 *   churn FILE        remove each of the keys of FILE and add it again; "= <CPU ns>"
 *
 * A key is 16 bytes. Files of keys are multiples of 64 keys. churn's keys begin with their place in the table's file.
 */
#include "peer.h"

#include <rte_hash.h>
#include <rte_memory.h>

#define BATCH 64

struct key {
	uint8_t bytes[16];
};
struct change {
	uint64_t place;
	struct key key;
};

static struct rte_hash *table;
static struct key *keys;
static size_t n_keys;

/*
 * Puts DPDK's memory on transparent huge pages, which the other contenders have too. With --no-huge it is
 * shared memory, which the system keeps on small pages: private memory takes its place.
 */
static int on_huge_pages(const struct rte_memseg_list *list, void *unused)
{
	(void)unused;
	const size_t page = 4096;
	static const char zeroes[4096];
	char *saved = NULL;
	size_t n = 0, *at = NULL;
	for (size_t i = 0; i < list->len / page; i++) {
		char *from = (char *)list->base_va + i * page;
		if (!memcmp(from, zeroes, page))
			continue;
		saved = realloc(saved, (n + 1) * page);
		at = realloc(at, (n + 1) * sizeof *at);
		if (!saved || !at)
			die("realloc");
		memcpy(saved + n * page, from, page);
		at[n++] = i;
	}
	if (mmap(list->base_va, list->len, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0) != list->base_va)
		die("mmap");
	if (madvise(list->base_va, list->len, MADV_HUGEPAGE))
		perror("flow-peer: no huge pages");
	for (size_t i = 0; i < n; i++)
		memcpy((char *)list->base_va + at[i] * page, saved + i * page, page);
	free(saved);
	free(at);
	return 0;
}

static void build(uint32_t slots, const char *path)
{
	size_t n;
	struct key *of_table = read_file(path, sizeof *of_table, &n);
	uint64_t before = resident();
	uint64_t start = cpu_ns();
	/* The hash function is left to the library: CRC32C in hardware. */
	struct rte_hash_parameters parameters = {
		.name = "flows",
		.entries = slots,
		.key_len = sizeof(struct key),
		.socket_id = SOCKET_ID_ANY,
		.extra_flag = RTE_HASH_EXTRA_FLAGS_RW_CONCURRENCY_LF,
	};
	table = rte_hash_create(&parameters);
	if (!table)
		die("rte_hash_create");
	for (size_t i = 0; i < n; i++)
		if (rte_hash_add_key_data(table, &of_table[i], (void *)(uintptr_t)i))
			die("rte_hash_add_key_data");
	uint64_t ns = cpu_ns() - start;
	free(of_table);
	printf("= %" PRIu64 " %" PRIu64 "\n", ns, resident() - before);
}

static inline __attribute__((always_inline)) uint64_t lookup(size_t i, unsigned n, void **data)
{
	const void *pointers[BATCH];
	uint64_t hits = 0;
	for (unsigned at = 0; at < n; at++)
		pointers[at] = &keys[i + at];
	if (n == 1)
		hits = rte_hash_lookup_data(table, pointers[0], data) >= 0;
	else
		rte_hash_lookup_bulk_data(table, pointers, n, &hits, data);
	return hits;
}

static inline __attribute__((always_inline)) uint64_t run(unsigned n)
{
	void *data[BATCH];
	uint64_t start = cpu_ns();
	for (size_t i = 0; i + n <= n_keys; i += n) {
		uint64_t hits = lookup(i, n, data);
		used(&hits);
		used(data);
	}
	return cpu_ns() - start;
}

static void outputs(const char *path)
{
	FILE *f = fopen(path, "wb");
	if (!f)
		die(path);
	for (size_t i = 0; i + BATCH <= n_keys; i += BATCH) {
		void *data[BATCH];
		uint32_t places[BATCH];
		uint64_t hits = lookup(i, BATCH, data);
		for (unsigned at = 0; at < BATCH; at++)
			places[at] = hits >> at & 1 ? (uint32_t)(uintptr_t)data[at] : UINT32_MAX;
		fwrite(places, sizeof places, 1, f);
	}
	fclose(f);
	printf("= 0\n");
}

static void churn(const char *path)
{
	size_t n;
	struct change *changes = read_file(path, sizeof *changes, &n);
	uint64_t start = cpu_ns();
	for (size_t i = 0; i < n; i += 2) {
		/* Both directions of a connection, as ours. */
		for (size_t at = i; at < i + 2; at++) {
			int32_t position = rte_hash_del_key(table, &changes[at].key);
			if (position < 0 || rte_hash_free_key_with_position(table, position))
				die("rte_hash_del_key");
		}
		for (size_t at = i; at < i + 2; at++)
			if (rte_hash_add_key_data(table, &changes[at].key, (void *)(uintptr_t)changes[at].place))
				die("rte_hash_add_key_data");
	}
	uint64_t ns = cpu_ns() - start;
	free(changes);
	printf("= %" PRIu64 "\n", ns);
}

int main(int argc, char **argv)
{
	int is_huge = argc > 1 && !strcmp(argv[1], "huge");
	if (argc < 2 || (!is_huge && strcmp(argv[1], "small"))) {
		fprintf(stderr, "usage: flow-peer small|huge <EAL arguments>\n");
		return 2;
	}
	argv[1] = argv[0];
	if (rte_eal_init(argc - 1, argv + 1) < 0)
		die("EAL");
	if (is_huge && rte_memseg_list_walk(on_huge_pages, NULL))
		die("memory");
	setvbuf(stdout, NULL, _IOLBF, 0);
	printf("= ready\n");

	char line[4096];
	while (fgets(line, sizeof line, stdin)) {
		line[strcspn(line, "\n")] = 0;
		char *arg = strchr(line, ' ');
		if (arg)
			*arg++ = 0;
		char *file = arg ? strchr(arg, ' ') : NULL;
		if (!strcmp(line, "table") && file) {
			build((uint32_t)strtoul(arg, NULL, 10), file + 1);
		} else if (!strcmp(line, "keys") && arg) {
			free(keys);
			keys = read_file(arg, sizeof *keys, &n_keys);
			printf("= %zu\n", n_keys);
		} else if (!strcmp(line, "batch") && arg) {
			unsigned long n = strtoul(arg, NULL, 10);
			/* The size is known to the compiler in each of the loops. */
			printf("= %" PRIu64 "\n", n == 1 ? run(1) : n == 32 ? run(32) : run(BATCH));
		} else if (!strcmp(line, "outputs") && arg) {
			outputs(arg);
		} else if (!strcmp(line, "churn") && arg) {
			churn(arg);
		} else {
			fprintf(stderr, "flow-peer: what is %s?\n", line);
			return 2;
		}
	}
	return 0;
}
