"""A Hugging Face Hub on this machine: the routes that the libraries use, over real HTTP, with faults on demand.

Repositories live in memory. Routes, status codes and `X-Error-Code` are those of huggingface.co; large files travel by
LFS, and are served without the detour over another host. Not here: Xet, pull requests, organisations, pages of lists.
"""

import base64
import fnmatch
import hashlib
import json
import random
import re
import string
import sys
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, ClassVar
from urllib.parse import parse_qs, unquote, urlsplit

import yaml

Files = dict[str, bytes]

_ATTRIBUTES = ".gitattributes"
_LFS_SUFFIXES = ("*.safetensors", "*.parquet", "*.png", "*.bin")
_NO_LOGIN = "Invalid username or password."
_NO_RIGHT = "you must use a write token to upload to a repository"


@dataclass(frozen=True)
class Commit:
    """One state of a repository: its files, those kept as LFS objects, and where it comes from."""

    sha: str
    parent: str | None
    title: str
    author: str
    date: str
    files: Files
    large: frozenset[str]


@dataclass
class Repository:
    """Branches and tags name commits; `gated` lets nobody but the owner read files."""

    kind: str
    name: str
    private: bool
    gated: bool = False
    branches: dict[str, str] = field(default_factory=dict)
    tags: dict[str, str] = field(default_factory=dict)
    commits: dict[str, Commit] = field(default_factory=dict)

    def at(self, revision: str) -> Commit:
        sha = self.branches.get(revision) or self.tags.get(revision) or revision
        if sha not in self.commits:
            raise Refusal(404, f"Invalid rev id: {revision}", "RevisionNotFound")
        return self.commits[sha]

    def history(self, revision: str) -> list[Commit]:
        commits = [self.at(revision)]
        while commits[-1].parent:
            commits.append(self.commits[commits[-1].parent])
        return commits


@dataclass(frozen=True)
class User:
    """Who a token belongs to and whether it may write."""

    name: str
    write: bool


@dataclass(frozen=True)
class Request:
    """One request as it came; `path` is unquoted and without the query, header names are in lower case."""

    method: str
    path: str
    raw_path: str
    query: dict[str, list[str]]
    headers: dict[str, str]
    body: bytes

    def __str__(self) -> str:
        return f"{self.method} {self.path}"

    def json(self) -> Any:
        return json.loads(self.body)


@dataclass
class Answer:
    """What goes back; `is_file` marks the content of a repository's file, which faults may cut or change."""

    status: int
    body: bytes = b""
    headers: dict[str, str] = field(default_factory=dict)
    is_file: bool = False


class Refusal(Exception):
    """An error of the Hub, with its code as the clients read it."""

    def __init__(self, status: int, message: str, code: str | None = None, **headers: str) -> None:
        super().__init__(message)
        headers = {
            "X-Error-Message": message.encode("ascii", "replace").decode(),
            **headers,
            **({"X-Error-Code": code} if code else {}),
        }
        self.answer = Answer(status, json.dumps({"error": message}).encode(), headers)


@dataclass
class Fault:
    """What goes wrong with the requests whose "METHOD path" matches, and how often it still will."""

    match: re.Pattern[str]
    kind: str
    left: float
    status: int
    retry_after: int | None
    after: int


