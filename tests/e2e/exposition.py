"""exposition.py FILE...: strict about Prometheus' text format 0.0.4, and about how metrics should be named.

Every metric has one HELP and one TYPE, in this order, before its samples, which stand together; no sample twice; names,
labels, escapes and numbers follow the grammar; only counters end in _total, units are base units; counters do not go back
from one FILE to the next. Prints the number of samples.
"""

import re
import sys

NAME = re.compile(r"[a-z][a-z0-9_]*\Z")
LABEL = re.compile(r'([a-zA-Z_][a-zA-Z0-9_]*)="((?:[^"\\\n]|\\[\\"n])*)"')
NUMBER = re.compile(r"(?:[0-9]+(?:\.[0-9]+)?|\+Inf)\Z")
TYPES = ("counter", "gauge", "histogram")
UNITS = re.compile(r"_(ms|milliseconds|minutes|hours|kb|mb|kilobytes|megabytes|percent)(_|\Z)")


class Wrong(Exception):
    pass


def labels_of(text, line):
    found, at = [], 0
    while at < len(text):
        match = LABEL.match(text, at)
        if not match:
            raise Wrong(f"labels: {line}")
        found.append(match.group(1, 2))
        at = match.end()
        if at < len(text) and (text[at] != "," or at + 1 == len(text)):
            raise Wrong(f"labels: {line}")
        at += 1
    if len({name for name, _ in found}) != len(found):
        raise Wrong(f"a label twice: {line}")
    return tuple(found)


def check_name(name, kind):
    if not NAME.match(name) or not name.startswith(("lamella_fetcher_", "lamella_snapshotter_")):
        raise Wrong(f"name: {name}")
    if name.endswith("_total") != (kind == "counter"):
        raise Wrong(f"{name}: a {kind}")
    if UNITS.search(name):
        raise Wrong(f"{name}: not a base unit")


class Page:
    def __init__(self, text):
        if not text.endswith("\n"):
            raise Wrong("no line end at the end")
        self.types, self.helps, self.samples = {}, {}, {}
        self.now = None
        for line in text[:-1].split("\n"):
            self.take(line)
        for name in self.types:
            self.check_histogram(name)

    def take(self, line):
        if line.startswith("# HELP "):
            name, _, text = line[7:].partition(" ")
            if name in self.helps or not text.strip():
                raise Wrong(f"help: {line}")
            self.helps[name] = text
            self.now = name
        elif line.startswith("# TYPE "):
            name, _, kind = line[7:].partition(" ")
            if name != self.now or name in self.types or kind not in TYPES:
                raise Wrong(f"type: {line}")
            check_name(name, kind)
            self.types[name] = kind
        else:
            self.take_sample(line)

    def take_sample(self, line):
        match = re.match(r"([a-z0-9_]+)(?:\{(.*)\})? (\S+)\Z", line)
        if not match:
            raise Wrong(f"sample: {line}")
        name, labels, number = match.groups()
        family = name
        if self.types.get(self.now) == "histogram":
            family = re.sub(r"_(bucket|sum|count)\Z", "", name)
            if family == name:
                raise Wrong(f"no part of a histogram: {line}")
        if family != self.now or family not in self.types:
            raise Wrong(f"not where its TYPE is: {line}")
        if not NUMBER.match(number):
            raise Wrong(f"number: {line}")
        key = (name, labels_of(labels or "", line))
        if labels == "" or key in self.samples:
            raise Wrong(f"twice, or empty labels: {line}")
        self.samples[key] = float(number)

    def check_histogram(self, family):
        if self.types[family] != "histogram":
            return
        last = {}
        for (name, labels), value in self.samples.items():
            if name != family + "_bucket":
                continue
            rest = tuple(l for l in labels if l[0] != "le")
            bound = float(dict(labels)["le"].replace("+Inf", "inf"))
            before = last.get(rest, (-1.0, 0.0))
            if bound <= before[0] or value < before[1]:
                raise Wrong(f"{family}: buckets {rest}")
            last[rest] = (bound, value)
        for rest, (bound, value) in last.items():
            if bound != float("inf") or self.samples.get((family + "_count", rest)) != value:
                raise Wrong(f"{family}: no +Inf that is the count {rest}")
            if (family + "_sum", rest) not in self.samples:
                raise Wrong(f"{family}: no sum {rest}")


def main():
    before = None
    for path in sys.argv[1:]:
        with open(path, encoding="utf-8") as f:
            page = Page(f.read())
        for key, value in before.samples.items() if before else ():
            if key[0].endswith(("_total", "_count", "_bucket")) and page.samples.get(key, 0) < value:
                raise Wrong(f"{key} went back from {value} to {page.samples.get(key)}")
        before = page
        print(len(page.samples))


if __name__ == "__main__":
    try:
        main()
    except Wrong as wrong:
        sys.exit(f"exposition: {wrong}")
