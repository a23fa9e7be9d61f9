"""A local HTTP server that serves files from memory, and can misbehave."""

import contextlib
import http.server
import re
import threading


class FileServer(http.server.ThreadingHTTPServer):
    """Serves `files` by name; the other attributes make it misbehave.

    Attributes:
        files: Content by name.
        moved: URL to redirect to by name.
        tag: ETag of all files, or None.
        sends_length: Whether replies have a Content-Length.
        supports_ranges: Whether it replies to range requests.
        break_after: Number of bytes after which each of the next replies breaks.
        wait: Event to wait for in the middle of a body, or None.
        before_reply: Functions to call before a reply, by the number of the request.
        requests: Name and Range header of each request so far.
    """

    def __init__(self):
        super().__init__(("127.0.0.1", 0), _Handler)
        self.files = {}
        self.moved = {}
        self.tag = '"version-1"'
        self.sends_length = True
        self.supports_ranges = True
        self.break_after = []
        self.wait = None
        self.before_reply = {}
        self.requests = []

    @property
    def url(self):
        return f"http://127.0.0.1:{self.server_address[1]}"

    def handle_error(self, *_):
        """Prints nothing: a client that disconnects is part of the tests."""


class _Handler(http.server.BaseHTTPRequestHandler):
    def log_message(self, *_):
        pass

    def do_GET(self):
        server, name = self.server, self.path.strip("/")
        server.requests.append((name, self.headers.get("Range")))
        server.before_reply.get(len(server.requests), lambda: None)()
        if name in server.moved:
            self.send_response(302)
            self.send_header("Location", server.moved[name])
            self.end_headers()
        elif name not in server.files:
            self.send_error(404)
        else:
            self.send_file(server, server.files[name])

    def send_file(self, server, data):
        start = 0
        requested = re.fullmatch(r"bytes=(\d+)-", self.headers.get("Range") or "")
        if requested and server.supports_ranges and self.headers.get("If-Range") == server.tag:
            start = int(requested[1])
            if start >= len(data):
                self.send_error(416)
                return
        self.send_response(206 if start else 200)
        if start:
            self.send_header("Content-Range", f"bytes {start}-{len(data) - 1}/{len(data)}")
        if server.sends_length:
            self.send_header("Content-Length", str(len(data) - start))
        if server.tag:
            self.send_header("ETag", server.tag)
        self.end_headers()
        body = data[start:]
        if server.break_after:
            body = body[: server.break_after.pop(0)]
        half = len(body) // 2
        self.wfile.write(body[:half])
        if server.wait is not None:
            self.wfile.flush()
            server.wait.wait(20)
        with contextlib.suppress(OSError):
            self.wfile.write(body[half:])


@contextlib.contextmanager
def serve_files():
    """Runs a `FileServer` in a thread."""
    with FileServer() as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True)
        thread.start()
        try:
            yield server
        finally:
            if server.wait is not None:
                server.wait.set()
            server.shutdown()
            thread.join()
