#!/usr/bin/env python3
"""Stacks layers on an image: deep.py LAYOUT TAG OUT N

OUT is an OCI layout with tag latest: the image LAYOUT:TAG with N more layers, always the same. Each adds a file of its own
and replaces /deep/last; some delete, and some make a directory opaque, so that it matters where in the stack they are.
"""
import gzip, hashlib, io, json, os, sys, tarfile

base, tag, out, n = sys.argv[1], sys.argv[2], sys.argv[3], int(sys.argv[4])
OCI = "application/vnd.oci.image."


def layer(i):
    names = {f"deep/own/{i}": str(i), "deep/last": f"{i}\n", f"deep/some/{i}": ""}
    if i % 7 == 0:
        names[f"deep/own/.wh.{i - 3}"] = ""
    if i % 20 == 0:
        names["deep/some/.wh..wh..opq"] = ""
    data = io.BytesIO()
    with tarfile.open(fileobj=data, mode="w", format=tarfile.USTAR_FORMAT) as tar:
        for d in ("deep", "deep/own", "deep/some"):
            info = tarfile.TarInfo(d)
            info.type, info.mode, info.mtime = tarfile.DIRTYPE, 0o755, 1600000000 + i
            tar.addfile(info)
        for name, text in names.items():
            info = tarfile.TarInfo(name)
            info.size, info.mtime = len(text), 1600000000 + i
            tar.addfile(info, io.BytesIO(text.encode()))
    return data.getvalue()


def read(digest):
    with open(f"{base}/blobs/sha256/{digest.split(':')[1]}", "rb") as f:
        return f.read()


def descriptor(kind, data):
    digest = hashlib.sha256(data).hexdigest()
    with open(f"{out}/blobs/sha256/{digest}", "wb") as f:
        f.write(data)
    return {"mediaType": OCI + kind, "digest": "sha256:" + digest, "size": len(data)}


with open(base + "/index.json") as f:
    found = [m for m in json.load(f)["manifests"] if m["annotations"]["org.opencontainers.image.ref.name"] == tag]
manifest = json.loads(read(found[0]["digest"]))
config = json.loads(read(manifest["config"]["digest"]))
os.makedirs(out + "/blobs/sha256")
for d in manifest["layers"]:
    name = "/blobs/sha256/" + d["digest"].split(":")[1]
    os.symlink(os.path.realpath(base + name), out + name)
config.pop("history", None)  # it would have to tell of the new layers, too
for i in range(1, n + 1):
    data = layer(i)
    config["rootfs"]["diff_ids"].append("sha256:" + hashlib.sha256(data).hexdigest())
    manifest["layers"].append(descriptor("layer.v1.tar+gzip", gzip.compress(data, mtime=0)))
manifest["config"] = descriptor("config.v1+json", json.dumps(config).encode())
manifest["mediaType"] = OCI + "manifest.v1+json"
top = descriptor("manifest.v1+json", json.dumps(manifest).encode())
top["annotations"] = {"org.opencontainers.image.ref.name": "latest"}
with open(out + "/index.json", "w") as f:
    json.dump({"schemaVersion": 2, "manifests": [top]}, f)
with open(out + "/oci-layout", "w") as f:
    json.dump({"imageLayoutVersion": "1.0.0"}, f)
