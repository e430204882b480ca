#include "convert/progress.h"

static void no_waiting(struct lm_progress *progress, const char *holder)
{
}

static void no_image(struct lm_progress *progress, const struct lm_image_report *image, uint64_t bytes)
{
}

static void no_layer(struct lm_progress *progress, struct lm_layer_meter *meter)
{
}

static void no_loss(struct lm_progress *progress, const char *digest, const char *path, const char *what)
{
}

static void no_layer_done(struct lm_progress *progress, const struct lm_image_report *image, size_t index)
{
}

static void no_publishing(struct lm_progress *progress)
{
}

static const struct lm_progress_ops no_ops = {
	.waiting = no_waiting,
	.image = no_image,
	.layer_begin = no_layer,
	.loss = no_loss,
	.layer_end = no_layer,
	.layer_done = no_layer_done,
	.publishing = no_publishing,
};

struct lm_progress lm_no_progress = {&no_ops};
