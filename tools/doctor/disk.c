/* Directories: room, inodes, rights, and the kind of file system. */
#include "base/file.h"
#include "base/str.h"
#include "common.h"
#include "doctor/doctor.h"

#include <linux/magic.h>
#include <string.h>
#include <sys/vfs.h>

enum { LOW_PERCENT = 5, MEBIBYTE = 1 << 20 };

struct place {
	const char *wanted;
	char dir[PATH_MAX]; /* that is there: itself, or the lowest one above it */
	struct statfs fs;
	struct lm_err unseen, unwritable; /* code 0: it is not so */
};

static bool is_below(uint64_t part, uint64_t whole, unsigned percent)
{
	return (double)part * 100 < (double)whole * percent;
}

/* Apart. Whether a file can be made is tried as the daemons do: without a name, which not every file system has. */
static void see(void *arg)
{
	struct place *place = arg;
	if (lm_doctor_existing(place->wanted, place->dir, &place->unseen) < 0)
		return;
	if (statfs(place->dir, &place->fs) < 0) {
		(void)lm_err_sys(&place->unseen, -errno, "%s", place->dir);
		return;
	}
	if (geteuid() != 0)
		return;
	int fd = lm_file_tmp(AT_FDCWD, place->dir, &place->unwritable);
	if (fd >= 0)
		close(fd);
}

static void look_at_room(struct lm_doctor *doctor, const char *what, const struct place *place)
{
	const struct statfs *fs = &place->fs;
	uint64_t unit = (uint64_t)fs->f_frsize, free_bytes = fs->f_bavail * unit, all_bytes = fs->f_blocks * unit;
	lm_doctor_saw(doctor, LM_DOCTOR_DISK, "%s: %s, %s of %s free", what, place->dir, lm_cli_size(free_bytes).s,
		lm_cli_size(all_bytes).s);
	if (is_below(free_bytes, all_bytes, LOW_PERCENT))
		lm_doctor_found(doctor, LM_DOCTOR_DISK_LOW, "%s: %s of %s in %s", what, lm_cli_size(free_bytes).s,
			lm_cli_size(all_bytes).s, place->dir);
	if (fs->f_files && is_below(fs->f_ffree, fs->f_files, LOW_PERCENT))
		lm_doctor_found(doctor, LM_DOCTOR_INODES_LOW, "%s: %llu of %llu in %s", what,
			(unsigned long long)fs->f_ffree, (unsigned long long)fs->f_files, place->dir);
}

/* What any daemon needs; false: there is nothing more to see. */
static bool look_at_place(struct lm_doctor *doctor, const char *what, const char *path, struct place *ret)
{
	struct lm_err err = LM_ERR_INIT;
	*ret = (struct place){.wanted = path};
	int r = lm_doctor_apart(see, ret, sizeof(*ret), &err);
	if (r < 0 && r != -ETIMEDOUT) {
		doctor->incomplete = true;
		return false;
	}
	if (r < 0)
		(void)lm_err_set(&ret->unseen, r, "%s: %s", path, lm_err_text(&err));
	if (ret->unseen.code) {
		lm_doctor_found(doctor, LM_DOCTOR_UNWRITABLE, "%s: %s", what, lm_err_text(&ret->unseen));
		return false;
	}
	look_at_room(doctor, what, ret);
	if (ret->unwritable.code)
		lm_doctor_found(doctor, LM_DOCTOR_UNWRITABLE, "%s: %s", what, lm_err_text(&ret->unwritable));
	return true;
}

/* --- the cache --- */

/* What is cached already is room that the cache has. */
static void look_at_quota(struct lm_doctor *doctor, const struct place *place)
{
	const Lamella__Fetcher__V1__StatusResponse *status = doctor->gathered.fetcher;
	uint64_t quota = lm_doctor_number_of(doctor->gathered.settings, "CVMFS_QUOTA_LIMIT") * MEBIBYTE;
	uint64_t reserve = lm_doctor_number_of(doctor->gathered.settings, "LAMELLA_CACHE_RESERVE");
	uint64_t unit = (uint64_t)place->fs.f_frsize, kept = place->fs.f_blocks * unit / 100 * reserve;
	uint64_t have = place->fs.f_bavail * unit;
	have += status && status->cache ? status->cache->bytes : 0;
	if (quota > (have > kept ? have - kept : 0))
		lm_doctor_found(doctor, LM_DOCTOR_QUOTA, "%s, and in %s there are %s, of which %s stay free",
			lm_cli_size(quota).s, place->dir, lm_cli_size(have).s, lm_cli_size(kept).s);
}

/* As the fetcher says, or as its settings do. NULL: neither is known, or no memory; the caller frees. */
static char *find_cache(const struct lm_doctor *doctor)
{
	const Lamella__Fetcher__V1__StatusResponse *status = doctor->gathered.fetcher;
	const char *base = lm_doctor_setting(doctor, "CVMFS_CACHE_BASE");
	if (status && status->cache && *status->cache->directory)
		return strdup(status->cache->directory);
	return base && *base ? lm_str_printf("%s/lamella", base) : NULL;
}

static void look_at_cache(struct lm_doctor *doctor)
{
	struct place place;
	CLEANUP(lm_freep) char *cache = find_cache(doctor);
	if (!cache)
		lm_doctor_saw(doctor, LM_DOCTOR_DISK, "the cache was not looked at: the settings are not known");
	else if (look_at_place(doctor, "the cache", cache, &place))
		look_at_quota(doctor, &place);
}

/* --- the snapshotter's --- */

static void look_at_root(struct lm_doctor *doctor)
{
	struct place place;
	if (!look_at_place(doctor, "the snapshotter", lm_doctor_root(doctor), &place))
		return;
	if (place.fs.f_type == TMPFS_MAGIC || place.fs.f_type == RAMFS_MAGIC)
		lm_doctor_found(doctor, LM_DOCTOR_VOLATILE, "%s is on %s", place.dir,
			place.fs.f_type == TMPFS_MAGIC ? "tmpfs" : "ramfs");
}

void lm_doctor_disk(struct lm_doctor *doctor)
{
	look_at_cache(doctor);
	look_at_root(doctor);
}