class LocalHub:
    """A Hub with its own users, repositories and accidents.

    Args:
        port: the TCP port of 127.0.0.1; 0 takes a free one.

    Attributes:
        endpoint: what belongs in `HF_ENDPOINT`.
        requests: every request since `clear`, in the order of arrival.
        lfs_above: a file with more bytes than this is uploaded by LFS, as weights, tables and pictures always are.
    """

    FAULTS: ClassVar = ("status", "drop", "lost", "drop_upload", "drop_download", "short", "corrupt")

    def __init__(self, port: int = 0) -> None:
        self.lock = threading.RLock()
        self._count = 0
        self.clear()
        server = _Server(("127.0.0.1", port), type("Handler", (_Handler,), {"hub": self}))
        self.endpoint = f"http://127.0.0.1:{server.server_port}"
        threading.Thread(target=server.serve_forever, name="local hub", daemon=True).start()

    def clear(self) -> None:
        """Forget repositories, users, faults and requests."""
        with self.lock:
            self.repositories: dict[tuple[str, str], Repository] = {}
            self.requests: list[Request] = []
            self.lfs_above = 10_000_000
            self._objects: Files = {}
            self._users: dict[str, User] = {}
            self._faults: list[Fault] = []

    # What tests say and ask.

    def token(self, user: str, write: bool = True) -> str:
        """A new token of a user, who owns the repositories `user/…`; without `write` it only reads."""
        token = "hf_" + "".join(random.choices(string.ascii_letters, k=34))
        self._users[token] = User(user, write)
        return token

    def put(self, repo_id: str, files: Files, repo_type: str = "model", private: bool = False) -> str:
        """Commit files to `main` as if pushed, whatever their names and content, and return the commit's id."""
        with self.lock:
            repository = self.repositories.get((repo_type, repo_id)) or self._create(repo_type, repo_id, private)
            large = {path for path, content in files.items() if self._is_large(path, len(content))}
            return self._commit(repository, "main", "Put", repo_id.split("/")[0], files, large, set()).sha

    def repository(self, repo_id: str, repo_type: str = "model") -> Repository:
        """The repository itself: `private` and `gated` may be set, branches and tags read."""
        return self.repositories[repo_type, repo_id]

    def files(self, repo_id: str, repo_type: str = "model", revision: str = "main") -> Files:
        """Every file of a revision, `.gitattributes` of the Hub's own first commit left out."""
        files = self.repository(repo_id, repo_type).at(revision).files
        return {path: content for path, content in files.items() if path != _ATTRIBUTES}

    def commits(self, repo_id: str, repo_type: str = "model", revision: str = "main") -> list[Commit]:
        """The commits of a revision, the newest first; the last is the Hub's own "initial commit"."""
        return self.repository(repo_id, repo_type).history(revision)

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
        if kind not in self.FAULTS:
            raise ValueError(f"No fault is called '{kind}'. There are {', '.join(self.FAULTS)}.")
        self._faults.append(Fault(re.compile(match), kind, times, status, retry_after, after))

    # What the handler asks.

    def fault(self, request: str, kinds: tuple[str, ...]) -> Fault | None:
        with self.lock:
            for fault in self._faults:
                if fault.left > 0 and fault.kind in kinds and fault.match.search(request):
                    fault.left -= 1
                    return fault
        return None

    def answer(self, request: Request) -> Answer:
        with self.lock:
            for methods, pattern, reply in _ROUTES:
                if request.method in methods and (found := re.fullmatch(pattern, request.raw_path)):
                    try:
                        value = reply(self, request, *(unquote(part or "") for part in found.groups()))
                    except Refusal as refusal:
                        return refusal.answer
                    return value if isinstance(value, Answer) else Answer(200, json.dumps(value).encode())
            return Refusal(404, f"The local Hub has no route {request}").answer

    # Who may do what.

    def _user(self, request: Request) -> User | None:
        if "authorization" not in request.headers:
            return None
        user = self._users.get(request.headers["authorization"].removeprefix("Bearer "))
        if user is None:
            raise Refusal(401, "Invalid credentials in Authorization header")
        return user

    def _open(self, request: Request, kind: str, name: str, write: bool = False) -> Repository:
        user = self._user(request)
        repository = self.repositories.get((kind.rstrip("s") or "model", name))
        owner = user is not None and user.name == name.split("/")[0]
        if repository is None or (repository.private and not owner):
            # Without a login the Hub does not tell a private repository from none.
            raise Refusal(404 if user else 401, "Repository not found", "RepoNotFound")
        if write and user is None:
            raise Refusal(401, _NO_LOGIN, "RepoNotFound")
        if write and not (owner and user.write):
            raise Refusal(403, _NO_RIGHT)
        return repository

    # What changes.

    def _is_large(self, path: str, size: int) -> bool:
        return size > self.lfs_above or any(fnmatch.fnmatch(path, suffix) for suffix in _LFS_SUFFIXES)

    def _create(self, kind: str, name: str, private: bool) -> Repository:
        repository = self.repositories[kind, name] = Repository(kind, name, private)
        attributes = "".join(f"{suffix} filter=lfs diff=lfs merge=lfs -text\n" for suffix in _LFS_SUFFIXES)
        files = {_ATTRIBUTES: attributes.encode()}
        self._commit(repository, "main", "initial commit", name.split("/")[0], files, set(), set())
        return repository

    def _commit(
        self,
        repository: Repository,
        branch: str,
        title: str,
        author: str,
        added: Files,
        large: set[str],
        deleted: set[str],
    ) -> Commit:
        self._count += 1
        parent = repository.commits.get(repository.branches.get(branch, ""))
        files = {path: content for path, content in (parent.files if parent else {}).items() if path not in deleted}
        large = {path for path in (parent.large if parent else ()) if path in files and path not in added} | large
        sha = hashlib.sha1(f"{repository.kind} {repository.name} {title} {self._count}".encode()).hexdigest()
        date = f"{datetime(2026, 1, 1) + timedelta(seconds=self._count):%Y-%m-%dT%H:%M:%S.000Z}"
        commit = Commit(
            sha, parent and parent.sha, title, author, date, dict(sorted({**files, **added}.items())), frozenset(large)
        )
        repository.commits[sha] = commit
        repository.branches[branch] = sha
        return commit


