/*
 * Small language helpers that every file uses: scoped clean-up, must-check results, sizes.
 *
 * CLEANUP(fn) runs fn(&variable) when the variable goes out of scope; STEAL(p) hands the value on and
 * leaves NULL behind (STEAL_FD leaves -1).  Release functions take a pointer to the variable, accept
 * NULL and half-built objects, and are made from ordinary free functions by LM_DEFINE_CLEANUP.
 */
#ifndef LM_BASE_MACROS_H
#define LM_BASE_MACROS_H

#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <unistd.h>

#define CLEANUP(fn) __attribute__((cleanup(fn)))
#define MUST_CHECK __attribute__((warn_unused_result))
#define PRINTF_LIKE(fmt, args) __attribute__((format(printf, fmt, args)))

#define ARRAY_LEN(a) (sizeof(a) / sizeof((a)[0]))
#define LM_MIN(a, b) ((a) < (b) ? (a) : (b))
#define LM_MAX(a, b) ((a) > (b) ? (a) : (b))

#define STEAL(p)                             \
	({                                   \
		__typeof__(p) stolen_ = (p); \
		(p) = NULL;                  \
		stolen_;                     \
	})
#define STEAL_FD(fd)                   \
	({                             \
		int stolen_fd_ = (fd); \
		(fd) = -1;             \
		stolen_fd_;            \
	})

/* Defines lm_xxx_freep(T **) from a function that frees T *. */
#define LM_DEFINE_CLEANUP(type, free_fn, name) \
	static inline void name(type **p_)     \
	{                                      \
		free_fn(*p_);                  \
		*p_ = NULL;                    \
	}

/* For CLEANUP on anything that malloc() made. */
static inline void lm_freep(void *p)
{
	free(*(void **)p);
}

/* For CLEANUP on a file descriptor; -1 is "none". */
static inline void lm_closep(int *fd)
{
	if (*fd >= 0)
		close(*fd);
	*fd = -1;
}

#endif
