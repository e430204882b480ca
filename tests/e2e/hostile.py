"""A web server, and HTTP proxy, that does everything wrong: hostile.py HOST:PORT ROOT FAULTS

Serves the folder ROOT; as a proxy it serves the same for any host. The file FAULTS says what goes wrong, a line each:

    FAULT PATTERN     this fault, for what matches the regular expression PATTERN; the first line that fits counts
    FAULT -           this fault, for every connection, before a request is read

It is read again whenever it was replaced, so faults begin and end while the server runs. What is asked for is printed,
`PATH FAULT` ("fine" for none). The faults are the functions below whose names begin with "do_", the numbers of HTTP, and

    poisoned, stale   as caches have it: a wrong byte, or what PATH.stale holds, unless asked past caches

for connections stall_accept, stall_connect and reset_connect.
"""
import os
import re
import select
import socket
import struct
import sys
import threading
import time
import zlib

address, root, faults_file = sys.argv[1:]
HEADERS_END = b"\r\n\r\n"


class Faults:
    """What the file says, read when it was replaced."""

    def __init__(self, path):
        self.path, self.seen, self.rules = path, None, []
        self.lock = threading.Lock()

    def find(self, what):
        with self.lock:
            st = os.stat(self.path)
            if self.seen != (st.st_ino, st.st_mtime_ns):
                with open(self.path) as f:
                    self.rules = [line.split(maxsplit=1) for line in f.read().splitlines() if line.strip()]
                self.seen = (st.st_ino, st.st_mtime_ns)
            for fault, pattern in self.rules:
                if (what is None) == (pattern == "-") and (what is None or re.search(pattern, what)):
                    return fault
            return "fine"


faults = Faults(faults_file)


def head(length, status="200 OK", *more):
    lines = [f"HTTP/1.1 {status}", *more]
    if length is not None:
        lines.append(f"Content-Length: {length}")
    return ("\r\n".join(lines) + "\r\n\r\n").encode()


def wait_for_end(conn):
    """Says nothing more until the other side has had enough."""
    while conn.recv(65536):
        pass


def reset(conn):
    conn.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    conn.close()


def drip(conn, data, step, pause):
    for at in range(0, len(data), step):
        conn.sendall(data[at:at + step])
        time.sleep(pause)


# Each returns true when the connection can be used again.

def do_fine(conn, data, path):
    conn.sendall(head(len(data)) + data)
    return True


def do_flip(conn, data, path):
    at = len(data) // 2
    return do_fine(conn, data[:at] + bytes([data[at] ^ 1]) + data[at + 1:], path)


def do_flip_early(conn, data, path):
    return do_fine(conn, data[:20] + bytes([data[20] ^ 1]) + data[21:], path)


def do_empty(conn, data, path):
    return do_fine(conn, b"", path)


def do_portal(conn, data, path):
    return do_fine(conn, b"<html>Please log in</html>", path)


def do_longer(conn, data, path):
    return do_fine(conn, data + b"x", path)


def do_endless(conn, data, path):
    conn.sendall(head(None, "200 OK", "Transfer-Encoding: chunked"))
    block = b"10000\r\n" + data[:1].ljust(65536, b"x") + b"\r\n"
    while True:
        conn.sendall(block)


def do_endless_zlib(conn, data, path):
    """Inflates to zeros for ever."""
    z = zlib.compressobj(9)
    conn.sendall(head(None, "200 OK", "Transfer-Encoding: chunked"))
    while True:
        block = z.compress(bytes(1 << 20))
        if block:
            conn.sendall(b"%x\r\n%s\r\n" % (len(block), block))


