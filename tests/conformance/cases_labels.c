/* Labels, and finding snapshots by them. */
#include "conformance.h"

#include "base/buf.h"
#include "base/str.h"

#include <stdio.h>
#include <string.h>

#define REF "containerd.io/snapshot/conformance"

/* labels: key, value...; all of them and no others, but for the one that every snapshot has. */
static int check_labels(struct lab *lab, const V1(Info) * info, const char *const *labels)
{
	size_t count = info_label(info, GC_ROOT) != NULL;
	for (; *labels; labels += 2, count++) {
		const char *value = info_label(info, labels[0]);
		CHECK(lab, value && strcmp(value, labels[1]) == 0, "%s: label %s is %s, not %s", info->name, labels[0],
			value ? value : "missing", labels[1]);
	}
	CHECK(lab, info->n_labels == count, "%s: %zu labels, not %zu", info->name, info->n_labels, count);
	return 0;
}

static int check_labels_of(struct lab *lab, const char *key, const char *const *labels)
{
	CLEANUP(info_done) struct info info = {0};
	EXPECT(lab, LM_RPC_OK, remote_stat(&lab->remote, key, &info));
	return check_labels(lab, info.info, labels);
}

static int labels_are_kept(struct lab *lab)
{
	static const char *const plain[] = {"plain", "1", REF, "two words", "uml\xc3\xa4ut", "\xe2\x82\xac", NULL};
	EXPECT(lab, LM_RPC_OK,
		remote_make(&lab->remote, PREPARE, "a", "",
			LABELS("plain", "1", REF, "two words", "uml\xc3\xa4ut", "\xe2\x82\xac"), NULL));
	TRY(check_labels_of(lab, "a", plain));
	/* A commit's labels are its own. */
	EXPECT(lab, LM_RPC_OK, remote_commit(&lab->remote, "c", "a", LABELS("other", "x")));
	TRY(check_labels_of(lab, "c", TEXTS("other", "x")));
	EXPECT(lab, LM_RPC_OK, remote_make(&lab->remote, VIEW, "v", "c", LABELS(REF, "y"), NULL));
	TRY(check_labels_of(lab, "v", TEXTS(REF, "y")));
	return 0;
}

static int update_one(struct lab *lab, const char *key, V1(Kind) kind, const char *parent)
{
	CLEANUP(info_done) struct info all = {0}, some = {0}, again = {0}, none = {0};
	EXPECT(lab, LM_RPC_OK,
		remote_update(&lab->remote, key, "nothing", LABELS("l1", "v1", "l2", "v2", REF, "v3"), NULL, &all));
	TRY(check_labels(lab, all.info, TEXTS("l1", "v1", "l2", "v2", REF, "v3")));
	TRY(check_info(lab, key, kind, parent)); /* all but the labels is as it was */
	/* One changed, one not given, one not named. */
	EXPECT(lab, LM_RPC_OK,
		remote_update(&lab->remote, key, "", LABELS("l1", "new", "l4", "v4"), TEXTS("labels.l1", "labels.l2"),
			&some));
	TRY(check_labels(lab, some.info, TEXTS("l1", "new", REF, "v3")));
	TRY(check_labels_of(lab, key, TEXTS("l1", "new", REF, "v3")));
	/* Names with dots and slashes. */
	EXPECT(lab, LM_RPC_OK,
		remote_update(&lab->remote, key, "", TEXTS(REF, "changed"), TEXTS("labels." REF), &again));
	TRY(check_labels(lab, again.info, TEXTS("l1", "new", REF, "changed")));
	EXPECT(lab, LM_RPC_OK, remote_update(&lab->remote, key, "", LABELS("l4", "v4"), TEXTS("labels"), &none));
	TRY(check_labels(lab, none.info, TEXTS("l4", "v4")));
	EXPECT(lab, LM_RPC_INVALID_ARGUMENT,
		remote_update(&lab->remote, key, "nothing", ROOTED, TEXTS("parent"), NULL));
	EXPECT(lab, LM_RPC_INVALID_ARGUMENT,
		remote_update(&lab->remote, key, "", LABELS("l9", "x"), TEXTS("labels.l9", "kind"), NULL));
	EXPECT(lab, LM_RPC_INVALID_ARGUMENT, remote_update(&lab->remote, key, "", ROOTED, TEXTS("label"), NULL));
	return check_labels_of(lab, key, TEXTS("l4", "v4"));
}

