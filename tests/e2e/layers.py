#!/usr/bin/env python3
"""Makes an OCI layout of images whose layers hold every corner of unpacking: layers.py LAYOUT

Writes LAYOUT/layers.tsv as well, a line for each layer: TAG, what is expected of the image ("same" tree as containerd
makes, "hidden": the same without what eStargz adds, "refused" by containerd, too), the layer's digest, its chain id.
"""
import gzip, hashlib, io, json, os, struct, subprocess, sys, tarfile, tempfile

LAYOUT = sys.argv[1]
OCI = "application/vnd.oci.image."
TIME = 1600000000


def record(key, value):
    body = b" " + key.encode() + b"=" + value + b"\n"
    size = len(body) + 1
    while len(str(size)) + len(body) != size:
        size = len(str(size)) + len(body)
    return str(size).encode() + body


def header(name, kind, **fields):
    info = tarfile.TarInfo(name)
    info.type = kind.encode()
    info.mode = 0o755 if kind == "5" else 0o644
    info.mtime = TIME
    for key, value in fields.items():
        setattr(info, {"to": "linkname"}.get(key, key), value)
    return info


def pax(*records, kind="x"):
    """A pax header with these (key, value) records, which tarfile would not write as they are."""
    data = b"".join(record(k, v) for k, v in records)
    return header("PaxHeaders/x", kind, size=len(data)).tobuf(tarfile.USTAR_FORMAT) + data + bytes(-len(data) % 512)


def xattr(*attributes):
    return pax(*(("SCHILY.xattr." + k, v) for k, v in attributes))


def entry(name, kind="0", data=b"", **fields):
    info = header(name, kind, **fields)
    info.size = len(data)
    return info.tobuf(tarfile.GNU_FORMAT) + data + bytes(-len(data) % 512)


def tar(*entries):
    return b"".join(entries) + bytes(1024)


def gnu_tar(*arguments):
    """What GNU tar makes of a directory with sparse files, hard links and long names."""
    with tempfile.TemporaryDirectory() as tmp:
        os.mkdir(tmp + "/g")
        with open(tmp + "/g/long", "w") as f:
            f.write("x")
        os.rename(tmp + "/g/long", tmp + "/g/" + "L" * 150)
        os.symlink("Z" * 150, tmp + "/g/link")
        if "--sparse" in arguments:
            with open(tmp + "/g/sparse", "wb") as f:
                f.truncate(3000000)
                f.seek(1500000)
                f.write(b"middle")
                f.seek(2999999)
                f.write(b"e")
            with open(tmp + "/g/hole", "wb") as f:
                f.truncate(1 << 20)
            os.link(tmp + "/g/sparse", tmp + "/g/linked")
        command = ["tar", "-C", tmp, "-cf", "-", *arguments, "g"]
        return subprocess.run(command, stdout=subprocess.PIPE, check=True).stdout


def zstd(data):
    return subprocess.run(["zstd", "-q", "-c"], input=data, stdout=subprocess.PIPE, check=True).stdout


class Layer:
    """A layer that is not simply compressed by gzip."""

    def __init__(self, data, blob, kind="layer.v1.tar+gzip", annotations=None):
        self.data, self.blob, self.kind, self.annotations = data, blob, kind, annotations


def stargz(entries, footer=True, annotated=False):
    """A gzip member for each entry, then the table of contents, then an empty member that says where that begins."""
    toc = json.dumps({"version": 1, "entries": []}).encode()
    blob = b"".join(gzip.compress(e, mtime=0) for e in entries)
    offset = len(blob)
    last = entry("stargz.index.json", data=toc) + bytes(1024)
    blob += gzip.compress(last, mtime=0)
    if footer:
        extra = b"SG" + struct.pack("<H", 22) + b"%016xSTARGZ" % offset
        blob += b"\x1f\x8b\x08\x04\0\0\0\0\0\xff" + struct.pack("<H", len(extra)) + extra + b"\1\0\0\xff\xff" + bytes(8)
    notes = {"containerd.io/snapshot/stargz/toc.digest": "sha256:" + hashlib.sha256(toc).hexdigest()} if annotated else None
    return Layer(b"".join(entries) + last, blob, annotations=notes)


def zstd_chunked(entries):
    """A zstd frame for each entry, the table of contents and the footer in frames that are to be skipped."""
    data = tar(*entries)
    skip = lambda what: struct.pack("<II", 0x184D2A50, len(what)) + what
    blob = b"".join(map(zstd, entries)) + zstd(bytes(1024)) + skip(zstd(b'{"version":1}')) + skip(b"GNUlInUx" * 8)
    return Layer(data, blob, "layer.v1.tar+zstd", {"io.github.containers.zstd-chunked.manifest-position": "1:2:3:1"})


