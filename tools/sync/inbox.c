#include "sync/inbox.h"

#include "base/clock.h"
#include "base/lock.h"

#include <stdio.h>
#include <string.h>
#include <sys/eventfd.h>

enum { AGAIN_MS = 250 };

struct lm_inbox {
	int fd;
	struct lm_lock lock;
	/* under lock */
	struct lm_wish *wishes; /* repository, tag, wildcard and excludes only */
	size_t wish_count;
	struct lm_pushed pushed;
	struct lm_pushed early; /* to be looked at again */
	int64_t early_ms;	/* then */
};

void lm_pushed_done(struct lm_pushed *pushed)
{
	for (size_t i = 0; i < pushed->count; i++) {
		free(pushed->items[i].repository);
		free(pushed->items[i].tag);
	}
	free(pushed->items);
	*pushed = (struct lm_pushed){0};
}

static void free_wishes(struct lm_wish *wishes, size_t count)
{
	for (size_t i = 0; i < count; i++) {
		free(wishes[i].repository);
		free(wishes[i].tag);
		for (size_t k = 0; k < wishes[i].exclude_count; k++)
			free(wishes[i].excludes[k]);
		free(wishes[i].excludes);
	}
	free(wishes);
}

int lm_inbox_new(struct lm_inbox **ret, struct lm_err *err)
{
	struct lm_inbox *inbox = calloc(1, sizeof(*inbox));
	if (!inbox)
		return lm_err_oom(err);
	inbox->fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	if (inbox->fd < 0) {
		int r = lm_err_sys(err, -errno, "eventfd");
		free(inbox);
		return r;
	}
	lm_lock_init(&inbox->lock);
	*ret = inbox;
	return 0;
}

void lm_inbox_free(struct lm_inbox *inbox)
{
	if (!inbox)
		return;
	close(inbox->fd);
	lm_lock_done(&inbox->lock);
	free_wishes(inbox->wishes, inbox->wish_count);
	lm_pushed_done(&inbox->pushed);
	lm_pushed_done(&inbox->early);
	free(inbox);
}

static int copy_wish(const struct lm_wish *from, struct lm_wish *to)
{
	to->wildcard = from->wildcard;
	to->repository = strdup(from->repository);
	to->tag = strdup(from->tag);
	to->excludes = from->exclude_count ? calloc(from->exclude_count, sizeof(*to->excludes)) : NULL;
	if (!to->repository || !to->tag || (from->exclude_count && !to->excludes))
		return -ENOMEM;
	for (; to->exclude_count < from->exclude_count; to->exclude_count++) {
		to->excludes[to->exclude_count] = strdup(from->excludes[to->exclude_count]);
		if (!to->excludes[to->exclude_count])
			return -ENOMEM;
	}
	return 0;
}

int lm_inbox_watch(struct lm_inbox *inbox, const struct lm_wishlist *list, struct lm_err *err)
{
	size_t count = 0, all = 0;
	for (size_t i = 0; i < list->count; i++)
		all += list->repos[i].count;
	struct lm_wish *wishes = calloc(LM_MAX(all, (size_t)1), sizeof(*wishes));
	int r = wishes ? 0 : -ENOMEM;
	for (size_t i = 0; r == 0 && i < list->count; i++)
		for (size_t k = 0; r == 0 && k < list->repos[i].count; k++)
			/* What is wished for by digest never changes. */
			if (list->repos[i].wishes[k].tag && !list->repos[i].wishes[k].digest)
				r = copy_wish(&list->repos[i].wishes[k], &wishes[count++]);
	if (r < 0) {
		free_wishes(wishes, count);
		return lm_err_oom(err);
	}
	lm_lock_take(&inbox->lock);
	struct lm_wish *old = inbox->wishes;
	size_t old_count = inbox->wish_count;
	inbox->wishes = wishes;
	inbox->wish_count = count;
	lm_lock_release(&inbox->lock);
	free_wishes(old, old_count);
	return 0;
}

