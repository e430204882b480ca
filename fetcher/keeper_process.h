/*
 * The keeper: a small process that starts the worker, which does everything else, and holds what must outlive it.
 *
 * The keeper is what was started, lamella-fetcher; the worker is its child by the same path, which goes on as
 * lamella-fetcher-worker, so that the next one is the version that is installed then. The keeper does nothing but wait:
 * no threads, no network, no look at a path that may hang, and no library but libc.
 *
 *   the worker ends by itself      its exit status is the keeper's, where it said that it is done (LM_MESSAGE_END) or
 *                                  where nothing was ever mounted: errors of the start come out as if it were alone
 *   it dies, or fails later        the next one starts at once and goes on with all sessions; later and later (up to
 *                                  10 s) when it dies again and again without becoming ready; never given up.
 *                                  Settings are those that were in force (lm_keeper_settings)
 *   it makes no progress           SIGABRT, then SIGKILL, then the same; after 60 s without a sign of life
 *   the keeper dies                the worker is killed (PR_SET_PDEATHSIG). A service manager that has the descriptors
 *                                  gives them to the next keeper; without one the mounts are dead, and taken away by
 *                                  the next start
 *
 * Signals: TERM and INT end both, the worker unmounts; HUP is passed on, when the worker is ready for it. USR2 replaces
 * the worker: another one is started, and when its settings are right the old one leaves its sessions to it. USR1
 * replaces both: first the worker, which shows that the program starts, then the keeper, which executes its own path
 * and keeps process id, descriptors and worker (its state is in a memfd).
 *
 * Service manager (sd_notify(3)): READY, STATUS and what the worker says; WATCHDOG=1; FDSTORE=1 with FDNAME
 * fuse=MOUNTPOINT, journal=MOUNTPOINT (percent-encoded) and settings, which come back by LISTEN_FDNAMES.
 */
#ifndef LM_FETCHER_KEEPER_PROCESS_H
#define LM_FETCHER_KEEPER_PROCESS_H

#define LM_KEEPER_ENV "LAMELLA_KEEPER" /* tells a worker that it is one, see keeper.c */

/* Runs to the end: the exit status. argv is the worker's, too. */
int lm_keeper_run(char **argv);

#endif