# The routes: a function for each, found by its pattern on the path as it came (a quoted slash is no slash).

_ROUTES: list[tuple[tuple[str, ...], str, Callable[..., Any]]] = []
_REPO = r"/api/(models|datasets)/([^/]+/[^/]+)"
_PAGE = r"/(?:(datasets)/)?([^/]+/[^/]+?)"


def _route(methods: str, pattern: str) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    def register(reply: Callable[..., Any]) -> Callable[..., Any]:
        _ROUTES.append((tuple(methods.split()), pattern, reply))
        return reply

    return register


def _git_id(content: bytes) -> str:
    return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()


def _pointer(content: bytes) -> bytes:
    oid = hashlib.sha256(content).hexdigest()
    return f"version https://git-lfs.github.com/spec/v1\noid sha256:{oid}\nsize {len(content)}\n".encode()


def _etag(commit: Commit, path: str) -> str:
    content = commit.files[path]
    return hashlib.sha256(content).hexdigest() if path in commit.large else _git_id(content)


def _large(content: bytes) -> dict[str, Any]:
    pointer = len(_pointer(content))
    return {"oid": hashlib.sha256(content).hexdigest(), "size": len(content), "pointerSize": pointer}


def _entry(commit: Commit, path: str, expand: bool) -> dict[str, Any]:
    """A file or folder as tree and paths-info list it."""
    if path in commit.files:
        content = commit.files[path]
        is_large = path in commit.large
        git_id = _git_id(_pointer(content) if is_large else content)
        entry = {"type": "file", "path": path, "oid": git_id, "size": len(content)}
        entry |= {"lfs": _large(content)} if is_large else {}
    else:
        entry = {"type": "directory", "path": path, "oid": hashlib.sha1(path.encode()).hexdigest(), "size": 0}
    return entry | ({"lastCommit": {"id": commit.sha, "title": commit.title, "date": commit.date}} if expand else {})


def _folders(commit: Commit) -> set[str]:
    return {path[: match.start()] for path in commit.files for match in re.finditer("/", path)}


def _head(readme: bytes) -> tuple[Any, str | None]:
    """The metadata at the top of a card, and what is wrong with them."""
    found = re.match(r"---\r?\n(.*?)^---\s*$", readme.decode(), re.DOTALL | re.MULTILINE)
    try:
        data = yaml.safe_load(found[1]) if found else None
    except yaml.YAMLError as error:
        return None, str(error)
    return (data, None) if data is None or isinstance(data, dict) else (None, "metadata must be a mapping")


@_route("GET", "/api/whoami-v2")
def _whoami(hub: LocalHub, request: Request) -> Any:
    user = hub._user(request)
    if user is None:
        raise Refusal(401, _NO_LOGIN)
    role = "write" if user.write else "read"
    return {"type": "user", "name": user.name, "orgs": [], "auth": {"accessToken": {"role": role}}}


@_route("POST", "/api/repos/create")
def _create(hub: LocalHub, request: Request) -> Any:
    user, wanted = hub._user(request), request.json()
    if user is None:
        raise Refusal(401, _NO_LOGIN)
    kind, owner = wanted.get("type") or "model", wanted.get("organization") or user.name
    if owner != user.name or not user.write:
        raise Refusal(403, f'You don\'t have the rights to create a {kind} under the namespace "{owner}"')
    name = f"{owner}/{wanted['name']}"
    url = f"{hub.endpoint}/{'' if kind == 'model' else kind + 's/'}{name}"
    if (kind, name) in hub.repositories:
        body = {"error": f"You already created this {kind} repo: {name}", "url": url}
        return Answer(409, json.dumps(body).encode())
    hub._create(kind, name, wanted.get("visibility") == "private")
    return {"url": url, "name": name}


