/* Directories: room, inodes, rights, and the kind of file system. */
#include "base/file.h"
#include "base/str.h"
#include "common.h"
#include "doctor/doctor.h"

#include <linux/magic.h>
#include <string.h>
#include <sys/statvfs.h>
#include <sys/vfs.h>

enum { LOW_PERCENT = 5, MEBIBYTE = 1 << 20 };

struct place {
	char *dir; /* that is there: itself, or the lowest one above it */
	struct statvfs fs;
};

static void place_done(struct place *place)
{
	free(place->dir);
}

static bool is_below(uint64_t part, uint64_t whole, unsigned percent)
{
	return (double)part * 100 < (double)whole * percent;
}

/* What a daemon does there: files without names, which not every file system has. */
static void look_at_rights(struct lm_doctor *doctor, const char *what, const struct place *place)
{
	struct lm_err err = LM_ERR_INIT;
	CLEANUP(lm_closep) int fd = lm_file_tmp(AT_FDCWD, place->dir, &err);
	if (fd < 0)
		lm_doctor_found(doctor, LM_DOCTOR_UNWRITABLE, "%s: %s", what, lm_err_text(&err));
}

static void look_at_room(struct lm_doctor *doctor, const char *what, const struct place *place)
{
	const struct statvfs *fs = &place->fs;
	uint64_t free_bytes = (uint64_t)fs->f_bavail * fs->f_frsize, all_bytes = (uint64_t)fs->f_blocks * fs->f_frsize;
	lm_doctor_saw(doctor, LM_DOCTOR_DISK, "%s: %s, %s of %s free", what, place->dir, lm_cli_size(free_bytes).s,
		lm_cli_size(all_bytes).s);
	if (is_below(free_bytes, all_bytes, LOW_PERCENT))
		lm_doctor_found(doctor, LM_DOCTOR_DISK_LOW, "%s: %s of %s in %s", what, lm_cli_size(free_bytes).s,
			lm_cli_size(all_bytes).s, place->dir);
	if (fs->f_files && is_below(fs->f_favail, fs->f_files, LOW_PERCENT))
		lm_doctor_found(doctor, LM_DOCTOR_INODES_LOW, "%s: %llu of %llu in %s", what,
			(unsigned long long)fs->f_favail, (unsigned long long)fs->f_files, place->dir);
}

static bool find_place(struct lm_doctor *doctor, const char *what, const char *path, struct place *ret)
{
	ret->dir = lm_doctor_existing(path);
	if (!ret->dir) {
		doctor->incomplete = true;
		return false;
	}
	if (statvfs(ret->dir, &ret->fs) == 0)
		return true;
	lm_doctor_found(doctor, LM_DOCTOR_UNWRITABLE, "%s: %s: %s", what, ret->dir, strerror(errno));
	return false;
}

/* --- the cache --- */

/* What is cached already is room that the cache has. */
static void look_at_quota(struct lm_doctor *doctor, const struct place *place)
{
	const Lamella__Fetcher__V1__StatusResponse *status = doctor->gathered.fetcher;
	uint64_t quota = lm_doctor_number_of(doctor->gathered.settings, "CVMFS_QUOTA_LIMIT") * MEBIBYTE;
	uint64_t reserve = lm_doctor_number_of(doctor->gathered.settings, "LAMELLA_CACHE_RESERVE");
	uint64_t all = (uint64_t)place->fs.f_blocks * place->fs.f_frsize, kept = all / 100 * reserve;
	uint64_t have = (uint64_t)place->fs.f_bavail * place->fs.f_frsize;
	have += status && status->cache ? status->cache->bytes : 0;
	if (quota > (have > kept ? have - kept : 0))
		lm_doctor_found(doctor, LM_DOCTOR_QUOTA, "%s, and in %s there are %s, of which %s stay free",
			lm_cli_size(quota).s, place->dir, lm_cli_size(have).s, lm_cli_size(kept).s);
}

static void look_at_cache(struct lm_doctor *doctor)
{
	static const char what[] = "the cache";
	CLEANUP(place_done) struct place place = {0};
	CLEANUP(lm_freep) char *cache = lm_doctor_cache(doctor);
	if (!cache) {
		lm_doctor_saw(doctor, LM_DOCTOR_DISK, "%s was not looked at: the settings are not known", what);
		return;
	}
	if (!find_place(doctor, what, cache, &place))
		return;
	look_at_room(doctor, what, &place);
	if (geteuid() == 0)
		look_at_rights(doctor, what, &place);
	look_at_quota(doctor, &place);
}

/* --- the snapshotter's --- */

static void look_at_root(struct lm_doctor *doctor)
{
	static const char what[] = "the snapshotter";
	CLEANUP(place_done) struct place place = {0};
	struct statfs fs;
	if (!find_place(doctor, what, lm_doctor_root(doctor), &place))
		return;
	look_at_room(doctor, what, &place);
	if (geteuid() == 0)
		look_at_rights(doctor, what, &place);
	if (statfs(place.dir, &fs) == 0 && (fs.f_type == TMPFS_MAGIC || fs.f_type == RAMFS_MAGIC))
		lm_doctor_found(doctor, LM_DOCTOR_VOLATILE, "%s is on %s", place.dir,
			fs.f_type == TMPFS_MAGIC ? "tmpfs" : "ramfs");
}

void lm_doctor_disk(struct lm_doctor *doctor)
{
	look_at_cache(doctor);
	look_at_root(doctor);
}
