#include "sync/inbox.h"

#include "base/lock.h"

#include <string.h>
#include <sys/eventfd.h>

struct lm_inbox {
	int fd;
	struct lm_lock lock;
	/* under lock */
	struct lm_wish *wishes; /* repository, tag, wildcard and excludes only */
	size_t wish_count;
	struct lm_pushed pushed;
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

static int add(struct lm_pushed *pushed, const char *repository, const char *tag)
{
	for (size_t i = 0; i < pushed->count; i++)
		if (strcmp(pushed->items[i].tag, tag) == 0 && strcmp(pushed->items[i].repository, repository) == 0)
			return 1;
	if (pushed->count == LM_INBOX_MAX)
		return -EAGAIN;
	if (!pushed->items)
		pushed->items = calloc(LM_INBOX_MAX, sizeof(*pushed->items));
	if (!pushed->items)
		return -ENOMEM;
	struct lm_pushed_tag *item = &pushed->items[pushed->count];
	item->repository = strdup(repository);
	item->tag = strdup(tag);
	if (!item->repository || !item->tag) {
		free(item->repository);
		free(item->tag);
		return -ENOMEM;
	}
	pushed->count++;
	return 1;
}

int lm_inbox_put(struct lm_inbox *inbox, const char *repository, const char *tag)
{
	lm_lock_take(&inbox->lock);
	int r = wished(inbox, repository, tag) ? add(&inbox->pushed, repository, tag) : 0;
	lm_lock_release(&inbox->lock);
	if (r > 0)
		lm_inbox_wake(inbox);
	return r;
}

void lm_inbox_take(struct lm_inbox *inbox, struct lm_pushed *ret)
{
	eventfd_t ignored;
	(void)eventfd_read(inbox->fd, &ignored);
	LM_LOCKED(&inbox->lock);
	*ret = inbox->pushed;
	inbox->pushed = (struct lm_pushed){0};
}

bool lm_inbox_empty(struct lm_inbox *inbox)
{
	LM_LOCKED(&inbox->lock);
	return inbox->pushed.count == 0;
}

int lm_inbox_fd(const struct lm_inbox *inbox)
{
	return inbox->fd;
}

void lm_inbox_wake(struct lm_inbox *inbox)
{
	(void)eventfd_write(inbox->fd, 1);
}