def do_short(conn, data, path):
    conn.sendall(head(len(data)) + data[:len(data) // 2])


def do_reset_body(conn, data, path):
    conn.sendall(head(len(data)) + data[:len(data) // 2])
    time.sleep(0.05)
    reset(conn)


def do_reset_headers(conn, data, path):
    conn.sendall(head(len(data))[:20])
    time.sleep(0.05)
    reset(conn)


def do_reset_request(conn, data, path):
    reset(conn)


def do_close_request(conn, data, path):
    pass


def do_stall_request(conn, data, path):
    wait_for_end(conn)


def do_stall_headers(conn, data, path):
    conn.sendall(head(len(data))[:20])
    wait_for_end(conn)


def do_stall_body(conn, data, path):
    conn.sendall(head(len(data)) + data[:len(data) // 2])
    wait_for_end(conn)


def do_stall_last(conn, data, path):
    conn.sendall(head(len(data)) + data[:-1])
    wait_for_end(conn)


def do_drip_headers(conn, data, path):
    drip(conn, head(len(data), "200 OK", *(f"X-{i}: {i}" for i in range(999))), 1, 0.1)


def do_drip_body(conn, data, path):
    conn.sendall(head(len(data)))
    drip(conn, data, 20, 0.1)


def do_slow(conn, data, path):
    """Slow, but not slower than allowed."""
    conn.sendall(head(len(data)))
    drip(conn, data, 200, 0.1)
    return True


def do_redirect(conn, data, path):
    conn.sendall(head(0, "302 Found", "Location: /elsewhere" + path))
    return True


def do_elsewhere(conn, data, path):
    """The same path by the server on port 8000."""
    conn.sendall(head(0, "302 Found", "Location: http://127.0.0.1:8000" + path))
    return True


def do_nowhere(conn, data, path):
    conn.sendall(head(0, "302 Found", "Location: http://127.0.0.1:9" + path))
    return True


def do_redirect_loop(conn, data, path):
    conn.sendall(head(0, "302 Found", "Location: " + path))
    return True


def do_redirect_file(conn, data, path):
    conn.sendall(head(0, "302 Found", "Location: file:///etc/passwd"))
    return True


def do_garbage(conn, data, path):
    conn.sendall(os.urandom(4096))


def do_garbage_headers(conn, data, path):
    conn.sendall(b"HTTP/1.1 200 OK\r\n" + os.urandom(512) + HEADERS_END + data)


def do_old(conn, data, path):
    """HTTP/0.9: a body and nothing else."""
    conn.sendall(data)


def do_huge_header(conn, data, path):
    conn.sendall(b"HTTP/1.1 200 OK\r\nX: ")
    while True:
        conn.sendall(b"x" * 65536)


def do_many_headers(conn, data, path):
    conn.sendall(b"HTTP/1.1 200 OK\r\n")
    while True:
        conn.sendall(b"X-Y: z\r\n" * 4096)


def do_many_continues(conn, data, path):
    while True:
        conn.sendall(b"HTTP/1.1 100 Continue\r\n\r\n" * 1024)


def do_bad_chunks(conn, data, path):
    conn.sendall(head(None, "200 OK", "Transfer-Encoding: chunked") + b"zz\r\n" + data)


def do_cut_chunks(conn, data, path):
    conn.sendall(head(None, "200 OK", "Transfer-Encoding: chunked") + b"%x\r\n" % len(data) + data + b"\r\n")


def do_huge_chunk(conn, data, path):
    conn.sendall(head(None, "200 OK", "Transfer-Encoding: chunked") + b"fffffffffffffffff\r\n" + data)


def do_gzip_lie(conn, data, path):
    """The bytes are as asked for, whatever the header says."""
    conn.sendall(head(len(data), "200 OK", "Content-Encoding: gzip") + data)
    return True


def do_gzip(conn, data, path):
    """A helpful proxy that compresses unasked."""
    z = zlib.compressobj(1, zlib.DEFLATED, 31)
    data = z.compress(data) + z.flush()
    conn.sendall(head(len(data), "200 OK", "Content-Encoding: gzip") + data)
    return True


def do_transfer_gzip(conn, data, path):
    conn.sendall(head(len(data), "200 OK", "Transfer-Encoding: gzip") + data)


def do_length_less(conn, data, path):
    """What is left over stands before the next answer on this connection."""
    conn.sendall(head(len(data) - 10) + data)
    return True


def do_length_none(conn, data, path):
    conn.sendall(head(None) + data)


def do_length_two(conn, data, path):
    conn.sendall(head(len(data), "200 OK", f"Content-Length: {len(data) + 1}") + data)


def do_length_wrong(conn, data, path):
    conn.sendall(head("many") + data)


def do_length_negative(conn, data, path):
    conn.sendall(head(-1) + data)


def do_length_huge(conn, data, path):
    conn.sendall(head(1 << 62) + data)


def do_partial(conn, data, path):
    half = len(data) // 2
    conn.sendall(head(half, "206 Partial Content", f"Content-Range: bytes 0-{half - 1}/{len(data)}") + data[:half])
    return True


def do_no_content(conn, data, path):
    conn.sendall(head(None, "204 No Content"))
    return True


def do_not_modified(conn, data, path):
    conn.sendall(head(None, "304 Not Modified"))
    return True


def do_long_refusal(conn, data, path):
    conn.sendall(head(None, "404 Not Found", "Transfer-Encoding: chunked"))
    while True:
        conn.sendall(b"10000\r\n" + bytes(65536) + b"\r\n")


def do_stalled_refusal(conn, data, path):
    conn.sendall(head(100, "404 Not Found"))
    wait_for_end(conn)


def refuse(conn, status):
    conn.sendall(head(5, f"{status} Whatever") + b"sorry")
    return True


def read_request(conn, buffered):
    while HEADERS_END not in buffered:
        data = conn.recv(65536)
        if not data:
            return None, b""
        buffered += data
    request, rest = buffered.split(HEADERS_END, 1)
    return request, rest


def answer(conn, request):
    path = re.sub(r"^http://[^/]*", "", request.split(b" ", 2)[1].decode())
    fault, past_caches = faults.find(path), b"\r\nCache-Control: no-cache" in request
    print(path, fault, flush=True)
    if past_caches and fault in ("poisoned", "stale"):
        fault = "fine"
    try:
        with open(root + re.sub("^/elsewhere", "", path) + (".stale" if fault == "stale" else ""), "rb") as f:
            data = f.read()
    except OSError:
        return refuse(conn, 404)
    if fault.isdigit():
        return refuse(conn, fault)
    fault = {"poisoned": "flip", "stale": "fine"}.get(fault, fault)
    return globals()["do_" + fault](conn, data, path)


def converse(conn):
    try:
        conn.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        fault = faults.find(None)
        if fault == "stall_connect":
            return wait_for_end(conn)
        if fault == "reset_connect":
            return reset(conn)
        request, rest = read_request(conn, b"")
        while request and faults.find(None) == "fine" and answer(conn, request):
            request, rest = read_request(conn, rest)
    except OSError:
        pass
    finally:
        conn.close()


def fill(listener):
    """Connections to ourselves that nobody accepts, so many that the kernel drops all further ones."""
    listener.listen(0)
    fillers = []
    for _ in range(8):
        filler = socket.socket()
        filler.setblocking(False)
        filler.connect_ex(listener.getsockname())
        fillers.append(filler)
    return fillers


def main():
    host, port = address.rsplit(":", 1)
    listener = socket.socket()
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    listener.bind((host, int(port)))
    listener.listen(128)
    fillers = []
    while True:
        full = faults.find(None) == "stall_accept"
        if full and not fillers:
            fillers = fill(listener)
        elif not full and fillers:
            for filler in fillers:
                filler.close()
            fillers = []
            listener.listen(128)
        if full:
            time.sleep(0.02)
        elif select.select([listener], [], [], 0.02)[0]:
            threading.Thread(target=converse, args=(listener.accept()[0],), daemon=True).start()


main()
