/* Shared by conf.c (values) and conf_parse.c (the language). */
#ifndef LM_BASE_CONF_INTERNAL_H
#define LM_BASE_CONF_INTERNAL_H

#include "base/buf.h"
#include "base/conf.h"

enum {
	LM_CONF_FILE_MAX = 1 << 20,
	LM_CONF_VALUE_MAX = 64 << 10,
	LM_CONF_KEY_MAX = 256,
	LM_CONF_TEMPLATES_MAX = 4,
};

struct lm_conf_template {
	char *mark, *text; /* "@NAME@" */
};

struct lm_conf {
	struct lm_conf_entry *entries; /* all strings owned */
	size_t count, cap;
	unsigned sources; /* read so far */
	unsigned depth;	  /* files that are being read: one that reads another */
	struct lm_conf_template templates[LM_CONF_TEMPLATES_MAX];
	size_t template_count;
};

/* How many bytes of at are a key; 0: none. */
size_t lm_conf_key_length(const char *at, const char *end);

struct lm_conf_entry *lm_conf_find(const struct lm_conf *conf, const char *key, size_t len);
int lm_conf_set_entry(struct lm_conf *conf, const char *key, size_t key_len, const char *value, const char *file,
	unsigned line, struct lm_err *err) MUST_CHECK;

#endif