def acl(*entries):
    """As the kernel keeps it: (tag, permissions, id)."""
    return struct.pack("<I", 2) + b"".join(struct.pack("<HHI", t, p, i & 0xffffffff) for t, p, i in entries)


ACL = "system.posix_acl_access"
NAMED = acl((1, 6, -1), (2, 7, 1000), (4, 5, -1), (16, 7, -1), (32, 4, -1))
CAP2 = bytes([1, 0, 0, 2]) + struct.pack("<IIII", 0x2000, 0, 0, 0)
CAP3 = bytes([1, 0, 0, 3]) + struct.pack("<IIIII", 0x2000, 0, 0, 0, 1000)
CAP = "security.capability"

below = tar(
    entry("lower", "5", mode=0o2750, uid=11, gid=22),
    xattr(("user.low", b"x"), ("user.binary", b"\0\1\xff")),
    entry("lower/deep", "5", mode=0o1777, uid=33),
    entry("real", "5", mode=0o700, uid=5), entry("alias", "2", to="/real"),
    entry("file", data=b"f"), entry("gone", "5", uid=9), entry("unlisted/x"),
    entry("big", data=os.urandom(700000)), entry("sgid", "5", mode=0o2775, gid=77))

corners = tar(
    # the root, missing parents and what they take over
    entry("./", "5", mode=0o700, uid=1), entry("lower/deep/er/new", data=b"n"), entry("alias/x"), entry("sub/alias/y"),
    entry("sgid/made/z"), entry("mysgid", "5", mode=0o2775, gid=88), entry("mysgid/made/z", gid=1),
    # whiteouts and opaque directories
    entry(".wh.gone", uid=3, gid=4), entry("op", "5"), entry("op/before"), entry("op/.wh..wh..opq"), entry("op/after"),
    entry("op", "5", mode=0o711), entry("op2/.wh..wh..opq"), entry(".wh..wh.plnk", "5"), entry(".wh..wh.orph/1"),
    entry("w/.wh.link", "2", to="q"), entry("w/.wh.d", "5"), entry("w/.wh.again"), entry("w/again", "5"), entry("w/again/c"),
    # attributes
    xattr((CAP, CAP2), ("user.k", b"1")), entry("ping", mode=0o4755, data=b"p"), entry("ping2", "1", to="ping", mode=0o755),
    xattr((CAP, CAP2)), entry("cap", mode=0o755), xattr((CAP, CAP3)), entry("cap3", mode=0o755),
    xattr((CAP, CAP2)), entry("cap4"), xattr((CAP, CAP2)), entry("cap5", "1", to="cap4"),
    pax(("SCHILY.xattr.trusted.overlay.opaque", b"y"), ("SCHILY.xattr.trusted.x", b"1"), ("SCHILY.xattr.com.apple.x", b"q"),
        ("SCHILY.xattr.user.empty", b""), ("SCHILY.xattr.user.a", b"old"), ("SCHILY.xattr.user.a", b"new"),
        ("SCHILY.xattr.security.foo", b"bar"), ("LIBARCHIVE.xattr.user.b", b"eA=="), ("RHT.security.selinux", b"s"),
        ("SCHILY.acl.access", b"user::---,group::---,other::---"), ("SCHILY.devmajor", b"9")), entry("attributes"),
    xattr(("user.k", b"1"), ("security.foo", b"1")), entry("symlink", "2", to="x"),
    xattr(("user.k", b"1")), entry("fifo", "6"),
    xattr(("user.k", b"1")), entry("char", "3", devmajor=1, devminor=3, mode=0o6666),
    entry("block", "4", devmajor=300, devminor=70000), entry("zero", "3"),
    # the same name again
    entry("d1", "5"), entry("d1/x"), entry("d1", data=b"now a file"), entry("d2"), entry("d2", "5"), entry("d2/y"),
    entry("again", data=b"1"), entry("again2", "1", to="again"), entry("again", data=b"2"),
    entry("global"), pax(("path", b"global"), kind="g"),
    # links
    entry("h/a", data=b"h"), entry("i/b", "1", to="h/a", uid=44, mode=0o600, mtime=5), entry("s", "2", to="h/a"),
    entry("s2", "1", to="s"), entry("u", "2", to="h"), entry("through", "1", to="/u/./a", uid=44, mode=0o600, mtime=6),
    header("sized", "1", to="h/a", size=9999).tobuf(tarfile.USTAR_FORMAT),
    entry("dangling", "2", to="made/by/link"), entry("dangling/f"), entry("out", "2", to="../../../h"), entry("out/in"),
    # names
    entry("../../up"), entry("/absolute"), entry("x/../clean/./a"), entry("slash/", data=b"a file all the same"),
    pax(("path", b"n\xff\xfe\xc3")), entry("name"), pax(("linkpath", b"t\xff$(X)")), entry("raw", "2", to="q"),
    entry("n" * 255), entry("/".join(["p" * 200] * 10)), entry("target", "2", to="t" * 4000),
    # numbers
    pax(("mtime", b"1600000000.123456789123")), entry("t1"), pax(("mtime", b"-5.5")), entry("t2"),
    pax(("mtime", b"9223372037")), entry("t3"), pax(("mtime", b"-0.5")), entry("t4", "5"),
    pax(("mtime", b"9223372036.854775807")), entry("t5"),
    pax(("uid", b"4294967295"), ("gid", b"4294967295")), entry("nobody"),
    pax(("uid", b"3000000000"), ("gid", b"4000000000")), entry("bigid"), entry("mode", mode=0o7777),
    entry("dt", "5", mtime=7), entry("dt2", "5", mtime=8), entry("dt2", "2", to="dt"),
    # sizes around the limits of blocks and chunks
    entry("empty"), entry("512", data=b"x" * 512), entry("512k", data=b"y" * 524288), entry("512k1", data=b"y" * 524289))

