#!/usr/bin/env python3
"""The few calls of S3 that a repository needs, in memory, for tests.

  s3_server.py HOST:PORT BUCKET ACCESS_KEY SECRET_KEY [ACCESS_LOG]
  s3_server.py --self-test

Signatures (AWS Signature Version 4) are computed here from the published rules, with nothing of the client's; --self-test
does so with Amazon's published examples. Objects may be read by anybody, as with a bucket for the public; all else must be
signed. Each line of the access log: METHOD TARGET STATUS, and why.

POST /-/control takes a JSON object, to be merged into what the server does:

  faults              [{"method": RE, "key": RE, "count": N, "do": WHAT}, ...]; WHAT: a status ("503"), "reset" (before the
                      answer), "lost" (done, and reset instead of the answer), "truncate" (of a body), "flip" (a byte of what
                      was received, before it is checked), "copy-error" (an error in the body of a success), "wait:S"
  ignore_conditions   If-Match and If-None-Match are not looked at, as on servers that do not know them
  page                keys in a page of a listing
  age                 {KEY: SECONDS}: the object becomes that much older
  skew                seconds that the server's clock is ahead
"""
import email.utils
import hashlib
import hmac
import http.server
import json
import re
import socket
import socketserver
import struct
import sys
import threading
import time
import urllib.parse
from xml.sax.saxutils import escape

EMPTY = hashlib.sha256(b"").hexdigest()
ALGORITHM = "AWS4-HMAC-SHA256"


# --- signatures -----------------------------------------------------------------------------------------------------


def quote(text, safe=""):
    return urllib.parse.quote(text, safe="-._~" + safe)


def canonical_query(query):
    pairs = []
    for part in query.split("&") if query else []:
        name, _, value = part.partition("=")
        pairs.append((quote(urllib.parse.unquote(name)), quote(urllib.parse.unquote(value))))
    return "&".join("=".join(pair) for pair in sorted(pairs))


def signature(secret, method, target, headers, signed, stamp, scope, payload):
    path, _, query = target.partition("?")
    lines = [method, quote(urllib.parse.unquote(path), "/"), canonical_query(query)]
    lines += ["%s:%s" % (name, " ".join(headers[name].split())) for name in signed]
    lines += ["", ";".join(signed), payload]
    text = "\n".join([ALGORITHM, stamp, scope, hashlib.sha256("\n".join(lines).encode()).hexdigest()])
    key = ("AWS4" + secret).encode()
    for part in scope.split("/"):
        key = hmac.new(key, part.encode(), hashlib.sha256).digest()
    return hmac.new(key, text.encode(), hashlib.sha256).hexdigest()


def self_test():
    """Amazon S3 API reference, "Authenticating Requests: Using the Authorization Header", its four examples."""
    secret = "wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY"
    stamp, scope = "20130524T000000Z", "20130524/us-east-1/s3/aws4_request"
    welcome = hashlib.sha256(b"Welcome to Amazon S3.").hexdigest()
    date = {"date": "Fri, 24 May 2013 00:00:00 GMT"}
    examples = [
        ("GET", "/test.txt", {"range": "bytes=0-9"}, EMPTY,
         "f0e8bdb87c964420e857bd35b5d6ed310bd44f0170aba48dd91039c6036bdb41"),
        ("PUT", "/test$file.text", dict(date, **{"x-amz-storage-class": "REDUCED_REDUNDANCY"}), welcome,
         "98ad721746da40c64f1a55b78f14c238d841ea1380cd77a1b5971af0ece108bd"),
        ("GET", "/?lifecycle", {}, EMPTY, "fea454ca298b7da1c68078a5d1bdbfbbe0d65c699e0f91ac7a200a0136783543"),
        ("GET", "/?max-keys=2&prefix=J", {}, EMPTY,
         "34b48302e7b5fa45bde8084f4b7868a86f0a534bc59db6670ed5711ef69dc6f7"),
    ]
    for method, target, more, payload, wanted in examples:
        headers = dict(more, host="examplebucket.s3.amazonaws.com")
        headers.update({"x-amz-date": stamp, "x-amz-content-sha256": payload})
        found = signature(secret, method, target, headers, sorted(headers), stamp, scope, payload)
        if found != wanted:
            sys.exit("%s %s: %s instead of %s" % (method, target, found, wanted))
    print("%d published examples" % len(examples))


# --- the bucket -------------------------------------------------------------------------------------------------------


class Object:
    def __init__(self, data, headers, now):
        self.data, self.headers, self.modified = data, headers, now
        self.etag = '"%s"' % hashlib.md5(data).hexdigest()


