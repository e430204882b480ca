/* lamella-fetcher and lamella-snapshotter: whether they answer, and what they say of themselves. */
#include "base/version.h"
#include "doctor/doctor.h"

#include <inttypes.h>
#include <string.h>
#include <sys/stat.h>

typedef Lamella__Fetcher__V1__StatusResponse FetcherStatus;
typedef Lamella__Snapshotter__V1__StatusResponse SnapshotterStatus;

static void look_at_socket(struct lm_doctor *doctor, enum lm_doctor_kind kind, const char *socket)
{
	struct stat st;
	if (socket && stat(socket, &st) == 0 && (st.st_mode & 07777) != 0600)
		lm_doctor_found(doctor, kind, "%s has mode %04o", socket, st.st_mode & 07777);
}

static void look_at_version(struct lm_doctor *doctor, enum lm_doctor_kind kind, const char *version)
{
	if (strcmp(version, LM_VERSION) != 0)
		lm_doctor_found(doctor, kind, "%s runs, %s is installed", version, LM_VERSION);
}

/* --- the fetcher --- */

static void look_at_repositories(struct lm_doctor *doctor, const FetcherStatus *status)
{
	for (size_t i = 0; i < status->n_repositories; i++) {
		const Lamella__Fetcher__V1__RepositoryStatus *r = status->repositories[i];
		lm_doctor_saw(doctor, LM_DOCTOR_FETCHER, "%s: %s, revision %" PRIu64 ", mounted at %s", r->fqrn,
			lm_fetcher_state_name(r->state), r->revision, *r->mountpoint ? r->mountpoint : "no place");
	}
	for (size_t i = 0; i < status->n_problems; i++) {
		const Lamella__Fetcher__V1__Problem *p = status->problems[i];
		lm_doctor_found(doctor, p->degraded ? LM_DOCTOR_FETCHER_DEGRADED : LM_DOCTOR_FETCHER_PROBLEM, "%s%s%s",
			p->repository, *p->repository ? ": " : "", p->what);
	}
}

void lm_doctor_fetcher(struct lm_doctor *doctor)
{
	const struct lm_doctor_gathered *g = &doctor->gathered;
	const FetcherStatus *status = g->fetcher;
	if (!status && lm_doctor_without_fetcher(doctor)) {
		lm_doctor_saw(doctor, LM_DOCTOR_FETCHER, "there is none, and none is needed: layers come from %s",
			g->snapshotter->source);
		return;
	}
	if (!status) {
		lm_doctor_no_answer(doctor, LM_DOCTOR_FETCHER_DOWN, &g->no_fetcher);
		return;
	}
	lm_doctor_saw(doctor, LM_DOCTOR_FETCHER, "lamella-fetcher %s answers at %s", status->version, g->socket);
	look_at_socket(doctor, LM_DOCTOR_FETCHER_SOCKET, g->socket);
	look_at_version(doctor, LM_DOCTOR_FETCHER_VERSION, status->version);
	if (status->worker_restarts)
		lm_doctor_found(doctor, LM_DOCTOR_FETCHER_CRASHES,
			"%" PRIu64 " times since the start, the last time: %s", status->worker_restarts,
			status->worker_last_end);
	look_at_repositories(doctor, status);
}

/* --- the snapshotter --- */

static void look_at_abilities(struct lm_doctor *doctor, const SnapshotterStatus *status)
{
	if (status->trees && !status->trees->used)
		lm_doctor_found(doctor, LM_DOCTOR_TREES, "%s", status->trees->reason);
	if (*status->no_mapping)
		lm_doctor_found(doctor, LM_DOCTOR_OWNERS, "%s", status->no_mapping);
	if (status->fetcher && !status->fetcher->listens && !lm_doctor_without_fetcher(doctor))
		lm_doctor_found(doctor, LM_DOCTOR_SNAPSHOTTER_FETCHER, "%s", status->fetcher->socket);
}

void lm_doctor_snapshotter(struct lm_doctor *doctor)
{
	const struct lm_doctor_gathered *g = &doctor->gathered;
	const SnapshotterStatus *status = g->snapshotter;
	if (!status) {
		lm_doctor_no_answer(doctor, LM_DOCTOR_SNAPSHOTTER_DOWN, &g->no_snapshotter);
		return;
	}
	lm_doctor_saw(doctor, LM_DOCTOR_SNAPSHOTTER,
		"lamella-snapshotter %s answers at %s: %" PRIu64 " lazy layers, %" PRIu64 " containers",
		status->version, g->snapshotter_socket, status->lazy_layers, status->containers);
	look_at_socket(doctor, LM_DOCTOR_SNAPSHOTTER_SOCKET, g->snapshotter_socket);
	look_at_socket(doctor, LM_DOCTOR_SNAPSHOTTER_SOCKET, status->address);
	look_at_version(doctor, LM_DOCTOR_SNAPSHOTTER_VERSION, status->version);
	look_at_abilities(doctor, status);
	for (size_t i = 0; i < status->n_problems; i++)
		lm_doctor_found(doctor,
			status->problems[i]->degraded ? LM_DOCTOR_SNAPSHOTTER_DEGRADED : LM_DOCTOR_SNAPSHOTTER_PROBLEM,
			"%s", status->problems[i]->what);
}
