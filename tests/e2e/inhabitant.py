"""A container's life, run in it: python3 -c "$(cat inhabitant.py)"

Again and again, till it is killed: reads files of its image past the kernel's caches and compares them with what they were
at first; writes, syncs, reads again, renames and removes files of its own; changes files of the image; runs programs of the
image. A line for each round; the first error is said, "trouble: ...", and is the end.
"""
import os
import random
import subprocess
import sys
import zlib

IMAGE = ["/usr/bin", "/usr/lib"]
OWN = "/var/tmp/own"
READS = 40  # of a round
rng = random.Random(os.getpid())


def content(path):
    fd = os.open(path, os.O_RDONLY)
    os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
    total = 0
    while True:
        block = os.read(fd, 1 << 17)
        if not block:
            break
        total = zlib.crc32(block, total)
    os.close(fd)
    return total


def write(path, data):
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    os.write(fd, data)
    os.fsync(fd)
    os.close(fd)


def read(path):
    with open(path, "rb") as f:
        return f.read()


def expect(condition, what):
    if not condition:
        raise OSError(what)


def files():
    for top in IMAGE:
        for directory, _, names in os.walk(top, onerror=print):
            for name in names:
                path = os.path.join(directory, name)
                if not os.path.islink(path) and os.path.getsize(path) < 300000:
                    yield path


def one_round(n):
    for path in rng.sample(sorted(first), READS):
        expect(content(path) == first[path], path + ": other content")
    expect(len(os.listdir(IMAGE[0])) == listed, IMAGE[0] + ": other names")
    data = os.urandom(rng.randrange(1, 200000))
    write(f"{OWN}/new", data)
    os.rename(f"{OWN}/new", f"{OWN}/{n % 7}")
    expect(read(f"{OWN}/{n % 7}") == data, "not what was written")
    with open(f"{OWN}/log", "a") as log:
        log.write(f"{n}\n")
        log.flush()
        os.fsync(log.fileno())
    expect(read(f"{OWN}/log").count(b"\n") == n, "lines of the log are missing")
    # A file of the image, which becomes one of its own.
    path = victims[n % len(victims)]
    os.utime(path)
    expect(content(path) == first[path], path + ": other content after a change")
    expect(subprocess.run(["/bin/sh", "-c", "echo $((6 * 7))"], stdout=subprocess.PIPE).stdout == b"42\n", "no program runs")


try:
    os.makedirs(OWN)
    listed = len(os.listdir(IMAGE[0]))
    first = {path: content(path) for path in files()}
    victims = sorted(first)[::7]
    n = 0
    print(f"files {len(first)} sum {zlib.crc32(repr(sorted(first.items())).encode()):08x}", flush=True)
    while True:
        n += 1
        one_round(n)
        print(f"round {n}", flush=True)
except Exception as e:  # whatever it is, it must not have been
    print(f"trouble: {e!r}", flush=True)
    sys.exit(1)
