"""Reads files, all at the same time: readers.py FILE... prints `NAME MILLISECONDS SHA256` for each, or for what could not
be read the name of the error instead of the digest."""
import errno
import hashlib
import os
import sys
import threading
import time

lock = threading.Lock()


def read(path):
    begin, digest = time.monotonic(), hashlib.sha256()
    try:
        with open(path, "rb", buffering=0) as f:
            while data := f.read(1 << 20):
                digest.update(data)
        result = digest.hexdigest()
    except OSError as e:
        result = errno.errorcode[e.errno]
    with lock:
        print(os.path.basename(path), round((time.monotonic() - begin) * 1000), result, flush=True)


threads = [threading.Thread(target=read, args=(path,)) for path in sys.argv[1:]]
for t in threads:
    t.start()
for t in threads:
    t.join()
