#!/usr/bin/env bash
# The manual against the programs: every subcommand, option and setting that they name is in their page, and no page names another
# one; the pages are well-formed, refer to pages that there are, and are installed.
# time limit: 120 s
# shellcheck source=tests/e2e/lib.sh
. "$(dirname "$0")/lib.sh"
need python3 man
FETCHER=$LM_BUILD/fetcher/lamella-fetcher
SNAPSHOTTER=$LM_BUILD/snapshotter/lamella-snapshotter
need_built "$LAMELLA" "$FETCHER" "$SNAPSHOTTER"
make_work manpages
MAN=$LM_ROOT/deploy/man

say "they are well-formed"
for page in "$MAN"/*.[1-8]; do
	LC_ALL=C.UTF-8 MANWIDTH=100 man --warnings -l "$page" >"$WORK/page" 2>"$WORK/err" || fail "$page: $(cat "$WORK/err")"
	[ ! -s "$WORK/err" ] || fail "$page: $(cat "$WORK/err")"
	[ "$(wc -l <"$WORK/page")" -gt 20 ] || fail "$page: nearly nothing"
	if command -v mandoc >/dev/null; then
		mandoc -T lint -W warning "$page" >"$WORK/err" || fail "$page: $(cat "$WORK/err")"
	fi
done

say "they are installed"
for page in "$MAN"/*; do
	grep -qF "'man/${page##*/}'" "$LM_ROOT/deploy/meson.build" || fail "${page##*/} is not in deploy/meson.build"
done

say "they say what the programs say"
cat >"$WORK/compare.py" <<'PY'
import pathlib, re, subprocess, sys
man, lamella, fetcher, snapshotter = sys.argv[1:]
failures = []

def fail(text):
    failures.append(text)

def page(name):
    return (pathlib.Path(man) / name).read_text()

def run(*words):
    r = subprocess.run(words, capture_output=True, text=True)
    if r.returncode != 0:
        sys.exit(f"{' '.join(words)}: exit code {r.returncode}: {r.stderr}")
    return r.stdout

HELP = {"--help", "-h", "--version"}

def options_in(text):
    """Where a line of a list of options begins: "  -n, --count N   ...", and what a usage line has."""
    found = set()
    for line in text.splitlines():
        at = re.match(r"\s+((?:-\w, )?--[a-z0-9][a-z0-9-]*|-\w\b)", line)
        if at:
            found |= set(at[1].split(", "))
        if line.lower().startswith("usage:") or "[--" in line:
            found |= set(re.findall(r"(?<![\w-])--?[a-z][a-z0-9-]*", line.split("Usage:")[-1]))
    return {o for o in found if o not in HELP and not (o.startswith("-") and not o.startswith("--") and len(o) > 2)}

def documented(text):
    """Fl -name is --name, Fl n is -n; what another program's words have in quotes or .Ic is not looked at."""
    found = set()
    for line in text.splitlines():
        if not line.startswith(".") or line.startswith((".\\\"", ".Ql", ".Ic", ".Dl", ".Li")):
            continue
        for name in re.findall(r"\bFl (-?[A-Za-z0-9][\w-]*)", line):
            found.add("-" + name)
        # .It Fl c , -config Ar file
        at = re.match(r"\.(?:It|Op) Fl \w [,|] (?:Fl )?(-[a-z][\w-]*)", line)
        if at:
            found.add("-" + at[1])
    return found

# --- lamella and its subcommands ---

listed = {l.split()[0] for l in run(lamella, "--help").splitlines() if re.match(r"  [a-z]", l)}
own = {"pull": "lamella-pull.1", "registry": "lamella-pull.1", "sync": "lamella-sync.1", "doctor": "lamella-doctor.1"}
commands = {}  # the words of one, and its options
def gather(words):
    text = run(lamella, *words, "--help")
    parts = re.findall(rf"^  lamella {' '.join(words)} ([a-z]+)", text, re.M)
    if not parts:
        commands[words] = options_in(text)
    for part in parts:
        gather(words + (part,))
for c in sorted(listed):
    gather((c,))