static int update(struct lab *lab)
{
	TRY(committed(lab, "c1", ""));
	TRY(committed(lab, "c2", "c1"));
	EXPECT(lab, LM_RPC_OK, prepare(lab, "a1", "c2"));
	EXPECT(lab, LM_RPC_OK, prepare(lab, "a2", ""));
	EXPECT(lab, LM_RPC_OK, view(lab, "v1", "c2"));
	EXPECT(lab, LM_RPC_OK, view(lab, "v2", ""));
	TRY(update_one(lab, "c1", CONTAINERD__SERVICES__SNAPSHOTS__V1__KIND__COMMITTED, ""));
	TRY(update_one(lab, "c2", CONTAINERD__SERVICES__SNAPSHOTS__V1__KIND__COMMITTED, "c1"));
	TRY(update_one(lab, "a1", CONTAINERD__SERVICES__SNAPSHOTS__V1__KIND__ACTIVE, "c2"));
	TRY(update_one(lab, "a2", CONTAINERD__SERVICES__SNAPSHOTS__V1__KIND__ACTIVE, ""));
	TRY(update_one(lab, "v1", CONTAINERD__SERVICES__SNAPSHOTS__V1__KIND__VIEW, "c2"));
	return update_one(lab, "v2", CONTAINERD__SERVICES__SNAPSHOTS__V1__KIND__VIEW, "");
}

/* A label without a value is none, however it comes. */
static int empty_labels_vanish(struct lab *lab)
{
	EXPECT(lab, LM_RPC_OK, remote_make(&lab->remote, PREPARE, "a", "", LABELS(REF, "", "l", "x", "m", ""), NULL));
	TRY(check_labels_of(lab, "a", TEXTS("l", "x")));
	EXPECT(lab, LM_RPC_OK,
		remote_update(&lab->remote, "a", "", LABELS(REF, "", "l", ""), TEXTS("labels.l", "labels." REF), NULL));
	TRY(check_labels_of(lab, "a", TEXTS(NULL)));
	EXPECT(lab, LM_RPC_OK, remote_update(&lab->remote, "a", "", LABELS(REF, "", "l", "", "n", "y"), NULL, NULL));
	TRY(check_labels_of(lab, "a", TEXTS("n", "y")));
	EXPECT(lab, LM_RPC_OK, remote_commit(&lab->remote, "c", "a", LABELS(REF, "", "n", "", "o", "z")));
	return check_labels_of(lab, "c", TEXTS("o", "z"));
}

/* Names, a blank between them, of what a List of the filters has. */
static int check_found(struct lab *lab, const char *const *filters, const char *expected)
{
	CLEANUP(listing_done) struct listing listing = {0};
	CLEANUP(lm_buf_done) struct lm_buf rest = LM_BUF(1024);
	EXPECT(lab, LM_RPC_OK, remote_list(&lab->remote, filters, &listing));
	size_t count = 0;
	for (const char *name = expected; *name; count++) {
		size_t len = strcspn(name, " ");
		CLEANUP(lm_freep) char *one = lm_str_ndup(name, len);
		CHECK(lab, one && listing_find(&listing, one), "%s: %.*s is missing", filters ? filters[0] : "all",
			(int)len, name);
		name += len + (name[len] == ' ');
	}
	for (size_t i = 0; i < listing.count; i++)
		(void)!lm_buf_printf(&rest, " %s", listing.infos[i]->name);
	CHECK(lab, listing.count == count, "%s finds%s, should find %s", filters ? filters[0] : "all",
		lm_buf_cstr(&rest), expected);
	return 0;
}

static int make_listed(struct lab *lab)
{
	EXPECT(lab, LM_RPC_OK, prepare(lab, "a-np", ""));
	TRY(committed(lab, "p", ""));
	EXPECT(lab, LM_RPC_OK, prepare(lab, "a", "p"));
	EXPECT(lab, LM_RPC_OK, view(lab, "v", "p"));
	EXPECT(lab, LM_RPC_OK, prepare(lab, "p-wl-tmp", ""));
	EXPECT(lab, LM_RPC_OK, remote_commit(&lab->remote, "p-wl", "p-wl-tmp", LABELS("l", "1")));
	EXPECT(lab, LM_RPC_OK,
		remote_make(&lab->remote, PREPARE, "a-wl", "p-wl", LABELS("l", "2", "a.b/c", "with, \"comma\""), NULL));
	EXPECT(lab, LM_RPC_OK,
		remote_make(&lab->remote, VIEW, "v-wl", "p-wl", LABELS("l", "3", "uml\xc3\xa4ut", "x\ny"), NULL));
	EXPECT(lab, LM_RPC_OK, remote_make(&lab->remote, PREPARE, "a-np-wl", "", LABELS("l", "2"), NULL));
	return 0;
}