lowest = tar(
    entry("d/x"), entry(".wh.d"), entry(".wh.d"), entry("a/.wh.never"), entry("o", "5"), entry("o/listed"), entry("o/dir", "5"),
    entry("o/dir/made/x"), entry("o/made/x"), entry("o/.wh..wh..opq"), entry("o2/.wh..wh..opq"), entry(".wh..wh.plnk", "5"))

lazy = [entry("usr", "5"), entry("usr/.prefetch.landmark", data=b"own"), entry("usr/file", data=b"f" * 5000),
        entry(".prefetch.landmark", data=b"\x0f")]
plain = tar(entry("d", "5"), entry("d/f", data=b"f"), entry("d/l", "1", to="d/f"))
# Docker's empty layer, which many old images name again and again.
EMPTY = bytes.fromhex("1f8b080000096e8800ff621805a360148c5800080000ffff2eafb5ef00040000")
assert hashlib.sha256(EMPTY).hexdigest() == "a3ed95caeb02ffe68cdd9fd84406680ae93d633cb16422d00e8a7c22955b46d4"
sparse = [gnu_tar("--sparse", "--format=posix", "--sparse-version=" + v, "--transform=s/^g/" + v + "/") for v in ("0.0", "0.1", "1.0")]
same = {
    "corners": [below, corners],
    "gnu-tar": [*sparse, gnu_tar("--format=gnu", "--transform=s/^g/gnu/"), gnu_tar("--format=posix", "--xattrs")],
    "lowest": [lowest],
    "no-end": [entry("a", data=b"abc")[:512 + 3]],
    "one-zero-block": [entry("a", data=b"abc") + bytes(512)],
    "trailer": [tar(entry("a", data=b"abc")) + b"garbage" * 100],
    "empty": [bytes(1024), b""],
    "empty-docker": [plain, Layer(bytes(1024), EMPTY), Layer(bytes(1024), EMPTY)],
    "twice": [plain, tar(entry("e", data=b"e")), plain],
    "uncompressed": [Layer(plain, plain, "layer.v1.tar")],
    "names": [tar(entry("new\nline"), entry("tab\t\x7f"), entry("spa ce "), entry("-rf"), entry("\\x41"), entry("*?[a]"),
                  pax(("path", b"\xff" * 255)), entry("x"), entry("/".join(["q" * 255] * 14), data=b"deep"))],
    "acls": [tar(xattr((ACL, NAMED)), entry("masked", mode=0o640), xattr((ACL, NAMED)), entry("wide", mode=0o777),
                xattr((ACL, acl((1, 6, -1), (4, 4, -1), (32, 4, -1)))), entry("minimal", mode=0o600),
                xattr((ACL, NAMED)), entry("dir", "5"), entry("dir/inside"))],
    "not-stargz": [tar(*lazy, entry("stargz.index.json", data=b"{}"), entry(".no.prefetch.landmark"))],
    "zstd-chunked": [zstd_chunked([entry("a", data=b"a" * 5000), entry("stargz.index.json"), entry("b", data=b"b")])],
}
hidden = {
    "stargz": [stargz(lazy, annotated=True)],
    "stargz-footer": [stargz([*lazy[:3], entry(".no.prefetch.landmark", data=b"\x0f")])],
    "stargz-annotation": [tar(entry("x")), stargz(lazy, footer=False, annotated=True)],
}
refused = {
    "whiteout-after": [entry("after"), entry(".wh.after")], "whiteout-twice": [entry(".wh.twice"), entry(".wh.twice")],
    "whiteout-empty": [entry("a/.wh.")], "whiteout-dot": [entry("a/.wh..")],
    "link-missing": [entry("a", "1", to="b")], "link-directory": [entry("d", "5"), entry("a", "1", to="d")],
    "link-below": [entry("a", "1", to="below")], "link-self": [entry("a"), entry("a", "1", to="a")], "link-forward": [entry("a", "1", to="b"), entry("b")],
    "through-file": [entry("a"), entry("a/b")], "loop": [entry("l", "2", to="l"), entry("l/x")],
    "contiguous": [entry("a", "7")], "name-256": [entry("n" * 256)], "path-5000": [entry("/".join(["p" * 200] * 25))],
    "target-empty": [entry("a", "2", to="")], "target-4096": [entry("a", "2", to="t" * 4096)],
    "directory-gone": [entry("d", "5"), entry("d", "2", to="nowhere")],
    "capability": [xattr((CAP, b"x" * 20)), entry("a")], "attribute-user": [xattr(("user.", b"x")), entry("a")],
    "attribute-none": [xattr(("", b"x")), entry("a")],
    "acl": [xattr(("system.posix_acl_default", b"x")), entry("a")], "time": [pax(("mtime", b"x")), entry("a")],
    "cut-in-header": [entry("a")[:300]], "cut-in-content": [entry("a", data=b"x" * 1000)[:1000]],
    "zero-block": [entry("a"), bytes(512), entry("b")],
}


