"""A Hugging Face Hub on this machine over real HTTP, whose requests fail on demand: the server and its faults."""

import re
import sys
import threading
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import unquote, urlsplit

from hub.local_hub_routes import Answer, Request, answer, refused
from hub.local_hub_store import Refusal, Store

_OF_REQUESTS = ("status", "drop", "lost", "drop_upload")
_OF_FILES = ("drop_download", "short", "corrupt")


@dataclass
class Fault:
    """How requests fail whose "METHOD /path" matches, and how often they still will."""

    match: re.Pattern[str]
    kind: str
    left: float
    status: int = 500
    retry_after: int | None = None
    after: int = 0


class LocalHub(Store):
    """A Hub with its own users, repositories and faults at `endpoint`; `requests` lists the requests since `clear`."""

    def __init__(self) -> None:
        self._lock = threading.RLock()
        self.clear()
        server = _Server(("127.0.0.1", 0), type("Handler", (_Handler,), {"hub": self}))
        self.endpoint = f"http://127.0.0.1:{server.server_port}"
        threading.Thread(target=server.serve_forever, name="local hub", daemon=True).start()

    def clear(self) -> None:
        """Forget repositories, users, faults and requests."""
        with self._lock:
            super().clear()
            self.requests: list[Request] = []
            self._faults: list[Fault] = []

    def fail(self, match: str, kind: str, times: float = 1, **details: int) -> None:
        """Let the next `times` requests fail whose "METHOD /path" (unquoted, without the query) matches.

        The kinds: "status" answers `status`, with `retry_after` seconds in `Retry-After` if given;
        "drop" closes the connection without acting, "lost" acts and closes it without an answer;
        "drop_upload" closes it after reading `after` bytes of the request's body;
        "drop_download" announces the whole file and closes after `after` bytes;
        "short" sends the first `after` bytes as if they were the whole file (HEAD says so, too);
        "corrupt" sends the right number of bytes, each of them changed. The last three count answers that hold a file.
        """
        assert kind in _OF_REQUESTS + _OF_FILES, kind
        self._faults.append(Fault(re.compile(match), kind, times, **details))

    def mend(self) -> None:
        self._faults.clear()

    def reply(self, request: Request) -> Answer:
        """Act on a request, one at a time, and answer it."""
        with self._lock:
            return answer(self, self.endpoint, request)

    def fault(self, request: str, kinds: tuple[str, ...]) -> Fault | None:
        """Use up the first fault of such a kind for "METHOD /path"."""
        with self._lock:
            for fault in self._faults:
                if fault.left > 0 and fault.kind in kinds and fault.match.search(request):
                    fault.left -= 1
                    return fault
        return None


class _Server(ThreadingHTTPServer):
    # The default queue is shorter; a refused connection costs its client a second.
    request_queue_size = 64

    def handle_error(self, *arguments: Any) -> None:
        """Do not print about clients that went away."""
        if not isinstance(sys.exception(), ConnectionError):
            super().handle_error(*arguments)


class _Handler(BaseHTTPRequestHandler):
    hub: LocalHub
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True

    def log_message(self, *arguments: Any) -> None:
        """Print nothing."""

    def do_GET(self) -> None:
        url, size = urlsplit(self.path), int(self.headers.get("Content-Length") or 0)
        fault = self.hub.fault(f"{self.command} {unquote(url.path)}", _OF_REQUESTS)
        kind = fault.kind if fault else None
        body = self.rfile.read(min(size, fault.after) if kind == "drop_upload" else size)
        headers = {key.lower(): value for key, value in self.headers.items()}
        request = Request(self.command, url.path, url.query, headers, body)
        self.hub.requests.append(request)
        if kind == "status":
            retry = {} if fault.retry_after is None else {"Retry-After": str(fault.retry_after)}
            self._send(refused(Refusal(fault.status, "The local Hub was told to fail", **retry)))
        elif kind in ("drop", "drop_upload"):
            self.close_connection = True
        else:
            answered = self.hub.reply(request)
            if kind == "lost":
                self.close_connection = True
            else:
                self._send(answered, self.hub.fault(str(request), _OF_FILES) if answered.is_file else None)

    do_HEAD = do_POST = do_PUT = do_GET

    def _send(self, answered: Answer, fault: Fault | None = None) -> None:
        kind, body, headers = fault.kind if fault else None, answered.body, answered.headers
        if kind == "short":
            body = body[: fault.after]
            headers |= {"X-Linked-Size": str(len(body))} if "X-Linked-Size" in headers else {}
        elif kind == "corrupt":
            body = bytes(byte ^ 0xFF for byte in body)
        self.send_response(answered.status)
        for key, value in {"Content-Type": "application/json", **headers, "Content-Length": str(len(body))}.items():
            self.send_header(key, value)
        self.end_headers()
        if kind == "drop_download":
            self.close_connection = True
            body = body[: fault.after]
        if self.command != "HEAD":
            self.wfile.write(body)
