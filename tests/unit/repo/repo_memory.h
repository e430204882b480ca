/*
 * Allocations that fail when a test says so. In one file of a program, before anything else that allocates; not under
 * sanitizers, which own malloc: MEMORY_TESTED is then 0.
 */
#ifndef LM_TESTS_REPO_MEMORY_H
#define LM_TESTS_REPO_MEMORY_H

#include "repo_sanitizer.h"

#include <errno.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdlib.h>

#if SANITIZED
#define MEMORY_TESTED 0
#else
#define MEMORY_TESTED 1

/* Single-threaded: this counts in plain variables. */
static long allocations_left = -1; /* negative: as many as are asked for */
static bool failed;

void *__libc_malloc(size_t size);
void *__libc_calloc(size_t count, size_t size);
void *__libc_realloc(void *p, size_t size);

static bool fail_now(void)
{
	if (allocations_left < 0 || allocations_left-- > 0)
		return false;
	allocations_left = -1; /* one only: code that goes on is tried, too */
	failed = true;
	errno = ENOMEM;
	return true;
}

void *malloc(size_t size)
{
	return fail_now() ? NULL : __libc_malloc(size);
}

void *calloc(size_t count, size_t size)
{
	return fail_now() ? NULL : __libc_calloc(count, size);
}

void *realloc(void *p, size_t size)
{
	return fail_now() ? NULL : __libc_realloc(p, size);
}

#endif
#endif
