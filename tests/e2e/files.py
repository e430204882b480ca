"""Files of random content, the same each time: files.py DIR DIRECTORIES FILES BIG_MIB

DIR gets the directories 0, 1, ..., each with that many files of up to 60000 bytes, two thirds of them in a directory
`sub`; and `big`, of BIG_MIB MiB.
"""
import os
import random
import sys

target, directories, files, big_mib = sys.argv[1], *map(int, sys.argv[2:])
r = random.Random(1)
for d in range(directories):
    os.makedirs(f"{target}/{d}/sub")
    for i in range(files):
        with open(f"{target}/{d}/{'sub/' if i % 3 else ''}{i}", "wb") as f:
            f.write(r.randbytes(r.randrange(1, 60000)))
with open(target + "/big", "wb") as f:
    for _ in range(big_mib):
        f.write(r.randbytes(1 << 20))
