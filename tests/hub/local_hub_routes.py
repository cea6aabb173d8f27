"""The routes of the local Hub: how huggingface.co answers its clients, as far as tests need it, without any HTTP."""

import base64
import hashlib
import json
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import parse_qs, unquote

import yaml
from hub.local_hub_store import Commit, Files, Refusal, Repository, Store, User, is_large


@dataclass(frozen=True)
class Request:
    """One request; `raw_path` is quoted and without the query, header names are in lower case."""

    method: str
    raw_path: str
    query: str
    headers: dict[str, str]
    body: bytes

    def __str__(self) -> str:
        return f"{self.method} {self.path}"

    @property
    def path(self) -> str:
        return unquote(self.raw_path)

    @property
    def token(self) -> str | None:
        header = self.headers.get("authorization")
        return header and header.removeprefix("Bearer ")

    def json(self) -> Any:
        return json.loads(self.body)


@dataclass
class Answer:
    """`is_file` marks the content of a repository's file, which faults may cut or change."""

    status: int
    body: bytes = b""
    headers: dict[str, str] = field(default_factory=dict)
    is_file: bool = False


def answer(store: Store, endpoint: str, request: Request) -> Answer:
    """Act on a request and answer it; links in the answers begin with `endpoint`."""
    try:
        for methods, pattern, reply in _ROUTES:
            # On the quoted path: a quoted slash, as in a branch's name, does not separate.
            if request.method in methods and (found := re.fullmatch(pattern, request.raw_path)):
                value = reply(_Call(store, endpoint, request), *(unquote(part or "") for part in found.groups()))
                return value if isinstance(value, Answer) else Answer(200, json.dumps(value).encode())
        raise Refusal(404, f"The local Hub has no route {request}")
    except Refusal as refusal:
        return refused(refusal)


def refused(refusal: Refusal) -> Answer:
    """An error in the Hub's form."""
    return Answer(refusal.status, json.dumps({"error": refusal.message}).encode(), refusal.headers)


@dataclass(frozen=True)
class _Call:
    store: Store
    endpoint: str
    request: Request

    def user(self) -> User:
        if (user := self.store.user(self.request.token)) is None:
            raise Refusal(401, "Invalid username or password.")
        return user

    def open(self, kind: str, name: str, write: bool = False) -> Repository:
        return self.store.open(self.request.token, kind.rstrip("s") or "model", name, write)

    def url(self, kind: str, name: str) -> str:
        return f"{self.endpoint}/{'' if kind == 'model' else f'{kind}s/'}{name}"


_ROUTES: list[tuple[tuple[str, ...], str, Callable[..., Any]]] = []
_REPO = r"/api/(models|datasets)/([^/]+/[^/]+)"
_PAGE = r"/(?:(datasets)/)?([^/]+/[^/]+?)"


def _route(methods: str, pattern: str) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    def register(reply: Callable[..., Any]) -> Callable[..., Any]:
        _ROUTES.append((tuple(methods.split()), pattern, reply))
        return reply

    return register


def _sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def _etag(path: str, content: bytes) -> str:
    """The checksum that names a file: SHA-256 for large ones, git's for the others."""
    return _sha256(content) if is_large(path) else hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()


def _entry(commit: Commit, path: str) -> dict[str, Any]:
    """A file or a folder in a list."""
    if path not in commit.files:
        return {"type": "directory", "path": path, "oid": hashlib.sha1(path.encode()).hexdigest(), "size": 0}
    content = commit.files[path]
    entry = {"type": "file", "path": path, "oid": hashlib.sha1(content).hexdigest(), "size": len(content)}
    lfs = {"oid": _sha256(content), "size": len(content), "pointerSize": 130}
    return entry | ({"lfs": lfs} if is_large(path) else {})


def _paths(commit: Commit) -> list[str]:
    folders = {path[: slash.start()] for path in commit.files for slash in re.finditer("/", path)}
    return sorted(folders | commit.files.keys())


@_route("GET", "/api/whoami-v2")
def _whoami(call: _Call) -> Any:
    return {"type": "user", "name": call.user().name, "orgs": []}


@_route("POST", "/api/repos/create")
def _create(call: _Call) -> Any:
    user, wanted = call.user(), call.request.json()
    kind, owner = wanted.get("type") or "model", wanted.get("organization") or user.name
    if owner != user.name or not user.write:
        raise Refusal(403, f'You don\'t have the rights to create a {kind} under the namespace "{owner}"')
    name = f"{owner}/{wanted['name']}"
    url = {"url": call.url(kind, name)}
    if (kind, name) in call.store.repositories:
        return Answer(409, json.dumps({"error": f"You already created this {kind} repo: {name}", **url}).encode())
    call.store.create(kind, name, private=wanted.get("visibility") == "private")
    return url


@_route("GET", f"{_REPO}(?:/revision/([^/]+))?")
def _info(call: _Call, kind: str, name: str, revision: str) -> Any:
    repository = call.open(kind, name)
    commit = repository.at(revision or "main")
    siblings = [{"rfilename": path, "size": len(content)} for path, content in commit.files.items()]
    about = {"author": repository.owner, "private": repository.private, "tags": [], "cardData": {}}
    return {"id": name, "sha": commit.sha, "lastModified": "2026-01-01T00:00:00.000Z", "siblings": siblings, **about}


