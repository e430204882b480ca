"""Reads a mounted tree until it is told to stop, past the kernel's caches, and compares: reader.py ROOT LIST SEED

LIST has a line "SHA256  PATH" for each file. TERM ends it with code 0 and the number of files read; any error, and any
content that differs, with code 1.
"""
import hashlib
import os
import random
import signal
import sys

root, listing, seed = sys.argv[1:]
stop = False


def on_term(*_):
    global stop
    stop = True


signal.signal(signal.SIGTERM, on_term)
expected = [line.rstrip("\n").split("  ", 1) for line in open(listing)]
directories = sorted({os.path.dirname(path) for _, path in expected})
rng = random.Random(int(seed))
count = 0
while not stop:
    digest, path = rng.choice(expected)
    full = os.path.join(root, path)
    try:
        os.lstat(full)
        os.listxattr(full, follow_symlinks=False)
        fd = os.open(full, os.O_RDONLY)
        os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
        seen = hashlib.sha256()
        while block := os.read(fd, 1 << 17):
            seen.update(block)
        os.close(fd)
        if count % 16 == 0:
            for name in os.listdir(os.path.join(root, rng.choice(directories))):
                name.encode()
    except OSError as e:
        sys.exit(f"{path}: {e} after {count} files")
    if seen.hexdigest() != digest:
        sys.exit(f"{path}: wrong content after {count} files")
    count += 1
print(count)
