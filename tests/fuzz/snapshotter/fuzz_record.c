/* A record is what a damaged disk says: it is refused, or comes out again as it went in. */
#include "snapshotter/record.h"

#include <stdio.h>
#include <string.h>
#include <zlib.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void try(const void *data, size_t size)
{
	struct lm_record record;
	CLEANUP(lm_buf_done) struct lm_buf again = LM_BUF(LM_RECORD_MAX_BYTES);
	if (lm_record_parse(data, size, &record, NULL) < 0)
		return;
	struct lm_snapshot parent = {.id = record.parent};
	struct lm_snapshot snapshot = record.snapshot;
	struct lm_record second;
	snapshot.parent = record.parent ? &parent : NULL;
	if (lm_record_format(&snapshot, &snapshot.labels, &again, NULL) < 0 ||
		lm_record_parse(again.data, again.len, &second, NULL) < 0)
		abort();
	if (second.parent != record.parent || second.snapshot.id != snapshot.id ||
		strcmp(second.snapshot.key, snapshot.key) != 0 || second.snapshot.labels.count != snapshot.labels.count)
		abort();
	lm_record_done(&second);
	lm_record_done(&record);
}

/* Once as it is, once with the checksum it should have, so that there is something behind that. */
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	char sum[9];
	try(data, size);
	CLEANUP(lm_freep) char *summed = malloc(size + sizeof(sum));
	if (!summed)
		return 0;
	snprintf(sum, sizeof(sum), "%08lx", crc32_z(0, data, size));
	memcpy(summed, data, size);
	memcpy(summed + size, sum, sizeof(sum));
	try(summed, size + sizeof(sum));
	return 0;
}
