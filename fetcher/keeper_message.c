#include "fetcher/keeper_message.h"

#include <string.h>
#include <sys/socket.h>

/* kind, length of the text (32 bits each), numbers, text. Never leaves the machine: the machine's byte order. */
enum { HEAD = 8, FIXED = HEAD + 8 * LM_MESSAGE_NUMBERS };

size_t lm_message_encode(const struct lm_message *message, uint8_t ret[LM_MESSAGE_MAX])
{
	const uint32_t head[2] = {message->kind, (uint32_t)strnlen(message->text, LM_MESSAGE_TEXT_MAX)};
	memcpy(ret, head, HEAD);
	memcpy(ret + HEAD, message->numbers, sizeof(message->numbers));
	memcpy(ret + FIXED, message->text, head[1]);
	return FIXED + head[1];
}

int lm_message_decode(const void *data, size_t len, struct lm_message *ret, struct lm_err *err)
{
	const uint8_t *bytes = data;
	uint32_t head[2];
	if (len < FIXED)
		return lm_err_set(err, -EPROTO, "message of %zu bytes", len);
	memcpy(head, bytes, HEAD);
	if (head[1] > LM_MESSAGE_TEXT_MAX || head[1] > len - FIXED || memchr(bytes + FIXED, '\0', head[1]))
		return lm_err_set(err, -EPROTO, "message with a text of %u bytes in %zu", head[1], len);
	ret->kind = head[0];
	memcpy(ret->numbers, bytes + HEAD, sizeof(ret->numbers));
	memcpy(ret->text, bytes + FIXED, head[1]);
	ret->text[head[1]] = '\0';
	return (int)(FIXED + head[1]);
}

union control {
	char bytes[CMSG_SPACE(2 * sizeof(int))];
	struct cmsghdr align;
};

int lm_message_send(int socket, const struct lm_message *message, const int fds[2], struct lm_err *err)
{
	uint8_t data[LM_MESSAGE_MAX];
	union control control = {0};
	struct iovec iov = {.iov_base = data, .iov_len = lm_message_encode(message, data)};
	struct msghdr msg = {.msg_iov = &iov, .msg_iovlen = 1};
	if (fds) {
		size_t size = (fds[1] < 0 ? 1 : 2) * sizeof(int);
		msg.msg_control = control.bytes;
		msg.msg_controllen = CMSG_SPACE(size);
		struct cmsghdr *cmsg = CMSG_FIRSTHDR(&msg);
		cmsg->cmsg_level = SOL_SOCKET;
		cmsg->cmsg_type = SCM_RIGHTS;
		cmsg->cmsg_len = CMSG_LEN(size);
		memcpy(CMSG_DATA(cmsg), fds, size);
	}
	ssize_t n;
	while ((n = sendmsg(socket, &msg, MSG_NOSIGNAL)) < 0 && errno == EINTR)
		;
	return n < 0 ? lm_err_sys(err, -errno, "message between keeper and worker") : 0;
}

static void take_descriptors(struct msghdr *msg, int ret_fds[2])
{
	for (struct cmsghdr *cmsg = CMSG_FIRSTHDR(msg); cmsg; cmsg = CMSG_NXTHDR(msg, cmsg)) {
		if (cmsg->cmsg_level != SOL_SOCKET || cmsg->cmsg_type != SCM_RIGHTS)
			continue;
		size_t count = (cmsg->cmsg_len - CMSG_LEN(0)) / sizeof(int);
		memcpy(ret_fds, CMSG_DATA(cmsg), LM_MIN(count, (size_t)2) * sizeof(int));
	}
}

int lm_message_receive(int socket, struct lm_message *ret, int ret_fds[2], struct lm_err *err)
{
	uint8_t data[LM_MESSAGE_MAX];
	union control control;
	struct iovec iov = {.iov_base = data, .iov_len = sizeof(data)};
	struct msghdr msg = {.msg_iov = &iov,
		.msg_iovlen = 1,
		.msg_control = control.bytes,
		.msg_controllen = sizeof(control.bytes)};
	ret_fds[0] = ret_fds[1] = -1;
	ssize_t n;
	while ((n = recvmsg(socket, &msg, MSG_CMSG_CLOEXEC)) < 0 && errno == EINTR)
		;
	if (n < 0)
		return errno == EAGAIN || errno == EWOULDBLOCK
			       ? -EAGAIN
			       : lm_err_sys(err, -errno, "message between keeper and worker");
	if (n == 0)
		return 0;
	take_descriptors(&msg, ret_fds);
	int r = lm_message_decode(data, (size_t)n, ret, err);
	if (r >= 0)
		return 1;
	lm_closep(&ret_fds[0]);
	lm_closep(&ret_fds[1]);
	return r;
}
