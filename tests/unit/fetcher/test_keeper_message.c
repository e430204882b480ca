/* Messages between keeper and worker, and the descriptors with them. */
#include "fetcher/keeper_message.h"

#include <fcntl.h>
#include <setjmp.h>
#include <stdarg.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>

#include <cmocka.h>

static const struct lm_message sample = {
	.kind = LM_MESSAGE_SESSION, .numbers = {1, UINT64_MAX, 3}, .text = "/cvmfs/images.example.org"};

static void goes_there_and_back(void **state)
{
	uint8_t data[LM_MESSAGE_MAX];
	struct lm_message message;
	size_t len = lm_message_encode(&sample, data);
	assert_int_equal(lm_message_decode(data, len, &message, NULL), len);
	assert_int_equal(message.kind, sample.kind);
	assert_memory_equal(message.numbers, sample.numbers, sizeof(sample.numbers));
	assert_string_equal(message.text, sample.text);
}

static void the_longest_text_fits(void **state)
{
	uint8_t data[LM_MESSAGE_MAX];
	struct lm_message message = {.kind = 99}, back;
	memset(message.text, 'x', sizeof(message.text)); /* no NUL at all */
	size_t len = lm_message_encode(&message, data);
	assert_int_equal(len, LM_MESSAGE_MAX);
	assert_int_equal(lm_message_decode(data, len, &back, NULL), len);
	assert_int_equal(strlen(back.text), LM_MESSAGE_TEXT_MAX);
}

static void what_is_cut_or_wrong_is_refused(void **state)
{
	uint8_t data[LM_MESSAGE_MAX];
	struct lm_message message;
	size_t len = lm_message_encode(&sample, data);
	for (size_t cut = 0; cut < len; cut++)
		assert_int_equal(lm_message_decode(data, cut, &message, NULL), -EPROTO);
	data[len - 1] = '\0';
	assert_int_equal(lm_message_decode(data, len, &message, NULL), -EPROTO);
	memset(data + 4, 0xff, 4); /* length of the text */
	assert_int_equal(lm_message_decode(data, sizeof(data), &message, NULL), -EPROTO);
}

static void messages_follow_each_other(void **state)
{
	uint8_t data[2 * LM_MESSAGE_MAX];
	struct lm_message message;
	size_t first = lm_message_encode(&sample, data);
	const struct lm_message other = {.kind = LM_MESSAGE_STATE_WORKER};
	size_t second = lm_message_encode(&other, data + first);
	assert_int_equal(lm_message_decode(data, first + second, &message, NULL), first);
	assert_int_equal(lm_message_decode(data + first, second, &message, NULL), second);
	assert_int_equal(message.kind, LM_MESSAGE_STATE_WORKER);
}

static bool same_file(int a, int b)
{
	struct stat sa, sb;
	return fstat(a, &sa) == 0 && fstat(b, &sb) == 0 && sa.st_dev == sb.st_dev && sa.st_ino == sb.st_ino;
}

static void descriptors_travel(void **state)
{
	int pair[2], fds[2], null_fd = open("/dev/null", O_RDONLY), zero_fd = open("/dev/zero", O_RDONLY);
	struct lm_message message;
	assert_int_equal(socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_NONBLOCK, 0, pair), 0);
	assert_int_equal(lm_message_receive(pair[1], &message, fds, NULL), -EAGAIN);
	assert_int_equal(lm_message_send(pair[0], &sample, (const int[2]){null_fd, zero_fd}, NULL), 0);
	assert_int_equal(lm_message_receive(pair[1], &message, fds, NULL), 1);
	assert_true(same_file(fds[0], null_fd));
	assert_true(same_file(fds[1], zero_fd));
	assert_true(fcntl(fds[0], F_GETFD) & FD_CLOEXEC);
	close(fds[0]);
	close(fds[1]);

	assert_int_equal(lm_message_send(pair[0], &sample, NULL, NULL), 0);
	assert_int_equal(lm_message_receive(pair[1], &message, fds, NULL), 1);
	assert_int_equal(fds[0], -1);
	assert_int_equal(write(pair[0], "x", 1), 1); /* a packet that is no message */
	assert_int_equal(lm_message_receive(pair[1], &message, fds, NULL), -EPROTO);
	close(pair[0]);
	assert_int_equal(lm_message_receive(pair[1], &message, fds, NULL), 0);
	assert_true(lm_message_send(pair[1], &sample, NULL, NULL) < 0);
	close(pair[1]);
	close(null_fd);
	close(zero_fd);
}

static void one_descriptor_travels(void **state)
{
	int pair[2], fds[2], null_fd = open("/dev/null", O_RDONLY);
	struct lm_message message;
	assert_int_equal(socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_NONBLOCK, 0, pair), 0);
	assert_int_equal(lm_message_send(pair[0], &sample, (const int[2]){null_fd, -1}, NULL), 0);
	assert_int_equal(lm_message_receive(pair[1], &message, fds, NULL), 1);
	assert_true(same_file(fds[0], null_fd));
	assert_int_equal(fds[1], -1);
	close(fds[0]);
	close(null_fd);
	close(pair[0]);
	close(pair[1]);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(goes_there_and_back),
		cmocka_unit_test(the_longest_text_fits),
		cmocka_unit_test(what_is_cut_or_wrong_is_refused),
		cmocka_unit_test(messages_follow_each_other),
		cmocka_unit_test(descriptors_travel),
		cmocka_unit_test(one_descriptor_travels),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
