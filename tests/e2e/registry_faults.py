"""A registry of images that each have a fault: registry_faults.py SMALL LARGE REGISTRY TOKENS BLOBS.

SMALL and LARGE are OCI layouts, the others HOST:PORT. The image FAULT:latest is SMALL (or LARGE, where the name begins with
"large-") behind the fault of its name; see FAULTS. Those whose name holds "token" or "redirect" want a token, which TOKENS
gives to whoever asks. BLOBS is where redirects lead. What is answered is written to standard output, a line each:
FAULT WHERE STATUS BYTES-SENT, and LEAK where BLOBS is shown an Authorization header.
"""
import http.server
import json
import os
import socket
import struct
import sys
import threading
import time
import urllib.parse

small, large, registry, tokens, blobs = sys.argv[1:]
lock = threading.Lock()
counts = {}  # of requests, by what they are for
valid = {}  # the tokens that are still good, with how many requests they are good for


def note(*words):
    with lock:
        print(*words, flush=True)


def times(*key):
    """How often this was called with this key."""
    with lock:
        counts[key] = counts.get(key, 0) + 1
        return counts[key]


class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True

    def log_message(self, *args):
        pass

    def reply(self, status, body=b"", **headers):
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def reset(self):
        """The connection ends as when a machine dies: with a reset, not after what was sent."""
        self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        os.close(self.connection.detach())
        self.close_connection = True

    def stall(self):
        """Until the client gives up."""
        self.connection.settimeout(300)
        try:
            self.connection.recv(1)
        except OSError:
            pass
        self.close_connection = True

    def send_blob(self, path, fault, what, where):
        """The blob from where the request wants it, and what the fault makes of it: what(size) says how many bytes are
        sent, how many are announced, and what comes then (a method, or None)."""
        size = os.path.getsize(path)
        wanted = self.headers.get("Range") if "no-range" not in fault else None
        start = int(wanted.removeprefix("bytes=").removesuffix("-")) if wanted else 0
        if start >= size > 0:
            note(fault, where, 416, 0)
            return self.reply(416)
        send, announce, then = what(size - start)
        self.send_response(206 if wanted else 200)
        self.send_header("Content-Length", str(announce))
        self.end_headers()
        sent = 0
        try:
            with open(path, "rb") as f:
                f.seek(start)
                while sent < send:
                    data = f.read(min(1 << 18, send - sent))
                    if fault == "wrong":
                        data = data[:-1] + bytes([data[-1] ^ 1])
                    self.wfile.write(data)
                    sent += len(data)
        except OSError:
            self.close_connection = True
            then = None
        note(fault, where, 206 if wanted else 200, sent)
        if then:
            then()
        elif send != announce:
            self.close_connection = True
        return None


def layout_of(fault):
    return large if fault.startswith("large-") else small


def blob_path(fault, digest):
    return f"{layout_of(fault)}/blobs/sha256/{digest.removeprefix('sha256:')}"


def manifest_of(fault):
    with open(layout_of(fault) + "/index.json", encoding="utf-8") as f:
        return json.load(f)["manifests"][0]["digest"]


def layer_of(fault):
    with open(blob_path(fault, manifest_of(fault)), encoding="utf-8") as f:
        return json.load(f)["layers"][0]["digest"]


# What becomes of a request for the layer: given the handler, the path, and the how manyth it is.
def whole(size):
    return size, size, None


