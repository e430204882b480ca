/*
 * bench-pages DIR...: how many bytes of the regular files below each DIR are in the page cache now, all together, and
 * of how many files: "BYTES FILES". Files are opened but not read; other file systems below are left out. Needs
 * cachestat(2), Linux 6.5.
 */
#include "base/macros.h"

#include <errno.h>
#include <fcntl.h>
#include <fts.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/syscall.h>

#ifndef SYS_cachestat
#define SYS_cachestat 451
#endif

struct range {		      /* struct cachestat_range */
	uint64_t offset, len; /* 0: to the end */
};
struct pages { /* struct cachestat */
	uint64_t cached, dirty, writeback, evicted, recently_evicted;
};

static int count_file(const char *path, uint64_t *pages, uint64_t *files)
{
	CLEANUP(lm_closep) int fd = open(path, O_RDONLY | O_CLOEXEC | O_NOFOLLOW);
	struct range all = {0, 0};
	struct pages now;
	if (fd < 0 || syscall(SYS_cachestat, fd, &all, &now, 0) < 0) {
		fprintf(stderr, "bench-pages: %s: %s\n", path, strerror(errno));
		return -1;
	}
	*pages += now.cached;
	*files += now.cached > 0;
	return 0;
}

int main(int argc, char **argv)
{
	uint64_t pages = 0, files = 0;
	if (argc < 2) {
		fputs("usage: bench-pages DIR...\n", stderr);
		return 2;
	}
	FTS *fts = fts_open(argv + 1, FTS_PHYSICAL | FTS_NOCHDIR | FTS_XDEV, NULL);
	int r = fts ? 0 : -1;
	for (FTSENT *entry; r == 0 && (entry = fts_read(fts));)
		if (entry->fts_info == FTS_F && S_ISREG(entry->fts_statp->st_mode))
			r = count_file(entry->fts_path, &pages, &files);
	if (fts)
		fts_close(fts);
	printf("%llu %llu\n", (unsigned long long)pages * (unsigned long long)sysconf(_SC_PAGESIZE),
		(unsigned long long)files);
	return r == 0 ? 0 : 1;
}
