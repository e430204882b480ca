"""A registry that guards an OCI layout: gatekeeper.py LAYOUT REGISTRY TOKENS BLOBS, each HOST:PORT.

REGISTRY serves /v2/NAME/... to those who bring a token. A token dies after four requests. Every third request for a
manifest is answered by 429. Blobs are elsewhere: a redirect to BLOBS, which refuses whoever shows an Authorization
header, and breaks the connection of a blob's first download in its middle. TOKENS gives tokens to user:secret by Basic
(GET) and for the identity token "identity" by OAuth 2 (POST). What happens is written to standard output.
"""
import base64
import http.server
import json
import sys
import threading
import urllib.parse

layout, registry, tokens, blobs = sys.argv[1:]
lock = threading.Lock()
uses = {}  # of each token
manifests = 0
broken = set()


def note(*words):
    with lock:
        print(*words, flush=True)


class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, *args):
        pass

    def reply(self, status, body=b"", **headers):
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)


def read_blob(digest):
    with open(f"{layout}/blobs/sha256/{digest.removeprefix('sha256:')}", "rb") as f:
        return f.read()


def find_manifest(reference):
    with open(f"{layout}/index.json", encoding="utf-8") as f:
        items = json.load(f)["manifests"]
    if reference.startswith("sha256:"):
        return read_blob(reference)
    for item in items:
        if item.get("annotations", {}).get("org.opencontainers.image.ref.name") == reference:
            return read_blob(item["digest"])
    raise FileNotFoundError(reference)


class Registry(Handler):
    def allowed(self):
        token = self.headers.get("Authorization", "").removeprefix("Bearer ")
        with lock:
            if token not in uses or uses[token] == 4:
                return False
            uses[token] += 1
            return True

    def do_GET(self):
        global manifests
        name, kind, reference = self.path.removeprefix("/v2/").rsplit("/", 2)
        if not self.allowed():
            note("registry", 401, self.path)
            challenge = f'Bearer realm="http://{tokens}/token",service="gate",scope="repository:{name}:pull"'
            return self.reply(401, WWW_Authenticate=challenge)
        if kind == "blobs":
            note("registry", 307, self.path)
            return self.reply(307, Location=f"http://{blobs}/{reference}")
        with lock:
            manifests += 1
            busy = manifests % 3 == 1
        if busy:
            note("registry", 429, self.path)
            return self.reply(429, Retry_After="1")
        note("registry", 200, self.path)
        try:
            return self.reply(200, find_manifest(reference))
        except FileNotFoundError:
            return self.reply(404)


class Tokens(Handler):
    def give(self, key):
        with lock:
            token = f"token-{len(uses)}"
            uses[token] = 0
        note("tokens", 200, key)
        self.reply(200, json.dumps({key: token, "expires_in": 300}).encode())

    def do_GET(self):
        sent = self.headers.get("Authorization", "").removeprefix("Basic ")
        if base64.b64decode(sent) != b"user:secret":
            note("tokens", 401)
            return self.reply(401)
        return self.give("token")

    def do_POST(self):
        text = self.rfile.read(int(self.headers["Content-Length"])).decode()
        form = urllib.parse.parse_qs(text)
        if form.get("refresh_token") != ["identity"] or form.get("grant_type") != ["refresh_token"]:
            note("tokens", 401)
            return self.reply(401)
        return self.give("access_token")


class Blobs(Handler):
    def do_GET(self):
        if "Authorization" in self.headers:
            note("blobs LEAK", self.path)
            return self.reply(400)
        data = read_blob(self.path[1:])
        wanted = self.headers.get("Range")
        start = int(wanted.removeprefix("bytes=").removesuffix("-")) if wanted else 0
        part = data[start:]
        with lock:
            cut = self.path not in broken and len(data) > 1 << 20
            broken.add(self.path)
        note("blobs", 206 if wanted else 200, self.path, "cut" if cut else "")
        self.send_response(206 if wanted else 200)
        self.send_header("Content-Length", str(len(part)))
        self.end_headers()
        self.wfile.write(part[:len(part) * 9 // 10] if cut else part)
        self.close_connection = cut
        return None


def serve(address, handler):
    host, port = address.rsplit(":", 1)
    server = http.server.ThreadingHTTPServer((host, int(port)), handler)
    threading.Thread(target=server.serve_forever).start()


serve(tokens, Tokens)
serve(blobs, Blobs)
serve(registry, Registry)
