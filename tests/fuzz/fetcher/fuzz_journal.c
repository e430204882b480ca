/* A journal whose memory a crash wrote over: input is the offset of a page and its content, several times. */
#include "fetcher/journal.h"

#include <linux/fuse.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

enum { RECORD = 64 };

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	CLEANUP(lm_closep) int fd = lm_journal_create(NULL);
	CLEANUP(lm_journal_freep) struct lm_journal *journal = NULL;
	if (fd < 0)
		return 0;
	for (; size > RECORD + 2; data += RECORD + 2, size -= RECORD + 2) {
		off_t offset = (data[0] | data[1] << 8) * (off_t)RECORD;
		if (pwrite(fd, data + 2, RECORD, offset) < 0)
			return 0;
	}
	if (lm_journal_open(fd, 2, &journal, NULL) < 0)
		return 0;
	lm_journal_recover(journal, 1);
	int slot, handed_out = 0;
	while ((slot = lm_journal_left(journal)) >= 0) {
		const struct fuse_in_header *request = lm_journal_buffer(journal, slot);
		if (++handed_out > LM_JOURNAL_SLOTS || request->unique <= 1)
			abort();
		if (lm_journal_deaths(journal, slot) < LM_JOURNAL_DEATHS_MAX && request->len > LM_JOURNAL_SLOT_BYTES)
			abort();
		(void)lm_journal_was_interrupted(journal, slot);
	}
	size_t len;
	if (lm_journal_init(journal, &len) && len > LM_JOURNAL_INIT_MAX)
		abort();
	return 0;
}