class Bucket:
    def __init__(self, name, access_key, secret_key, log):
        self.name, self.access_key, self.secret_key = name, access_key, secret_key
        self.log = open(log, "a", buffering=1) if log else None
        self.lock = threading.Lock()
        self.objects = {}
        self.does = {"faults": [], "ignore_conditions": False, "page": 1000, "age": {}, "skew": 0}

    def now(self):
        return time.time() + self.does["skew"]

    def control(self, settings):
        with self.lock:
            self.does.update(settings)
            for key, seconds in settings.get("age", {}).items():
                self.objects[key].modified -= seconds

    def fault(self, method, key):
        with self.lock:
            for fault in self.does["faults"]:
                if fault["count"] > 0 and re.fullmatch(fault["method"], method) and re.search(fault["key"], key):
                    fault["count"] -= 1
                    return fault["do"]
        return ""


class Refusal(Exception):
    def __init__(self, status, code, message):
        super().__init__(code)
        self.status, self.code, self.message = status, code, message


class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    bucket = None

    def log_message(self, *args):
        pass

    def date_time_string(self, timestamp=None):
        return email.utils.formatdate(self.bucket.now() if timestamp is None else timestamp, usegmt=True)

    def note(self, status, why=""):
        if self.bucket.log:
            self.bucket.log.write("%s %s %s %s\n" % (self.command, self.path, status, why))

    def answer(self, status, data=b"", headers=(), why="", length=None):
        self.note(status, why)
        self.send_response(status)
        for name, value in headers:
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(data) if length is None else length))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(data)

    def refuse(self, status, code, message):
        text = "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n<Error><Code>%s</Code><Message>%s</Message></Error>"
        self.answer(status, (text % (escape(code), escape(message))).encode(), why=code)

    def reset(self):
        self.note("-", "reset")
        self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.connection.close()
        self.close_connection = True
        raise ConnectionResetError

    # Who asks, and whether this is what was sent.
    def check_signature(self, body):
        text = self.headers.get("Authorization")
        if text is None:
            if self.command in ("GET", "HEAD") and self.key:
                return
            raise Refusal(403, "AccessDenied", "Anonymous access is for reading objects")
        found = re.fullmatch(ALGORITHM + r" Credential=([^/]+)/([^,]+), ?SignedHeaders=([^,]+), ?Signature=(\w+)", text)
        if not found:
            raise Refusal(400, "AuthorizationHeaderMalformed", "The authorization header is malformed")
        access_key, scope, names, given = found.groups()
        headers = {name.lower(): value for name, value in self.headers.items()}
        stamp, payload = headers.get("x-amz-date", ""), headers.get("x-amz-content-sha256", "")
        names = names.split(";")
        if access_key != self.bucket.access_key:
            raise Refusal(403, "InvalidAccessKeyId", "The AWS Access Key Id you provided does not exist in our records.")
        if "host" not in names or any(h.startswith("x-amz-") and h not in names for h in headers):
            raise Refusal(403, "AccessDenied", "There were headers present in the request which were not signed")
        if not scope.startswith(stamp[:8] + "/") or not scope.endswith("/s3/aws4_request"):
            raise Refusal(400, "AuthorizationHeaderMalformed", "The credential scope is wrong")
        then = time.mktime(time.strptime(stamp + " UTC", "%Y%m%dT%H%M%SZ %Z")) - time.timezone
        if abs(then - self.bucket.now()) > 900:
            raise Refusal(403, "RequestTimeTooSkewed",
                          "The difference between the request time and the current time is too large.")
        wanted = signature(self.bucket.secret_key, self.command, self.path, headers, names, stamp, scope, payload)
        if not hmac.compare_digest(wanted, given):
            raise Refusal(403, "SignatureDoesNotMatch",
                          "The request signature we calculated does not match the signature you provided.")
        if payload != hashlib.sha256(body).hexdigest():
            raise Refusal(400, "XAmzContentSHA256Mismatch", "The provided 'x-amz-content-sha256' header does not match")

    def check_conditions(self, there):
        if self.bucket.does["ignore_conditions"]:
            return
        match, none = self.headers.get("If-Match"), self.headers.get("If-None-Match")
        if match and not there:
            raise Refusal(404, "NoSuchKey", "The specified key does not exist.")
        if (match and match != there.etag) or (none and there):
            raise Refusal(412, "PreconditionFailed", "At least one of the pre-conditions you specified did not hold")

    def handle_call(self):
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        path, _, query = self.path.partition("?")
        if path == "/-/control" and self.command == "POST":
            self.bucket.control(json.loads(body))
            return self.answer(200)
        path = urllib.parse.unquote(path)
        base = "/" + self.bucket.name
        self.key = path[len(base) + 1:] if path.startswith(base + "/") else ""
        fault = self.bucket.fault(self.command, self.key)
        if fault == "reset":
            self.reset()
        if fault.startswith("wait:"):
            time.sleep(float(fault[5:]))
        if fault == "flip" and body:
            body = bytes([body[0] ^ 1]) + body[1:]
        try:
            if fault.isdigit():
                raise Refusal(int(fault), "SlowDown" if fault == "503" else "InternalError", "Please reduce your request rate.")
            self.check_signature(body)
            if path != base and not path.startswith(base + "/"):
                raise Refusal(404, "NoSuchBucket", "The specified bucket does not exist")
            with self.bucket.lock:
                status, data, headers = self.serve(body, query, fault)
        except Refusal as refusal:
            return self.refuse(refusal.status, refusal.code, refusal.message)
        if fault == "lost":
            self.reset()
        if fault == "truncate":
            self.answer(status, data[:len(data) // 2], headers, length=len(data), why="truncated")
            self.close_connection = True
            return None
        return self.answer(status, data, headers)

    def serve(self, body, query, fault):
        if not self.key:
            return self.serve_list(urllib.parse.parse_qs(query, keep_blank_values=True))
        there = self.bucket.objects.get(self.key)
        if self.command == "PUT":
            return self.serve_put(body, there, fault)
        if self.command == "DELETE":
            self.bucket.objects.pop(self.key, None)
            return 204, b"", []
        if not there:
            raise Refusal(404, "NoSuchKey", "The specified key does not exist.")
        headers = [("ETag", there.etag), ("Last-Modified", email.utils.formatdate(there.modified, usegmt=True))]
        headers += there.headers
        return 200, there.data, headers

    def serve_put(self, body, there, fault):
        self.check_conditions(there)
        source = self.headers.get("x-amz-copy-source")
        kept = [(n, self.headers[n]) for n in ("Cache-Control",) if n in self.headers]
        if fault == "copy-error":
            return 200, b"<Error><Code>InternalError</Code><Message>We encountered an internal error.</Message></Error>", []
        if source:
            bucket, _, key = urllib.parse.unquote(source).lstrip("/").partition("/")
            if bucket != self.bucket.name or key not in self.bucket.objects:
                raise Refusal(404, "NoSuchKey", "The specified key does not exist.")
            body = self.bucket.objects[key].data
        made = self.bucket.objects[self.key] = Object(body, kept, self.bucket.now())
        if source:
            text = "<CopyObjectResult><ETag>%s</ETag></CopyObjectResult>" % escape(made.etag)
            return 200, text.encode(), []
        return 200, b"", [("ETag", made.etag)]

    def serve_list(self, query):
        if self.command != "GET" or query.get("list-type") != ["2"]:
            raise Refusal(501, "NotImplemented", "A header you provided implies functionality that is not implemented.")
        prefix, delimiter = query.get("prefix", [""])[0], query.get("delimiter", [""])[0]
        after = query.get("continuation-token", [""])[0].removeprefix("after ")
        page, folders, more = [], set(), ""
        for key in sorted(k for k in self.bucket.objects if k.startswith(prefix) and k > after):
            rest = key[len(prefix):]
            if delimiter and delimiter in rest:
                folders.add(prefix + rest.split(delimiter)[0] + delimiter)
                continue
            if len(page) == self.bucket.does["page"]:
                more = "after " + page[-1]
                break
            page.append(key)
        text = ["<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n"
                "<ListBucketResult xmlns=\"http://s3.amazonaws.com/doc/2006-03-01/\"><Name>%s</Name>"
                "<Prefix>%s</Prefix><IsTruncated>%s</IsTruncated>"
                % (self.bucket.name, escape(prefix), "true" if more else "false")]
        if more:
            text.append("<NextContinuationToken>%s</NextContinuationToken>" % escape(more))
        for key in page:
            o = self.bucket.objects[key]
            text.append("<Contents><Key>%s</Key><ETag>%s</ETag><Size>%d</Size></Contents>"
                        % (escape(key), escape(o.etag), len(o.data)))
        text += ["<CommonPrefixes><Prefix>%s</Prefix></CommonPrefixes>" % escape(f) for f in sorted(folders)]
        text.append("</ListBucketResult>")
        return 200, "".join(text).encode(), [("Content-Type", "application/xml")]

    def handle_quietly(self):
        try:
            self.handle_call()
        except ConnectionError:
            self.close_connection = True

    do_GET = do_HEAD = do_PUT = do_POST = do_DELETE = handle_quietly


class Server(http.server.ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 128

    def server_bind(self):  # without the look-up of a name
        socketserver.TCPServer.server_bind(self)
        self.server_name, self.server_port = self.server_address[:2]

    def handle_error(self, request, client_address):
        if not isinstance(sys.exc_info()[1], (ConnectionError, ValueError, OSError)):
            super().handle_error(request, client_address)


def main():
    if sys.argv[1:] == ["--self-test"]:
        return self_test()
    address, name, access_key, secret_key = sys.argv[1:5]
    host, _, port = address.rpartition(":")
    Handler.bucket = Bucket(name, access_key, secret_key, (sys.argv[5:] or [None])[0])
    Server((host, int(port)), Handler).serve_forever()
    return None


if __name__ == "__main__":
    main()
