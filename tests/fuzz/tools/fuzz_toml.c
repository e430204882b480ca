/* What is read of TOML never leaves its bounds, and is read again alike. */
#include "doctor/containerd_config.h"
#include "doctor/toml.h"

#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

struct seen {
	size_t values, bytes;
};

static int look(void *arg, const struct lm_toml_value *v)
{
	struct seen *seen = arg;
	if (v->depth == 0 || v->depth > LM_TOML_DEPTH_MAX)
		abort();
	for (size_t i = 0; i < v->depth; i++)
		seen->bytes += strlen(v->path[i]);
	seen->values++;
	seen->bytes += strlen(v->text);
	return 0;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	CLEANUP(lm_containerd_config_done) struct lm_containerd_config config = {0};
	struct seen once = {0}, again = {0};
	struct lm_err err = LM_ERR_INIT;
	int r = lm_toml_read((const char *)data, size, look, &once, &err);
	if (r < 0 && (!err.code || !err.msg[0]))
		abort();
	if (lm_toml_read((const char *)data, size, look, &again, NULL) != r || once.values != again.values ||
		once.bytes != again.bytes)
		abort();
	if (lm_containerd_config_parse((const char *)data, size, &config, NULL) != r)
		abort();
	return 0;
}
