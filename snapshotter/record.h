/*
 * What the directory of a snapshot says of it, so that a store that was lost can be made again (rebuild.h): all that
 * the store's own row says, as text. layout.h has it kept.
 *
 * A record is a row of strings, each ended by NUL: "lamella snapshot 1", id, plugin, key, kind, the parent's id (0:
 * none), times of making and of the last change, bytes, inodes, digest, path and chain id of a remote layer (empty: it
 * is none), then label after label, key and value, and a CRC-32 of all before it in hexadecimal digits. Numbers are
 * decimal.
 */
#ifndef LM_SNAPSHOTTER_RECORD_H
#define LM_SNAPSHOTTER_RECORD_H

#include "base/buf.h"
#include "snapshotter/store.h"

/* What a message to us can hold (16 MiB), and labels at their worst: one byte each, with their ends. */
#define LM_RECORD_MAX_BYTES (24 << 20)

/* Appends the record of the snapshot, whose labels are given apart (for one that is not in the store yet). -EMSGSIZE.
 */
int lm_record_format(const struct lm_snapshot *snapshot, const struct lm_labels *labels, struct lm_buf *ret,
	struct lm_err *err) MUST_CHECK;

struct lm_record {
	struct lm_snapshot snapshot; /* of it neither parent nor references */
	int64_t parent;
};

/* -EPROTO: damaged, or of a later version. */
int lm_record_parse(const void *data, size_t len, struct lm_record *ret, struct lm_err *err) MUST_CHECK;
void lm_record_done(struct lm_record *record);

#endif