@_route("DELETE", "/api/repos/delete")
def _delete(hub: LocalHub, request: Request) -> Any:
    wanted = request.json()
    repository = hub._open(request, wanted.get("type") or "model", f"{wanted['organization']}/{wanted['name']}", True)
    del hub.repositories[repository.kind, repository.name]
    return {}


@_route("PUT", f"{_REPO}/settings")
def _settings(hub: LocalHub, request: Request, kind: str, name: str) -> Any:
    repository, wanted = hub._open(request, kind, name, write=True), request.json()
    if "visibility" in wanted:
        repository.private = wanted["visibility"] == "private"
    repository.gated = bool(wanted.get("gated", repository.gated))
    return {}


@_route("POST", "/api/validate-yaml")
def _validate(hub: LocalHub, request: Request) -> Any:
    data, error = _head(request.json()["content"].encode())
    warnings = [] if data else [{"message": "empty or missing yaml metadata in repo card"}]
    if error:
        return Answer(400, json.dumps({"errors": [{"message": error}], "warnings": []}).encode())
    return {"errors": [], "warnings": warnings}


@_route("GET", f"{_REPO}(?:/revision/([^/]+))?")
def _info(hub: LocalHub, request: Request, kind: str, name: str, revision: str) -> Any:
    repository = hub._open(request, kind, name)
    commit = repository.at(revision or "main")
    siblings = [{"rfilename": path} for path in commit.files]
    if "blobs" in request.query:
        for sibling in siblings:
            content = commit.files[sibling["rfilename"]]
            sibling |= {"size": len(content), "blobId": _entry(commit, sibling["rfilename"], False)["oid"]}
            sibling |= (
                {"lfs": {**_large(content), "sha256": _large(content)["oid"]}}
                if (sibling["rfilename"] in commit.large)
                else {}
            )
    card = _head(commit.files.get("README.md", b""))[0] or {}
    return {
        "id": name,
        "author": name.split("/")[0],
        "sha": commit.sha,
        "lastModified": commit.date,
        "createdAt": repository.history("main")[-1].date,
        "private": repository.private,
        "gated": "manual" if repository.gated else False,
        "disabled": False,
        "downloads": 0,
        "likes": 0,
        "tags": card.get("tags", []),
        "siblings": siblings,
        "cardData": card,
        **{key: card[key] for key in ("library_name", "pipeline_tag") if key in card},
    }


@_route("GET", f"{_REPO}/tree/([^/]+)(?:/(.+))?")
def _tree(hub: LocalHub, request: Request, kind: str, name: str, revision: str, folder: str) -> Any:
    commit = hub._open(request, kind, name).at(revision)
    recursive, expand = (request.query.get(key) == ["true"] for key in ("recursive", "expand"))
    paths = sorted(_folders(commit) | commit.files.keys())
    inside = [path for path in paths if path == folder and path in commit.files]
    inside += [path for path in paths if path.startswith(f"{folder}/" if folder else "")]
    if folder and not inside:
        raise Refusal(404, f"{folder} does not exist on {revision}", "EntryNotFound")
    depth = folder.count("/") + 1 if folder else 0
    return [_entry(commit, path, expand) for path in inside if recursive or path.count("/") <= depth]


@_route("POST", f"{_REPO}/paths-info/([^/]+)")
def _paths_info(hub: LocalHub, request: Request, kind: str, name: str, revision: str) -> Any:
    commit = hub._open(request, kind, name).at(revision)
    form = parse_qs(request.body.decode())
    known = _folders(commit) | commit.files.keys()
    return [_entry(commit, path, form.get("expand") == ["true"]) for path in form.get("paths", []) if path in known]


@_route("GET", f"{_REPO}/commits/([^/]+)")
def _commits(hub: LocalHub, request: Request, kind: str, name: str, revision: str) -> Any:
    return [
        {
            "id": commit.sha,
            "title": commit.title,
            "message": "",
            "date": commit.date,
            "authors": [{"user": commit.author}],
        }
        for commit in hub._open(request, kind, name).history(revision)
    ]


@_route("GET", f"{_REPO}/refs")
def _refs(hub: LocalHub, request: Request, kind: str, name: str) -> Any:
    repository = hub._open(request, kind, name)

    def listed(group: str, names: dict[str, str]) -> list[dict[str, str]]:
        return [{"name": key, "ref": f"refs/{group}/{key}", "targetCommit": sha} for key, sha in names.items()]

    branches, tags = listed("heads", repository.branches), listed("tags", repository.tags)
    return {"branches": branches, "tags": tags, "converts": [], "pullRequests": []}