def blob(data):
    digest = hashlib.sha256(data).hexdigest()
    with open(LAYOUT + "/blobs/sha256/" + digest, "wb") as f:
        f.write(data)
    return "sha256:" + digest


def descriptor(kind, data, **more):
    return {"mediaType": OCI + kind, "digest": blob(data), "size": len(data), **more}


def add_image(tag, expect, tars, table):
    layers, ids, chain = [], [], ""
    for layer in tars:
        if isinstance(layer, bytes):
            layer = Layer(layer, gzip.compress(layer, mtime=0))
        notes = {"annotations": layer.annotations} if layer.annotations else {}
        layers.append(descriptor(layer.kind, layer.blob, **notes))
        ids.append("sha256:" + hashlib.sha256(layer.data).hexdigest())
        chain = "sha256:" + hashlib.sha256((chain + " " + ids[-1]).encode()).hexdigest() if chain else ids[-1]
        table.write("\t".join((tag, expect, layers[-1]["digest"], chain)) + "\n")
    # Every instruction has its place in the history, also those that made no layer.
    history = [{"created_by": "COPY", "empty_layer": False}] * len(ids) + [{"created_by": "CMD", "empty_layer": True}]
    config = {"architecture": "amd64", "os": "linux", "config": {}, "rootfs": {"type": "layers", "diff_ids": ids},
              "history": history}
    manifest = {"schemaVersion": 2, "mediaType": OCI + "manifest.v1+json",
                "config": descriptor("config.v1+json", json.dumps(config).encode()), "layers": layers}
    return descriptor("manifest.v1+json", json.dumps(manifest).encode(), annotations={"org.opencontainers.image.ref.name": tag})


os.makedirs(LAYOUT + "/blobs/sha256")
with open(LAYOUT + "/layers.tsv", "w") as table:
    images = [add_image(tag, "same", tars, table) for tag, tars in same.items()]
    images += [add_image(tag, "hidden", tars, table) for tag, tars in hidden.items()]
    images.append(add_image("none", "same", [], table))
    for tag, entries in refused.items():
        data = b"".join(entries) + (b"" if tag.startswith("cut-") else bytes(1024))
        images.append(add_image(tag, "refused", [tar(entry("base", "5"), entry("below")), data], table))
with open(LAYOUT + "/index.json", "w") as f:
    json.dump({"schemaVersion": 2, "manifests": images}, f)
with open(LAYOUT + "/oci-layout", "w") as f:
    json.dump({"imageLayoutVersion": "1.0.0"}, f)