def cut(at, end):
    return lambda size: (size * at // 100, size, end)


def invalidate():
    with lock:
        valid.clear()


def answer_redirect(h, path, n):
    return h.reply(307, Location=f"http://{blobs}/{path}")


FAULTS = {
    "plain": lambda h, path, n: whole,
    "token-each": lambda h, path, n: whole,
    "token-midway": lambda h, path, n: cut(50, h.reset_and_invalidate) if n == 1 else whole,
    "token-never": lambda h, path, n: whole,
    "busy-once": lambda h, path, n: h.reply(429, Retry_After="1") if n == 1 else whole,
    "busy-date": lambda h, path, n: h.reply(503, Retry_After=h.date_time_string(time.time() + 2)) if n == 1 else whole,
    "busy-always": lambda h, path, n: h.reply(429, Retry_After="0"),
    "busy-long": lambda h, path, n: h.reply(429, Retry_After="3600"),
    "error-once": lambda h, path, n: h.reply(500) if n == 1 else whole,
    "error-always": lambda h, path, n: h.reply(500),
    "gone": lambda h, path, n: h.reply(404),
    "short": lambda h, path, n: lambda size: (size - 1000, size - 1000, None),
    "wrong": lambda h, path, n: whole,
    "length-more": lambda h, path, n: lambda size: (size, size + 1000, None),
    "length-less": lambda h, path, n: lambda size: (size, size - 1000, None),
    "large-reset": lambda h, path, n: cut(90, h.reset) if n == 1 else whole,
    "large-no-range": lambda h, path, n: cut(90, h.reset) if n == 1 else whole,
    "large-crumbs": lambda h, path, n: cut(20, h.reset) if n < 6 else whole,
    "reset-first": lambda h, path, n: cut(0, h.reset) if n == 1 else whole,
    "reset-always": lambda h, path, n: cut(0, h.reset),
    "no-range-always": lambda h, path, n: cut(50, h.reset),
    "redirect": answer_redirect,
    "redirect-dead": lambda h, path, n: h.reply(307, Location="http://127.0.0.1:1/" + path),
    "redirect-loop": lambda h, path, n: h.reply(307, Location=h.path),
    "stall-once": lambda h, path, n: cut(50, h.stall) if n == 1 else whole,
    "stall-always": lambda h, path, n: cut(0, h.stall),
}


class Registry(Handler):
    def reset_and_invalidate(self):
        invalidate()
        self.reset()

    def allowed(self, fault):
        if "token" not in fault and "redirect" not in fault:
            return True
        token = self.headers.get("Authorization", "").removeprefix("Bearer ")
        with lock:
            left = valid.get(token, 0) if fault != "token-never" else 0
            if left > 0:
                valid[token] = left - 1
            return left > 0

    def do_GET(self):
        name, kind, reference = self.path.removeprefix("/v2/").rsplit("/", 2)
        fault = name.rsplit("/", 1)[-1]
        if not self.allowed(fault):
            note(fault, kind, 401, 0)
            return self.reply(401, WWW_Authenticate=f'Bearer realm="http://{tokens}/token",service="{fault}"')
        if kind == "manifests":
            with open(blob_path(fault, manifest_of(fault)), "rb") as f:
                return self.reply(200, f.read(), Content_Type="application/vnd.oci.image.manifest.v1+json")
        path = blob_path(fault, reference)
        if reference != layer_of(fault):
            return self.send_blob(path, "plain", whole, "config")
        what = FAULTS[fault](self, path.lstrip("/"), times(fault))
        if what is None:  # answered
            return note(fault, kind, "refused", 0)
        return self.send_blob(path, fault, what, kind)


class Tokens(Handler):
    def do_GET(self):
        fault = urllib.parse.parse_qs(urllib.parse.urlsplit(self.path).query)["service"][0]
        with lock:
            token = f"secret-{len(counts)}-{len(valid)}"
            valid[token] = 1 if fault == "token-each" else 1000
        note(fault, "token", 200, 0)
        self.reply(200, json.dumps({"token": token, "expires_in": 300}).encode())


class Blobs(Handler):
    def do_GET(self):
        if "Authorization" in self.headers:
            note("redirect LEAK")
            return self.reply(400)
        return self.send_blob(self.path, "redirect", cut(90, self.reset) if times("blobs") == 1 else whole, "elsewhere")


class Server(http.server.ThreadingHTTPServer):
    def handle_error(self, request, client_address):
        if not isinstance(sys.exc_info()[1], ConnectionError):
            super().handle_error(request, client_address)


def serve(address, handler):
    host, port = address.rsplit(":", 1)
    server = Server((host, int(port)), handler)
    server.daemon_threads = True
    threading.Thread(target=server.serve_forever).start()


serve(tokens, Tokens)
serve(blobs, Blobs)
serve(registry, Registry)