@_route("POST DELETE", f"{_REPO}/(branch|tag)/([^/]+)")
def _ref(hub: LocalHub, request: Request, kind: str, name: str, group: str, given: str) -> Any:
    """A branch is posted under its own name, a tag under the revision it is set on."""
    repository = hub._open(request, kind, name, write=True)
    names = repository.branches if group == "branch" else repository.tags
    if request.method == "DELETE":
        if names.pop(given, None) is None:
            raise Refusal(404, f"No {group} {given}", "RevisionNotFound")
        return {}
    wanted = request.json()
    new, start = (given, wanted.get("startingPoint", "main")) if group == "branch" else (wanted["tag"], given)
    if new in names:
        raise Refusal(409, f"Reference already exists: {new}")
    names[new] = repository.at(start).sha
    return {}


# Upload.


@_route("POST", f"{_REPO}/preupload/([^/]+)")
def _preupload(hub: LocalHub, request: Request, kind: str, name: str, revision: str) -> Any:
    commit = hub._open(request, kind, name, write=True).at(revision)
    return {
        "files": [
            {
                "path": file["path"],
                "uploadMode": "lfs" if hub._is_large(file["path"], file["size"]) else "regular",
                "shouldIgnore": False,
                "oid": _etag(commit, file["path"]) if file["path"] in commit.files else None,
            }
            for file in request.json()["files"]
        ]
    }


@_route("POST", rf"{_PAGE}\.git/info/lfs/objects/batch")
def _lfs_batch(hub: LocalHub, request: Request, kind: str, name: str) -> Any:
    hub._open(request, kind, name, write=True)

    def instruction(wanted: dict[str, Any]) -> dict[str, Any]:
        if wanted["oid"] in hub._objects:
            return wanted
        link = f"{hub.endpoint}/lfs/{wanted['oid']}"
        return wanted | {"actions": {"upload": {"href": link}, "verify": {"href": f"{link}/verify"}}}

    return {"transfer": "basic", "objects": [instruction(wanted) for wanted in request.json()["objects"]]}


@_route("PUT", "/lfs/([0-9a-f]{64})")
def _lfs_put(hub: LocalHub, request: Request, oid: str) -> Any:
    if hashlib.sha256(request.body).hexdigest() != oid:
        raise Refusal(400, "BadDigest: the content has another SHA-256 than was announced")
    hub._objects[oid] = request.body
    return {}


@_route("POST", "/lfs/([0-9a-f]{64})/verify")
def _lfs_verify(hub: LocalHub, request: Request, oid: str) -> Any:
    if len(hub._objects.get(oid, b"")) != request.json()["size"] or request.json()["oid"] != oid:
        raise Refusal(422, "The uploaded object has another size or another SHA-256 than was announced")
    return {}


@_route("POST", f"{_REPO}/commit/([^/]+)")
def _commit(hub: LocalHub, request: Request, kind: str, name: str, branch: str) -> Any:
    repository = hub._open(request, kind, name, write=True)
    if branch not in repository.branches:
        raise Refusal(404, f"Invalid rev id: {branch}", "RevisionNotFound")
    lines = [json.loads(line) for line in request.body.splitlines()]
    header, head = lines[0]["value"], repository.at(branch)
    if header.get("parentCommit") not in (None, head.sha):
        raise Refusal(412, "A commit has happened since. Please refresh and try again.")
    added: Files = {}
    large, deleted = set(), set()
    for line in lines[1:]:
        value, path = line["value"], line["value"]["path"].rstrip("/")
        if path.startswith("/") or {"", ".", "..", ".git"} & set(path.split("/")):
            raise Refusal(400, f"Invalid path: {path}")
        if line["key"] == "file":
            added[path] = base64.b64decode(value["content"], validate=True)
        elif line["key"] == "lfsFile":
            if value["oid"] not in hub._objects:
                raise Refusal(400, "An LFS pointer pointed to a file that does not exist.")
            added[path] = hub._objects[value["oid"]]
            large.add(path)
        else:
            folder = line["key"] == "deletedFolder"
            gone = {old for old in head.files if (old.startswith(f"{path}/") if folder else old == path)}
            if not gone:
                raise Refusal(404, f"A file with this name doesn't exist: {path}", "EntryNotFound")
            deleted |= gone
    author = hub._user(request).name
    commit = hub._commit(repository, branch, header["summary"], author, added, large, deleted)
    page = "" if repository.kind == "model" else f"{repository.kind}s/"
    return {"success": True, "commitOid": commit.sha, "commitUrl": f"{hub.endpoint}/{page}{name}/commit/{commit.sha}"}


