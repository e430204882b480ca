#include "base/str.h"
#include "oci/image.h"

#include <stdio.h>
#include <string.h>
#include <strings.h>

/* The form that containerd compares; variant "" is the usual one of the architecture. */
struct normal {
	const char *architecture;
	char variant[16];
};

static void set_variant(struct normal *n, const char *variant)
{
	/* "7" and "v7" are the same. */
	snprintf(n->variant, sizeof(n->variant), "%s%s", *variant >= '0' && *variant <= '9' ? "v" : "", variant);
}

static struct normal normalize(const struct lm_platform *p)
{
	static const struct {
		const char *alias, *architecture, *variant; /* variant NULL: as said */
	} aliases[] = {
		{"i386", "386", ""},
		{"x86_64", "amd64", NULL},
		{"x86-64", "amd64", NULL},
		{"aarch64", "arm64", NULL},
		{"armhf", "arm", "v7"},
		{"armel", "arm", "v6"},
	};
	struct normal n = {.architecture = p->architecture};
	set_variant(&n, p->variant ? p->variant : "");
	for (size_t i = 0; i < ARRAY_LEN(aliases); i++)
		if (strcasecmp(aliases[i].alias, p->architecture) == 0) {
			n.architecture = aliases[i].architecture;
			if (aliases[i].variant)
				set_variant(&n, aliases[i].variant);
		}
	if (strcasecmp(n.architecture, "arm") == 0 && !n.variant[0])
		set_variant(&n, "v7");
	if ((strcasecmp(n.architecture, "arm64") == 0 && strcmp(n.variant, "v8") == 0) ||
		(strcasecmp(n.architecture, "amd64") == 0 && strcmp(n.variant, "v1") == 0))
		n.variant[0] = '\0';
	return n;
}

/* The number of "vN"; none: the usual one; 0: it is no such thing. */
static unsigned version(const struct normal *n, unsigned usual)
{
	uint64_t number = 0;
	if (!n->variant[0])
		return usual;
	if (n->variant[0] != 'v' || lm_str_u64(n->variant + 1, strlen(n->variant + 1), &number) < 0 || number > 1000)
		return 0;
	return (unsigned)number;
}

/* How many versions lower the offer is: -1 not between lowest and wanted. */
static int below(unsigned wanted, unsigned offered, unsigned lowest)
{
	return offered && wanted >= offered && offered >= lowest ? (int)(wanted - offered) : -1;
}

static int rank(const struct normal *wanted, const struct normal *offered)
{
	bool same = strcasecmp(wanted->architecture, offered->architecture) == 0;
	if (same && strcasecmp(wanted->variant, offered->variant) == 0)
		return 0;
	if (strcasecmp(wanted->architecture, "amd64") == 0) {
		if (same)
			return below(version(wanted, 1), version(offered, 1), 1);
		return strcasecmp(offered->architecture, "386") == 0 ? 2000 : -1;
	}
	if (strcasecmp(wanted->architecture, "arm") == 0)
		return same ? below(version(wanted, 7), version(offered, 7), 5) : -1;
	if (strcasecmp(wanted->architecture, "arm64") == 0) {
		if (same)
			return below(version(wanted, 8), version(offered, 8), 8);
		if (strcasecmp(offered->architecture, "arm") != 0)
			return -1;
		int further = below(LM_MIN(version(wanted, 8), 8u), version(offered, 7), 5);
		return further < 0 ? -1 : 2000 + further;
	}
	return -1;
}

int lm_platform_rank(const struct lm_platform *wanted, const struct lm_platform *offered)
{
	if (strcasecmp(wanted->os, offered->os) != 0)
		return -1;
	struct normal w = normalize(wanted), o = normalize(offered);
	return rank(&w, &o);
}
