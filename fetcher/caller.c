#include "fetcher/caller.h"

#include "base/buf.h"
#include "base/file.h"

#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* Groups, as many as a user may have, come before the signals. */
enum { STATUS_MAX = 1 << 20 };

static uint64_t bit(int signal_number)
{
	return UINT64_C(1) << (signal_number - 1);
}

/* The set in the line that begins so. */
static uint64_t set(const char *status, const char *key)
{
	const char *line = strstr(status, key);
	return line ? strtoull(line + strlen(key), NULL, 16) : 0;
}

bool lm_caller_status_is_ending(const char *status)
{
	/* What SIG_DFL does not end a program at, signal(7). */
	const uint64_t harmless = bit(SIGCHLD) | bit(SIGCONT) | bit(SIGURG) | bit(SIGWINCH) | bit(SIGSTOP) |
				  bit(SIGTSTP) | bit(SIGTTIN) | bit(SIGTTOU);
	const uint64_t pending = set(status, "\nSigPnd:") | set(status, "\nShdPnd:");
	const uint64_t survived =
		harmless | set(status, "\nSigBlk:") | set(status, "\nSigIgn:") | set(status, "\nSigCgt:");
	return (pending & (bit(SIGKILL) | ~survived)) != 0;
}

bool lm_caller_is_ending(pid_t thread)
{
	CLEANUP(lm_buf_done) struct lm_buf status = LM_BUF(STATUS_MAX);
	char path[32];
	if (thread == 0)
		return true;
	snprintf(path, sizeof(path), "/proc/%d/status", (int)thread);
	int r = lm_file_read(AT_FDCWD, path, &status, NULL);
	if (r < 0)
		return r == -ENOENT || r == -ESRCH; /* else it can't be told now */
	return lm_caller_status_is_ending(lm_buf_cstr(&status));
}