# Download.


@_route("GET HEAD", f"{_PAGE}/resolve/([^/]+)/(.+)")
def _resolve(hub: LocalHub, request: Request, kind: str, name: str, revision: str, path: str) -> Any:
    repository = hub._open(request, kind, name)
    user = hub._user(request)
    if repository.gated and (user is None or user.name != name.split("/")[0]):
        message = f"Access to {repository.kind} {name} is restricted and you are not in the authorized list."
        raise Refusal(403 if user else 401, message, "GatedRepo")
    commit = repository.at(revision)
    if path not in commit.files:
        raise Refusal(404, "Entry not found", "EntryNotFound", **{"X-Repo-Commit": commit.sha})
    headers = {"ETag": f'"{_etag(commit, path)}"', "X-Repo-Commit": commit.sha, "Accept-Ranges": "bytes"}
    headers["Content-Type"] = "application/octet-stream"
    content = commit.files[path]
    if path in commit.large:
        headers |= {"X-Linked-ETag": headers["ETag"], "X-Linked-Size": str(len(content))}
    wanted = re.fullmatch(r"bytes=(\d+)-(\d*)", request.headers.get("range", ""))
    if wanted is None:
        return Answer(200, content, headers, is_file=True)
    start, end = int(wanted[1]), min(int(wanted[2] or len(content)), len(content) - 1)
    if start >= len(content):
        raise Refusal(416, "Range not satisfiable", **{"Content-Range": f"bytes */{len(content)}"})
    headers["Content-Range"] = f"bytes {start}-{end}/{len(content)}"
    return Answer(206, content[start : end + 1], headers, is_file=True)


class _Server(ThreadingHTTPServer):
    # More connections at once than wait by default: a refused one would cost its client a second.
    request_queue_size = 64

    def handle_error(self, *arguments: Any) -> None:
        """A client that went away is no concern of the tests' output."""
        if not isinstance(sys.exception(), ConnectionError):
            super().handle_error(*arguments)


class _Handler(BaseHTTPRequestHandler):
    """Reads a request, lets the hub answer it, and makes of the answer what the faults want."""

    hub: LocalHub
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True

    def log_message(self, *arguments: Any) -> None:
        """The tests' output is theirs."""

    def do_GET(self) -> None:
        url, size = urlsplit(self.path), int(self.headers.get("Content-Length") or 0)
        name = f"{self.command} {unquote(url.path)}"
        fault = self.hub.fault(name, ("status", "drop", "lost", "drop_upload"))
        kind = fault.kind if fault else None
        body = self.rfile.read(min(size, fault.after) if kind == "drop_upload" else size)
        headers = {key.lower(): value for key, value in self.headers.items()}
        request = Request(self.command, unquote(url.path), url.path, parse_qs(url.query), headers, body)
        self.hub.requests.append(request)
        if kind in ("drop", "drop_upload"):
            self.close_connection = True
            return
        if kind == "status":
            retry = {} if fault.retry_after is None else {"Retry-After": str(fault.retry_after)}
            answer = Refusal(fault.status, "The local Hub was told to fail", **retry).answer
        else:
            answer = self.hub.answer(request)
        if kind == "lost":
            self.close_connection = True
            return
        self._send(answer, self.hub.fault(name, ("drop_download", "short", "corrupt")) if answer.is_file else None)

    do_HEAD = do_POST = do_PUT = do_DELETE = do_GET

    def _send(self, answer: Answer, fault: Fault | None) -> None:
        kind, body = fault.kind if fault else None, answer.body
        if kind == "short":
            body = body[: fault.after]
        elif kind == "corrupt":
            body = bytes(byte ^ 0xFF for byte in body)
        if kind == "short" and "X-Linked-Size" in answer.headers:
            answer.headers["X-Linked-Size"] = str(len(body))
        self.send_response(answer.status)
        for key, value in {"Content-Type": "application/json", **answer.headers}.items():
            self.send_header(key, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if kind == "drop_download":
            body = body[: fault.after]
            self.close_connection = True
        if self.command != "HEAD":
            self.wfile.write(body)
