/* SPDX-License-Identifier: Apache-2.0 */
/* What the peers have in common: clock, memory, files. */
#pragma once
#define _GNU_SOURCE
#include <errno.h>
#include <inttypes.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>

#include <rte_eal.h>
#include <rte_errno.h>

static void die(const char *what)
{
	fprintf(stderr, "%s: %s: %s\n", program_invocation_short_name, what, rte_strerror(rte_errno));
	exit(1);
}

static uint64_t cpu_ns(void)
{
	struct timespec t;
	clock_gettime(CLOCK_THREAD_CPUTIME_ID, &t);
	return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
}

/* Bytes of memory that this process has now. */
static uint64_t resident(void)
{
	unsigned long size = 0, pages = 0;
	FILE *f = fopen("/proc/self/statm", "r");
	if (!f || fscanf(f, "%lu %lu", &size, &pages) != 2)
		die("/proc/self/statm");
	fclose(f);
	return (uint64_t)pages * (uint64_t)sysconf(_SC_PAGESIZE);
}

/* Keeps the compiler from leaving out a lookup whose result nobody reads. */
static inline void used(void *p)
{
	__asm__ volatile("" : : "r"(p) : "memory");
}

/* The records of `size` bytes in a file, and how many there are. */
static void *read_file(const char *path, size_t size, size_t *count)
{
	FILE *f = fopen(path, "rb");
	if (!f)
		die(path);
	fseek(f, 0, SEEK_END);
	long bytes = ftell(f);
	rewind(f);
	void *data = malloc((size_t)bytes);
	if (!data || fread(data, 1, (size_t)bytes, f) != (size_t)bytes)
		die(path);
	fclose(f);
	*count = (size_t)bytes / size;
	return data;
}
