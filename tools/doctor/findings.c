/* Everything that can be found. The man page has the same table, and tests/e2e/doctor.sh provokes each row. */
#include "doctor/doctor.h"

const char *const lm_doctor_area_names[LM_DOCTOR_AREAS] = {
	[LM_DOCTOR_KERNEL] = "kernel",
	[LM_DOCTOR_SETTINGS] = "settings",
	[LM_DOCTOR_NETWORK] = "network",
	[LM_DOCTOR_FETCHER] = "fetcher",
	[LM_DOCTOR_SNAPSHOTTER] = "snapshotter",
	[LM_DOCTOR_CONTAINERD] = "containerd",
	[LM_DOCTOR_DISK] = "disk",
};

const char *const lm_doctor_level_names[LM_DOCTOR_LEVELS] = {
	[LM_DOCTOR_PROBLEM] = "problem",
	[LM_DOCTOR_WARNING] = "warning",
	[LM_DOCTOR_NOTE] = "note",
};

#define ROW(kind, name, area, level, sentence, advice) \
	[LM_DOCTOR_##kind] = {name, LM_DOCTOR_##area, LM_DOCTOR_##level, sentence, advice}

const struct lm_doctor_row lm_doctor_rows[LM_DOCTOR_KINDS] = {
	ROW(NOT_ROOT, "not-root", KERNEL, WARNING, "what only root may look at was not looked at", "Run it as root."),
	ROW(KERNEL_OLD, "kernel-old", KERNEL, PROBLEM, "the kernel is too old",
		"Boot Linux 5.6 or newer; 6.1 is the oldest that is tested."),
	ROW(KERNEL_FEATURES, "kernel-features", KERNEL, NOTE, "a newer kernel can do more",
		"Nothing has to be done; the text says from which version on there is what."),
	ROW(FUSE, "fuse", KERNEL, PROBLEM, "the fetcher can't mount",
		"Load the module: modprobe fuse. In a container, hand /dev/fuse through to it."),
	ROW(OVERLAY, "overlay", KERNEL, PROBLEM, "no overlay can be made in the snapshotter's directory",
		"Load the module: modprobe overlay. Keep --root of lamella-snapshotter on ext4 or xfs (with ftype=1)."),
	ROW(EROFS, "erofs", KERNEL, NOTE, "the kernel has no EROFS: merged trees are not used",
		"Load the module where there is one: modprobe erofs. Without it containers start from the layers, "
		"which takes more requests."),
	ROW(LOOP, "loop", KERNEL, NOTE, "there are no loop devices: merged trees are not used",
		"Load the module: modprobe loop. In a container, hand /dev/loop-control and /dev/loop* through to it."),
	ROW(FETCHER_MISSING, "fetcher-missing", SETTINGS, PROBLEM, "lamella-fetcher is not installed, or can't be run",
		"Install the package of the same version as this program."),
	ROW(SETTINGS_WRONG, "settings-wrong", SETTINGS, PROBLEM, "lamella-fetcher can't start with these settings",
		"Correct the file that is named; lamella.conf(5) has all settings."),
	ROW(SETTINGS_DOUBTFUL, "settings-doubtful", SETTINGS, WARNING, "a setting does not do what it seems to",
		"Correct or remove the line; lamella-fetcher --check-config shows what is in force."),
	ROW(UNREACHABLE, "unreachable", NETWORK, PROBLEM, "a repository can't be reached by any configured way",
		"Check CVMFS_SERVER_URL and CVMFS_HTTP_PROXY, that the proxies allow these servers, and the firewall."),
	ROW(SERVER_FAILS, "server-fails", NETWORK, WARNING, "a server does not give the repository",
		"Ask who runs it, or take it out of CVMFS_SERVER_URL: requests go to the others after a time-out."),
	ROW(PROXY_FAILS, "proxy-fails", NETWORK, WARNING, "a proxy does not pass the repository on",
		"Check that it runs, and that its access list allows the servers, or take it out of CVMFS_HTTP_PROXY."),
	ROW(PROXY_PASSWORD, "proxy-password", NETWORK, NOTE, "a proxy with a password was not tried",
		"Nothing has to be done: passwords are not told to this program; `lamella status` shows how the proxy "
		"does."),
	ROW(SERVER_BEHIND, "server-behind", NETWORK, NOTE, "a server has an older revision than another",
		"Nothing, if it is a replica and catches up; else ask who runs it."),
	ROW(UNTRUSTED, "untrusted", NETWORK, PROBLEM, "a repository is not signed by the configured keys",
		"Compare the key files with those that the repository's owner has published; a proxy or portal that "
		"answers something else looks the same."),
	ROW(WHITELIST_EXPIRED, "whitelist-expired", NETWORK, PROBLEM, "a repository's whitelist has expired",
		"Check this machine's clock; if that is right, the repository's owner has to run `lamella repo sign`."),
	ROW(WHITELIST_EXPIRES, "whitelist-expires", NETWORK, WARNING, "a repository's whitelist expires within a week",
		"The repository's owner has to run `lamella repo sign`, or the stock server's resign."),
	ROW(CLOCK, "clock", NETWORK, WARNING, "the clock differs from those of all servers",
		"Set it, and have it kept by a time service (chrony, systemd-timesyncd): signatures are valid for a "
		"time."),
	ROW(FETCHER_DOWN, "fetcher-down", FETCHER, PROBLEM, "lamella-fetcher does not answer",
		"systemctl start lamella-fetcher; journalctl -u lamella-fetcher says why it ended."),
	ROW(FETCHER_PROBLEM, "fetcher-problem", FETCHER, PROBLEM, "a repository is not served",
		"See what the areas settings and network found; `lamella status` has the details."),
	ROW(FETCHER_DEGRADED, "fetcher-degraded", FETCHER, WARNING, "what is cached is served, but not all is well",
		"See what the areas network and disk found; `lamella status` has the details."),
	ROW(FETCHER_CRASHES, "fetcher-crashes", FETCHER, WARNING, "the fetcher's worker ended without being asked to",
		"Readers saw no error. Look for memory that ran short (dmesg), and report what journalctl -u "
		"lamella-fetcher says."),
	ROW(FETCHER_VERSION, "fetcher-version", FETCHER, WARNING, "the fetcher that runs is not the installed one",
		"systemctl kill --kill-whom=main -s USR1 lamella-fetcher; mounts and their readers stay."),
	ROW(FETCHER_SOCKET, "fetcher-socket", FETCHER, WARNING, "others than root may command the fetcher",
		"chmod 600 the socket, and find out what changed it: it is made so."),
	ROW(SNAPSHOTTER_DOWN, "snapshotter-down", SNAPSHOTTER, PROBLEM, "lamella-snapshotter does not answer",
		"systemctl start lamella-snapshotter; journalctl -u lamella-snapshotter says why it ended."),
	ROW(SNAPSHOTTER_PROBLEM, "snapshotter-problem", SNAPSHOTTER, PROBLEM, "the snapshotter can't serve layers",
		"See what the area fetcher found; where layers come from mounts of others, look at the one that is "
		"named."),
	ROW(SNAPSHOTTER_DEGRADED, "snapshotter-degraded", SNAPSHOTTER, WARNING,
		"the snapshotter works, but not as well as it could",
		"`lamella status` and journalctl -u lamella-snapshotter say more."),
	ROW(SNAPSHOTTER_FETCHER, "snapshotter-fetcher", SNAPSHOTTER, PROBLEM,
		"nobody listens where the snapshotter looks for the fetcher",
		"Start lamella-fetcher; LAMELLA_SOCKET and --fetcher of lamella-snapshotter must be the same."),
	ROW(SNAPSHOTTER_VERSION, "snapshotter-version", SNAPSHOTTER, WARNING,
		"the snapshotter that runs is not the installed one",
		"systemctl restart lamella-snapshotter; containers and mounts stay."),
	ROW(SNAPSHOTTER_SOCKET, "snapshotter-socket", SNAPSHOTTER, WARNING,
		"others than root may command the snapshotter",
		"chmod 600 the socket, and find out what changed it: it is made so."),
	ROW(TREES, "trees", SNAPSHOTTER, NOTE, "merged trees are not used",
		"Nothing has to be done: containers start from the layers, which takes more requests."),
	ROW(OWNERS, "owners", SNAPSHOTTER, NOTE, "pods with hostUsers: false can't be had",
		"Keep --root of lamella-snapshotter on ext4 or xfs, where the kernel can map owners."),
	ROW(CONTAINERD_DOWN, "containerd-down", CONTAINERD, PROBLEM, "containerd does not answer",
		"systemctl start containerd; name its socket by --address where that is another one."),
	ROW(CONTAINERD_OLD, "containerd-old", CONTAINERD, PROBLEM, "containerd is too old", "Install 1.6 or newer."),
	ROW(CONTAINERD_CONFIG, "containerd-config", CONTAINERD, PROBLEM, "containerd's configuration can't be read",
		"Run `containerd config dump`, and correct what it complains of; until then containerd can't be "
		"started again."),
	ROW(PLUGIN_ABSENT, "plugin-absent", CONTAINERD, PROBLEM,
		"containerd's configuration has no lamella snapshotter",
		"Import the file for this version of containerd, see CONTAINERD in lamella-snapshotter(8), and restart "
		"it."),
	ROW(PLUGIN_ADDRESS, "plugin-address", CONTAINERD, PROBLEM,
		"containerd looks for the snapshotter where nobody listens",
		"Make address of the proxy plugin and --address of lamella-snapshotter the same."),
	ROW(PLUGIN_NOT_LOADED, "plugin-not-loaded", CONTAINERD, PROBLEM,
		"containerd runs with another configuration than its files have", "systemctl restart containerd."),
	ROW(CRI_SNAPSHOTTER, "cri-snapshotter", CONTAINERD, WARNING, "pods are made by another snapshotter",
		"Set snapshotter = \"lamella\" in the CRI's section; in containerd 1 the last file that has the "
		"section counts."),
	ROW(ANNOTATIONS, "annotations", CONTAINERD, WARNING, "containerd does not tell which layers belong to an image",
		"Set disable_snapshot_annotations = false: else layers are asked for one after another, and those that "
		"stock tools published are not found."),
	ROW(DISCARDED, "discarded", CONTAINERD, NOTE, "containerd throws the blobs of unpacked layers away",
		"Nothing has to be done: layers that were pulled can't be exported or pushed, as those that were not "
		"pulled."),
	ROW(REBASE, "rebase", CONTAINERD, PROBLEM, "the proxy plugin declares the capability rebase",
		"Take it away: containerd 2.2 and later would ask for layers without their parents."),
	ROW(REMAP, "remap", CONTAINERD, NOTE, "the proxy plugin does not declare the capability remap-ids",
		"Add it, as our file for this containerd has it: else the whole image is copied for each pod with "
		"hostUsers: false."),
	ROW(IMAGE_FILESYSTEM, "image-filesystem", CONTAINERD, WARNING,
		"kubelet is told a wrong directory as the file system of images",
		"Of containerd 1.6 and 1.7: make the directory that is named. Of 2: set exports.root to --root of "
		"lamella-snapshotter."),
	ROW(UNPACK_CONFIG, "unpack-config", CONTAINERD, NOTE, "the transfer service does not know the snapshotter",
		"Add the unpack_config of our file for containerd 2: else `ctr images pull --snapshotter lamella` "
		"leaves images packed."),
	ROW(UNWRITABLE, "unwritable", DISK, PROBLEM, "a directory can't be written to",
		"Mount its file system for writing, on a kind that has files without names (ext4, xfs, btrfs; not "
		"NFS)."),
	ROW(DISK_LOW, "disk-low", DISK, WARNING, "little room is left",
		"Make room. The cache shrinks by itself; what containers write and what is pulled does not."),
	ROW(INODES_LOW, "inodes-low", DISK, WARNING, "few inodes are left",
		"Remove files, or make the file system anew with more inodes: every cached object is a file."),
	ROW(QUOTA, "quota", DISK, NOTE, "the cache's quota is more than its file system can hold",
		"Nothing has to be done: the cache keeps to what is there. Set CVMFS_QUOTA_LIMIT to that, or make "
		"room."),
	ROW(VOLATILE, "volatile", DISK, WARNING, "the snapshotter's directory is in memory",
		"Keep --root of lamella-snapshotter on a disk: after a reboot containerd knows containers whose files "
		"are gone."),
};