#define ALL "a-np p a v p-wl a-wl v-wl a-np-wl"

/* The whole grammar; several filters with a line feed between them. */
static const struct {
	const char *filters, *found;
} finds[] = {
	{"", ALL},
	{"labels.\"containerd.io/gc.root\"==conformance", ALL},
	{"kind==active", "a-np a a-wl a-np-wl"},
	{"kind==view", "v v-wl"},
	{"kind==committed", "p p-wl"},
	{"kind!=committed", "a-np a v a-wl v-wl a-np-wl"},
	{"kind", ALL},
	{"name==p\nname==a-np-wl", "p a-np-wl"},
	{"name==p\nname==p\nkind==view", "p v v-wl"},
	{"name==a-wl,labels.l", "a-wl"},
	{"name==a-wl,name==p", ""},
	{"parent==p", "a v"},
	{"parent!=\"\"", "a v a-wl v-wl"},
	{"parent==\"\"", "a-np p p-wl a-np-wl"},
	{"labels.l", "p-wl a-wl v-wl a-np-wl"},
	{"labels.l==2", "a-wl a-np-wl"},
	{"labels.l!=2", "a-np p a v p-wl v-wl"},
	{"labels.nothing", ""},
	{"labels.nothing==x", ""},
	{"labels.nothing!=x", ALL},
	{"labels.\"a.b/c\"", "a-wl"},
	{"labels.a.\"b/c\"", "a-wl"},
	{"labels.\"a.b/c\"==\"with, \\\"comma\\\"\"", "a-wl"},
	{"labels.\"uml\\u00e4ut\"", "v-wl"},
	{"labels.\"uml\\xc3\\xa4ut\"==\"x\\ny\"", "v-wl"},
	{"labels.\"uml\xc3\xa4ut\"", "v-wl"},
	{"  kind == view,  name !=  v", "v-wl"},
	{"\"kind\"==\"view\"", "v v-wl"},
	{"nothing", ""},
	{"nothing==x", ""},
	{"name~=^a", "a-np a a-wl a-np-wl"},
	{"name~=^a$", "a"},
	{"name~=\"wl$\"", "p-wl a-wl v-wl a-np-wl"},
	{"name~=/^[av](-wl)?$/", "a v a-wl v-wl"},
	{"name~=|^(p\\|a)$|", "p a"},
	{"name~=(?i)^A-W", "a-wl"},
	{"name~=\"^\\\\w-\\\\w\\\\w$\"", "a-np p-wl a-wl v-wl"},
	{"name~=^.{1}$", "p a v"},
	{"name~=^.+?l$", "p-wl a-wl v-wl a-np-wl"},
	{"name~=\"^\\\\p{Ll}$\"", "p a v"},
	{"name~=(((a*)*)*)*x", ""},
	{"name~=^((a|-|n|p|w|l)*)*$", "a-np p a p-wl a-wl a-np-wl"},
	{"name==\"=x\"", ""},
	{"name==x=!~./|", ""},
	{"labels.l~=[13]", "p-wl v-wl"},
	{"labels.l~=^$", "a-np p a v"},
	{"labels.\"uml\xc3\xa4ut\"~=x$", ""},
	{"labels.\"uml\xc3\xa4ut\"~=(?m)x$", "v-wl"},
	{"kind~=^(active|view)$,labels.l~=[[:digit:]]", "a-wl v-wl a-np-wl"},
};

static const char *const no_filters[] = {
	",",
	"kind,",
	"kind=view",
	"kind==",
	"kind view",
	"kind<>view",
	".kind",
	"kind.",
	"labels..l",
	"\"kind",
	"kind==\"view",
	"kind==\"\\q\"",
	"kind==/view/",
	"kind==|view|",
	"name===x",
	"name==.x",
	"name== ~x",
	"name==!x",
	"name~=/a",
	"kind ,name",
	"kind==view ,name",
	"kind==view ",
	"kind ",
	"labels .l",
};