main = page("lamella.1")
for c in sorted(listed):
    name = own.get(c, "lamella.1")
    if not re.search(rf"\b(Cm|Nm) (?:lamella )?(?:\w+ , )*{c}\b", page(name)):
        fail(f"{name} has no subcommand {c}")
    if not re.search(rf"\bCm (?:\w+ , )*{c}\b", main):
        fail(f"lamella.1 does not name {c}")
for words in commands:
    for part in words[1:]:
        if not re.search(rf"\bCm [^\n]*\b{part}\b", main):
            fail(f"lamella.1 has no {' '.join(words)}")
# Those that the synopsis has, and the list of what they do.
named = set(re.findall(r"^\.Nm\n\.Cm ([a-z]+)", main, re.M))
for at in re.finditer(r"^\.It Cm ([a-z ,]+)$", main.split(".Sh APPTAINER")[0], re.M):
    named |= {w.split()[0] for w in at[1].split(" , ")}
for c in sorted(named - listed):
    fail(f"lamella.1 names the subcommand {c}, which there is not")

ACCESS = commands[("convert",)] & commands[("pull",)] & commands[("sync",)]
for name in sorted(set(own.values()) | {"lamella.1"}):
    text = page(name)
    here = documented(text)
    mine = {w: o for w, o in commands.items() if own.get(w[0], "lamella.1") == name}
    allowed = documented(main) & ACCESS if "access options of lamella convert" in text else set()
    for words, options in sorted(mine.items()):
        for o in sorted(options - here - allowed):
            fail(f"{name} has no {o} of lamella {' '.join(words)}")
    for o in sorted(here - set().union(*mine.values())):
        fail(f"{name} has {o}, which no command of it has")

# --- the daemons ---

for program, name in ((fetcher, "lamella-fetcher.8"), (snapshotter, "lamella-snapshotter.8")):
    options, here = options_in(run(program, "--help")), documented(page(name))
    for o in sorted(options - here):
        fail(f"{name} has no {o}")
    for o in sorted(here - options - HELP):
        fail(f"{name} has {o}, which the program has not")

# --- settings ---

keys = set(re.findall(r"^((?:CVMFS|LAMELLA|X509)_\w+)", run(fetcher, "--help-settings"), re.M))
conf = set(re.findall(r"^\.It Ev ((?:CVMFS|LAMELLA|X509)_\w+)", page("lamella.conf.5"), re.M))
for k in sorted(keys - conf):
    fail(f"lamella.conf.5 has no {k}")
for k in sorted(conf - keys):
    fail(f"lamella.conf.5 has {k}, which there is not")
for k in sorted(set(re.findall(r"\bLAMELLA_\w+", run(snapshotter, "--help"))) - conf):
    fail(f"lamella.conf.5 has no {k} of lamella-snapshotter")

# --- references ---

pages = {p.name for p in pathlib.Path(man).iterdir()}
for p in sorted(pages):
    for name, section in re.findall(r"\bXr ([\w.-]+) (\d)\b", page(p)):
        if name.startswith("lamella") and f"{name}.{section}" not in pages:
            fail(f"{p} refers to {name}({section}), which there is not")
    title = re.search(r"^\.Dt (\S+) (\d)$", page(p), re.M)
    if not title or f"{title[1].lower()}.{title[2]}" != p.lower():
        fail(f"{p} calls itself {title[0] if title else 'nothing'}")
    # Commands of ours in examples, and what is in quotes, are such that there are, options and all.
    for line in re.findall(r"(?:^|\.Ql |\.Ic |\.Dl )lamella ([a-z].*)", page(p), re.M):
        words = line.split()
        known = max((w for w in commands if tuple(words[: len(w)]) == w), key=len, default=None)
        if words[0] not in listed:
            fail(f"{p}: there is no lamella {words[0]}")
        elif known:
            for o in re.findall(r"(?<=\s)--[a-z][\w-]*", line.split("|")[0]):
                if o not in commands[known] | HELP:
                    fail(f"{p}: lamella {line}: there is no {o}")

print("\n".join(failures))
sys.exit(1 if failures else 0)
PY
python3 "$WORK/compare.py" "$MAN" "$LAMELLA" "$FETCHER" "$SNAPSHOTTER" >"$WORK/out" || fail "$(cat "$WORK/out")"
