/*
 * Who waits for an answer. The kernel says that a caller was interrupted at any signal, also at one that it handles or
 * that only stops it for a while, and when it is frozen; then an error would reach a program that expects none of
 * lstat(2). As on disks and NFS, only a caller that is going to end is let go.
 */
#ifndef LM_FETCHER_CALLER_H
#define LM_FETCHER_CALLER_H

#include <stdbool.h>
#include <sys/types.h>

/* Whether a signal that waits for the thread will end it; also when it is gone, or not known (0: in a PID namespace
 * that this process does not see). Reads /proc. Any thread. */
bool lm_caller_is_ending(pid_t thread);

/* The same from the text of /proc/PID/status, proc_pid_status(5). */
bool lm_caller_status_is_ending(const char *status);

#endif
