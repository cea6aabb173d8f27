"""A Hugging Face Hub on this machine, over real HTTP, whose requests go wrong on demand.

What it holds is in `local_hub_store.py`, how it answers in `local_hub_routes.py`; here are the server and its accidents.
"""

import re
import sys
import threading
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

from hub.local_hub_routes import Answer, Request, answer, refused
from hub.local_hub_store import Refusal, Store

_OF_REQUESTS = ("status", "drop", "lost", "drop_upload")
_OF_FILES = ("drop_download", "short", "corrupt")


@dataclass
class Fault:
    """What goes wrong with the requests whose "METHOD /path" matches, and how often it still will."""

    match: re.Pattern[str]
    kind: str
    left: float
    status: int
    retry_after: int | None
    after: int


class LocalHub(Store):
    """A Hub with its own users, repositories and accidents.

    Attributes:
        endpoint: what belongs in `HF_ENDPOINT`.
        requests: every request since `clear`, in the order of arrival.
    """

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

    def fail(
        self,
        match: str,
        kind: str,
        times: float = 1,
        *,
        status: int = 500,
        retry_after: int | None = None,
        after: int = 0,
    ) -> None:
        """Let requests go wrong.

        Args:
            match: regular expression searched in "METHOD /path" (unquoted, without the query).
            kind: "status" answers `status`, with a `Retry-After` of `retry_after` seconds where given;
                "drop" closes the connection in place of acting and answering;
                "lost" acts, and closes the connection in place of the answer;
                "drop_upload" closes it once `after` bytes of the request's body were read;
                "drop_download" announces the whole file and closes after `after` bytes of it;
                "short" sends the first `after` bytes as if they were the whole file (HEAD tells their number);
                "corrupt" sends as many bytes as the file has, each of them changed.
            times: how many matching requests; `math.inf` for all. The last three kinds count answers that hold a file.
        """
        if kind not in _OF_REQUESTS + _OF_FILES:
            raise ValueError(f"No fault is called '{kind}'. There are {', '.join(_OF_REQUESTS + _OF_FILES)}.")
        self._faults.append(Fault(re.compile(match), kind, times, status, retry_after, after))

    def mend(self) -> None:
        """Nothing goes wrong any more."""
        self._faults.clear()

    def reply(self, request: Request) -> Answer:
        """Act on a request, one at a time, and answer it."""
        with self._lock:
            return answer(self, self.endpoint, request)

    def fault(self, request: str, kinds: tuple[str, ...]) -> Fault | None:
        """The first fault of such a kind that is left for "METHOD /path", which is thereby used once."""
        with self._lock:
            for fault in self._faults:
                if fault.left > 0 and fault.kind in kinds and fault.match.search(request):
                    fault.left -= 1
                    return fault
        return None


class _Server(ThreadingHTTPServer):
    # More connections at once than wait by default: a refused one would cost its client a second.
    request_queue_size = 64

    def handle_error(self, *arguments: Any) -> None:
        """A client that went away is no concern of the tests' output."""
        if not isinstance(sys.exception(), ConnectionError):
            super().handle_error(*arguments)


class _Handler(BaseHTTPRequestHandler):
    """Reads a request, has it answered, and lets go wrong what shall."""

    hub: LocalHub
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True

    def log_message(self, *arguments: Any) -> None:
        """The tests' output is theirs."""

    def do_GET(self) -> None:
        url, size = urlsplit(self.path), int(self.headers.get("Content-Length") or 0)
        fault = self.hub.fault(f"{self.command} {unquote(url.path)}", _OF_REQUESTS)
        kind = fault.kind if fault else None
        body = self.rfile.read(min(size, fault.after) if kind == "drop_upload" else size)
        headers = {key.lower(): value for key, value in self.headers.items()}
        request = Request(self.command, unquote(url.path), url.path, parse_qs(url.query), headers, body)
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

    do_HEAD = do_POST = do_PUT = do_DELETE = do_GET

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