@_route("GET", f"{_REPO}/tree/([^/]+)(?:/(.+))?")
def _tree(call: _Call, kind: str, name: str, revision: str, folder: str) -> Any:
    commit = call.open(kind, name).at(revision)
    recursive = parse_qs(call.request.query).get("recursive") == ["true"]
    prefix = f"{folder}/" if folder else ""
    inside = [path for path in _paths(commit) if path.startswith(prefix)]
    return [_entry(commit, path) for path in inside if recursive or "/" not in path.removeprefix(prefix)]


@_route("POST", f"{_REPO}/paths-info/([^/]+)")
def _paths_info(call: _Call, kind: str, name: str, revision: str) -> Any:
    commit, known = call.open(kind, name).at(revision), parse_qs(call.request.body.decode()).get("paths", [])
    return [_entry(commit, path) for path in known if path in _paths(commit)]


@_route("POST", f"{_REPO}/(branch|tag)/([^/]+)")
def _ref(call: _Call, kind: str, name: str, group: str, given: str) -> Any:
    repository, wanted = call.open(kind, name, write=True), call.request.json()
    # A branch is posted under its own name, a tag under its revision.
    names, new, start = repository.branches, given, wanted.get("startingPoint", "main")
    if group == "tag":
        names, new, start = repository.tags, wanted["tag"], given
    if new in names:
        raise Refusal(409, f"Reference already exists: {new}")
    names[new] = repository.at(start).sha
    return {}


@_route("POST", "/api/validate-yaml")
def _validate(call: _Call) -> Any:
    found = re.match(r"---\r?\n(.*?)^---\s*$", call.request.json()["content"], re.DOTALL | re.MULTILINE)
    try:
        data = yaml.safe_load(found[1]) if found else None
    except yaml.YAMLError as error:
        return Answer(400, json.dumps({"errors": [{"message": str(error)}], "warnings": []}).encode())
    warnings = [] if data else [{"message": "empty or missing yaml metadata in repo card"}]
    return {"errors": [], "warnings": warnings}


@_route("POST", f"{_REPO}/preupload/([^/]+)")
def _preupload(call: _Call, kind: str, name: str, revision: str) -> Any:
    files = call.open(kind, name, write=True).at(revision).files
    wanted = call.request.json()["files"]
    for file in wanted:
        path = file["path"]
        file |= {"uploadMode": "lfs" if is_large(path) else "regular", "shouldIgnore": False}
        file["oid"] = _etag(path, files[path]) if path in files else None
    return {"files": wanted}


@_route("POST", rf"{_PAGE}\.git/info/lfs/objects/batch")
def _lfs_batch(call: _Call, kind: str, name: str) -> Any:
    call.open(kind, name, write=True)
    objects = call.request.json()["objects"]
    for wanted in objects:
        if wanted["oid"] not in call.store.objects:
            wanted["actions"] = {"upload": {"href": f"{call.endpoint}/lfs/{wanted['oid']}"}}
    return {"transfer": "basic", "objects": objects}


@_route("PUT", "/lfs/([0-9a-f]{64})")
def _lfs_put(call: _Call, oid: str) -> Any:
    if _sha256(call.request.body) != oid:
        raise Refusal(400, "BadDigest: the content has another SHA-256 than was announced")
    call.store.objects[oid] = call.request.body
    return {}


@_route("POST", f"{_REPO}/commit/([^/]+)")
def _commit(call: _Call, kind: str, name: str, branch: str) -> Any:
    repository = call.open(kind, name, write=True)
    header, *lines = (json.loads(line) for line in call.request.body.splitlines())
    added: Files = {}
    deleted = set()
    for operation, value in ((line["key"], line["value"]) for line in lines):
        path = value["path"]
        if operation == "file":
            added[path] = base64.b64decode(value["content"], validate=True)
        elif operation == "lfsFile":
            if value["oid"] not in call.store.objects:
                raise Refusal(400, "An LFS pointer pointed to a file that does not exist.")
            added[path] = call.store.objects[value["oid"]]
        else:
            deleted.add(path)
    commit = call.store.commit(repository, branch, header["value"]["summary"], added, deleted)
    url = f"{call.url(repository.kind, name)}/commit/{commit.sha}"
    return {"success": True, "commitOid": commit.sha, "commitUrl": url}


@_route("GET HEAD", f"{_PAGE}/resolve/([^/]+)/(.+)")
def _resolve(call: _Call, kind: str, name: str, revision: str, path: str) -> Any:
    repository, user = call.open(kind, name), call.store.user(call.request.token)
    if repository.gated and (user is None or user.name != repository.owner):
        message = f"Access to {repository.kind} {name} is restricted and you are not in the authorized list."
        raise Refusal(403 if user else 401, message, "GatedRepo")
    commit = repository.at(revision)
    if path not in commit.files:
        raise Refusal(404, "Entry not found", "EntryNotFound", **{"X-Repo-Commit": commit.sha})
    content = commit.files[path]
    etag = f'"{_etag(path, content)}"'
    headers = {"ETag": etag, "X-Repo-Commit": commit.sha, "Content-Type": "application/octet-stream"}
    if is_large(path):
        headers |= {"X-Linked-ETag": etag, "X-Linked-Size": str(len(content))}
    return Answer(200, content, headers, is_file=True)
