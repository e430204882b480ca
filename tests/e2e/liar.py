"""A web server that lies: liar.py HOST:PORT ROOT MODE PATTERN serves ROOT, and what matches PATTERN by MODE."""
import email.utils
import http.server
import re
import sys
import time

address, root, mode, pattern = sys.argv[1:]
host, port = address.rsplit(":", 1)


class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self):
        try:
            with open(root + self.path, "rb") as f:
                data = f.read()
        except OSError:
            return self.reply(404, b"")
        if not re.search(pattern, self.path):
            return self.reply(200, data)
        if mode == "flip":  # a wrong byte
            at = len(data) // 2
            return self.reply(200, data[:at] + bytes([data[at] ^ 1]) + data[at + 1:])
        if mode == "html":  # a portal that wants a login
            return self.reply(200, b"<html>Please log in</html>")
        if mode == "empty":
            return self.reply(200, b"")
        if mode == "longer":
            return self.reply(200, data + b"x")
        if mode == "short":  # the connection breaks in the middle
            self.reply(200, data[: len(data) // 2], len(data))
            self.close_connection = True
            return None
        if mode == "late":  # a link with a long way
            time.sleep(0.2)
            return self.reply(200, data)
        if mode == "hour":  # its clock is an hour ahead
            self.date_time_string = lambda: email.utils.formatdate(time.time() + 3600, usegmt=True)
            return self.reply(200, data)
        if mode == "stall":  # accepts, and never answers
            return time.sleep(3600)
        return self.reply(int(mode), b"")

    def reply(self, status, body, length=None):
        self.send_response(status)
        self.send_header("Content-Length", str(len(body) if length is None else length))
        if status in (301, 302):
            self.send_header("Location", self.path)
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_):
        pass


http.server.ThreadingHTTPServer((host, int(port)), Handler).serve_forever()