static bool wished(const struct lm_inbox *inbox, const char *repository, const char *tag)
{
	lm_lock_assert(&inbox->lock);
	for (size_t i = 0; i < inbox->wish_count; i++)
		if (strcmp(inbox->wishes[i].repository, repository) == 0 && lm_wish_wants(&inbox->wishes[i], tag))
			return true;
	return false;
}

/* What was said last about a tag counts. */
static int add(struct lm_pushed *pushed, const char *repository, const char *tag, const char *digest, unsigned looks)
{
	for (size_t i = 0; i < pushed->count; i++) {
		struct lm_pushed_tag *item = &pushed->items[i];
		if (strcmp(item->tag, tag) != 0 || strcmp(item->repository, repository) != 0)
			continue;
		snprintf(item->digest, sizeof(item->digest), "%s", digest);
		item->looks = LM_MIN(item->looks, looks);
		return 1;
	}
	if (pushed->count == LM_INBOX_MAX)
		return -EAGAIN;
	if (!pushed->items)
		pushed->items = calloc(LM_INBOX_MAX, sizeof(*pushed->items));
	if (!pushed->items)
		return -ENOMEM;
	struct lm_pushed_tag *item = &pushed->items[pushed->count];
	*item = (struct lm_pushed_tag){.repository = strdup(repository), .tag = strdup(tag), .looks = looks};
	if (!item->repository || !item->tag) {
		free(item->repository);
		free(item->tag);
		return -ENOMEM;
	}
	snprintf(item->digest, sizeof(item->digest), "%s", digest);
	pushed->count++;
	return 1;
}

int lm_inbox_put(struct lm_inbox *inbox, const char *repository, const char *tag, const char *digest)
{
	lm_lock_take(&inbox->lock);
	int r = wished(inbox, repository, tag) ? add(&inbox->pushed, repository, tag, digest, 0) : 0;
	lm_lock_release(&inbox->lock);
	if (r > 0)
		lm_inbox_wake(inbox);
	return r;
}

void lm_inbox_later(struct lm_inbox *inbox, const struct lm_pushed *pushed)
{
	LM_LOCKED(&inbox->lock);
	for (size_t i = 0; i < pushed->count; i++) {
		const struct lm_pushed_tag *item = &pushed->items[i];
		if (!item->early || item->looks + 1 >= LM_INBOX_LOOKS_MAX)
			continue;
		int64_t due_ms = lm_now_ms() + ((int64_t)AGAIN_MS << item->looks);
		inbox->early_ms = inbox->early.count ? LM_MIN(inbox->early_ms, due_ms) : due_ms;
		/* One that is lost, since there are too many, is found by the next round. */
		(void)add(&inbox->early, item->repository, item->tag, item->digest, item->looks + 1);
	}
}

static bool early_due(const struct lm_inbox *inbox)
{
	lm_lock_assert(&inbox->lock);
	return inbox->early.count > 0 && lm_now_ms() >= inbox->early_ms;
}

void lm_inbox_take(struct lm_inbox *inbox, struct lm_pushed *ret)
{
	eventfd_t ignored;
	CLEANUP(lm_pushed_done) struct lm_pushed early = {0};
	(void)eventfd_read(inbox->fd, &ignored);
	LM_LOCKED(&inbox->lock);
	if (early_due(inbox)) {
		early = inbox->early;
		inbox->early = (struct lm_pushed){0};
	}
	for (size_t i = 0; i < early.count; i++) {
		const struct lm_pushed_tag *item = &early.items[i];
		(void)add(&inbox->pushed, item->repository, item->tag, item->digest, item->looks);
	}
	*ret = inbox->pushed;
	inbox->pushed = (struct lm_pushed){0};
}

bool lm_inbox_empty(struct lm_inbox *inbox, int64_t *ret_due_ms)
{
	LM_LOCKED(&inbox->lock);
	if (ret_due_ms)
		*ret_due_ms = inbox->early.count ? inbox->early_ms : -1;
	return inbox->pushed.count == 0 && !early_due(inbox);
}

int lm_inbox_fd(const struct lm_inbox *inbox)
{
	return inbox->fd;
}

void lm_inbox_wake(struct lm_inbox *inbox)
{
	(void)eventfd_write(inbox->fd, 1);
}
