/* A configuration file. Whatever is accepted has a key that may be set, and a value and place of its own. */
#include "base/conf.h"

#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	CLEANUP(lm_conf_freep) struct lm_conf *conf = NULL;
	const struct lm_conf_entry *entry;
	struct lm_err err = LM_ERR_INIT;
	uint64_t number;
	bool flag;
	if (lm_conf_new(&conf, &err) < 0)
		return 0;
	if (lm_conf_parse(conf, "fuzz", (const char *)data, size, &err) < 0 && err.msg[0] == '\0')
		abort();
	for (size_t i = 0; (entry = lm_conf_at(conf, i)); i++) {
		if (lm_conf_get(conf, entry->key) != entry->value || strlen(entry->value) > (64 << 10) ||
			entry->line == 0)
			abort();
		(void)!lm_conf_u64(conf, entry->key, 0, UINT64_MAX, &number, &err);
		(void)!lm_conf_bool(conf, entry->key, false, &flag, &err);
		if (lm_conf_set(conf, entry->key, "v", "fuzz", &err) < 0)
			abort();
	}
	return 0;
}