/* containerd's own never says so, and finds nothing by them. */
static const char *const no_expressions[] = {
	"name~=(",
	"name~=[a",
	"name~=*",
	"name~=a**",
	"name~=a{1001}",
	"name~=(?=a)",
	"name~=\"(a)\\\\1\"",
	"name~=\"\\\\Z\"",
	"name~=(?>a)",
};

static int split(char *text, const char *filters[8])
{
	int n = 0;
	for (char *at = text; at && n < 7; n++) {
		filters[n] = at;
		at = strchr(at, '\n');
		if (at)
			*at++ = '\0';
	}
	filters[n] = NULL;
	return n;
}

static int list_with_filters(struct lab *lab)
{
	TRY(make_listed(lab));
	TRY(check_found(lab, NULL, ALL));
	for (size_t i = 0; i < ARRAY_LEN(finds); i++) {
		const char *filters[8];
		CLEANUP(lm_freep) char *text = strdup(finds[i].filters);
		if (!text)
			return lm_err_oom(&lab->err);
		(void)split(text, filters);
		TRY(check_found(lab, filters, finds[i].found));
	}
	return 0;
}

static int list_refuses_bad_filters(struct lab *lab)
{
	TRY(make_listed(lab));
	for (size_t i = 0; i < ARRAY_LEN(no_filters); i++) {
		if (remote_list(&lab->remote, TEXTS(no_filters[i]), NULL) == LM_RPC_OK)
			return lab_fail(lab, __func__, __LINE__, "not refused: %s", no_filters[i]);
		EXPECT_AS(lab, "a bad filter", remote_list(&lab->remote, TEXTS(no_filters[i]), NULL));
		EXPECT_AS(lab, "a bad filter", remote_list(&lab->remote, TEXTS("kind==view", no_filters[i]), NULL));
	}
	for (size_t i = 0; i < ARRAY_LEN(no_expressions); i++) {
		EXPECT_AS(lab, "a bad expression", remote_list(&lab->remote, TEXTS(no_expressions[i]), NULL));
		if (lab_codes(lab, "a bad expression") == 1U << LM_RPC_OK)
			TRY(check_found(lab, TEXTS(no_expressions[i]), ""));
	}
	return 0;
}

/* More than one message can hold, and each as Stat has it. */
static int list_has_what_stat_has(struct lab *lab)
{
	CLEANUP(listing_done) struct listing listing = {0};
	enum { MANY = 250 };
	TRY(committed(lab, "base", ""));
	for (unsigned i = 0; i < MANY; i++) {
		char key[32];
		snprintf(key, sizeof(key), "s%u", i);
		EXPECT(lab, LM_RPC_OK, remote_make(&lab->remote, VIEW, key, "base", LABELS("number", key), NULL));
	}
	EXPECT(lab, LM_RPC_OK, remote_list(&lab->remote, NULL, &listing));
	CHECK(lab, listing.count == MANY + 1, "%zu are listed", listing.count);
	for (size_t i = 0; i < listing.count; i++) {
		const V1(Info) *listed = listing.infos[i];
		CLEANUP(info_done) struct info info = {0};
		EXPECT(lab, LM_RPC_OK, remote_stat(&lab->remote, listed->name, &info));
		TRY(check_info(lab, listed->name, listed->kind, listed->parent));
		CHECK(lab,
			time_ns(listed->created_at) == time_ns(info.info->created_at) &&
				time_ns(listed->updated_at) == time_ns(info.info->updated_at),
			"%s has other times", listed->name);
		CHECK(lab, listed->n_labels == info.info->n_labels, "%s has other labels", listed->name);
		for (size_t k = 0; k < listed->n_labels; k++) {
			const char *value = info_label(info.info, listed->labels[k]->key);
			CHECK(lab, value && strcmp(value, listed->labels[k]->value) == 0, "%s has another label %s",
				listed->name, listed->labels[k]->key);
		}
	}
	return 0;
}

const struct test cases_labels[] = {
	{"labels-are-kept", labels_are_kept},
	{"update", update},
	{"empty-labels-vanish", empty_labels_vanish},
	{"list-with-filters", list_with_filters},
	{"list-refuses-bad-filters", list_refuses_bad_filters},
	{"list-has-what-stat-has", list_has_what_stat_has},
	{0},
};
