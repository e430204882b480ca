/* The input as a named file, written anew for each one: SQLite opens by name. */
#ifndef LM_TESTS_FUZZ_FILE_H
#define LM_TESTS_FUZZ_FILE_H

#include <stdint.h>
#include <stdlib.h>
#include <unistd.h>

static char fuzz_file[] = "/tmp/lamella-fuzz-XXXXXX";

static void fuzz_file_remove(void)
{
	unlink(fuzz_file);
}

static inline void fuzz_file_write(const uint8_t *data, size_t size)
{
	static int fd = -1;
	if (fd < 0) {
		fd = mkstemp(fuzz_file);
		if (fd < 0 || atexit(fuzz_file_remove) != 0)
			abort();
	}
	if (ftruncate(fd, 0) < 0 || pwrite(fd, data, size, 0) != (ssize_t)size)
		abort();
}

#endif
