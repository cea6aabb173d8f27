"""The routes of the local Hub: what huggingface.co answers to each request of its clients, without any HTTP.

Not here: Xet, pull requests, organisations, lists of several pages, and the host apart that serves large files.
"""

import base64
import hashlib
import json
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import parse_qs, unquote

import yaml
from hub.local_hub_store import Commit, Files, Refusal, Repository, Store


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

    @property
    def token(self) -> str | None:
        header = self.headers.get("authorization")
        return header and header.removeprefix("Bearer ")

    def json(self) -> Any:
        return json.loads(self.body)


@dataclass
class Answer:
    """What goes back; `is_file` marks the content of a repository's file, which accidents may cut or change."""

    status: int
    body: bytes = b""
    headers: dict[str, str] = field(default_factory=dict)
    is_file: bool = False


def answer(store: Store, endpoint: str, request: Request) -> Answer:
    """Act on a request and answer it; `endpoint` begins the links within the answers."""
    try:
        for methods, pattern, reply in _ROUTES:
            # On the path as it came: a quoted slash, as in the name of a branch, is no slash.
            if request.method in methods and (found := re.fullmatch(pattern, request.raw_path)):
                value = reply(_Call(store, endpoint, request), *(unquote(part or "") for part in found.groups()))
                return value if isinstance(value, Answer) else Answer(200, json.dumps(value).encode())
        raise Refusal(404, f"The local Hub has no route {request}")
    except Refusal as refusal:
        return refused(refusal)


def refused(refusal: Refusal) -> Answer:
    """An error as the Hub words it."""
    return Answer(refusal.status, json.dumps({"error": refusal.message}).encode(), refusal.headers)


@dataclass(frozen=True)
class _Call:
    """A request, on what it works, and what all routes need of both."""

    store: Store
    endpoint: str
    request: Request

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


# How files are described.


def _sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def _git_id(content: bytes) -> str:
    return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()


def _pointer(content: bytes) -> bytes:
    """What git holds in place of a large file."""
    lines = f"version https://git-lfs.github.com/spec/v1\noid sha256:{_sha256(content)}\nsize {len(content)}\n"
    return lines.encode()


def _etag(commit: Commit, path: str) -> str:
    return (_sha256 if path in commit.large else _git_id)(commit.files[path])


def _entry(commit: Commit, path: str, expand: bool = False) -> dict[str, Any]:
    """A file or a folder, as in the lists of trees and paths."""
    last = {"lastCommit": {"id": commit.sha, "title": commit.title, "date": commit.date}} if expand else {}
    if path not in commit.files:
        return {"type": "directory", "path": path, "oid": hashlib.sha1(path.encode()).hexdigest(), "size": 0, **last}
    content = commit.files[path]
    entry = {"type": "file", "path": path, "oid": _git_id(content), "size": len(content), **last}
    if path in commit.large:
        pointer = _pointer(content)
        lfs = {"oid": _sha256(content), "size": len(content), "pointerSize": len(pointer)}
        entry |= {"oid": _git_id(pointer), "lfs": lfs}
    return entry


def _paths(commit: Commit) -> list[str]:
    """Every file and every folder."""
    folders = {path[: slash.start()] for path in commit.files for slash in re.finditer("/", path)}
    return sorted(folders | commit.files.keys())


def _metadata(card: str) -> dict[str, Any]:
    """The head of a card; YAMLError where it is none."""
    found = re.match(r"---\r?\n(.*?)^---\s*$", card, re.DOTALL | re.MULTILINE)
    data = yaml.safe_load(found[1]) if found else None
    if data is not None and not isinstance(data, dict):
        raise yaml.YAMLError("metadata must be a mapping")
    return data or {}


# Users and repositories.


@_route("GET", "/api/whoami-v2")
def _whoami(call: _Call) -> Any:
    user = call.store.user(call.request.token)
    if user is None:
        raise Refusal(401, "Invalid username or password.")
    role = "write" if user.write else "read"
    return {"type": "user", "name": user.name, "orgs": [], "auth": {"accessToken": {"role": role}}}


@_route("POST", "/api/repos/create")
def _create(call: _Call) -> Any:
    user, wanted = call.store.user(call.request.token), call.request.json()
    if user is None:
        raise Refusal(401, "Invalid username or password.")
    kind, owner = wanted.get("type") or "model", wanted.get("organization") or user.name
    if owner != user.name or not user.write:
        raise Refusal(403, f'You don\'t have the rights to create a {kind} under the namespace "{owner}"')
    name = f"{owner}/{wanted['name']}"
    url = {"url": call.url(kind, name)}
    if (kind, name) in call.store.repositories:
        return Answer(409, json.dumps({"error": f"You already created this {kind} repo: {name}", **url}).encode())
    call.store.create(kind, name, private=wanted.get("visibility") == "private")
    return url


@_route("DELETE", "/api/repos/delete")
def _delete(call: _Call) -> Any:
    wanted = call.request.json()
    repository = call.open(wanted.get("type", ""), f"{wanted['organization']}/{wanted['name']}", write=True)
    del call.store.repositories[repository.kind, repository.name]
    return {}


@_route("PUT", f"{_REPO}/settings")
def _settings(call: _Call, kind: str, name: str) -> Any:
    repository, wanted = call.open(kind, name, write=True), call.request.json()
    if "visibility" in wanted:
        repository.private = wanted["visibility"] == "private"
    return {}


def _describe(repository: Repository, commit: Commit) -> dict[str, Any]:
    """A repository as its own page and the lists show it; the Hub makes tags of more than the card's `tags`."""
    try:
        card = _metadata(commit.files.get("README.md", b"").decode(errors="replace"))
    except yaml.YAMLError:
        card = {}
    named = {key: card[key] for key in ("library_name", "pipeline_tag") if key in card}
    tags = [*card.get("tags", []), *named.values()]
    for prefix, key in (("license", "license"), ("dataset", "datasets"), ("base_model", "base_model")):
        values = card.get(key, [])
        tags += [f"{prefix}:{value}" for value in (values if isinstance(values, list) else [values])]
    return {
        "id": repository.name,
        "author": repository.owner,
        "sha": commit.sha,
        "lastModified": commit.date,
        "private": repository.private,
        "gated": "manual" if repository.gated else False,
        "tags": tags,
        "siblings": [{"rfilename": path, "size": len(content)} for path, content in commit.files.items()],
        "cardData": card,
        **named,
    }


@_route("GET", "/api/(models|datasets)")
def _list(call: _Call, kind: str) -> Any:
    user, query = call.store.user(call.request.token), call.request.query
    shown = [
        _describe(one, one.at("main"))
        for one in call.store.repositories.values()
        if f"{one.kind}s" == kind
        and (not one.private or (user is not None and user.name == one.owner))
        and query.get("author", [one.owner]) == [one.owner]
        and query.get("search", [""])[0].lower() in one.name.lower()
    ]
    return [one for one in shown if set(query.get("filter", ())) <= set(one["tags"])]


@_route("GET", f"{_REPO}(?:/revision/([^/]+))?")
def _info(call: _Call, kind: str, name: str, revision: str) -> Any:
    repository = call.open(kind, name)
    return _describe(repository, repository.at(revision or "main"))


@_route("GET", f"{_REPO}/tree/([^/]+)(?:/(.+))?")
def _tree(call: _Call, kind: str, name: str, revision: str, folder: str) -> Any:
    commit = call.open(kind, name).at(revision)
    recursive, expand = (call.request.query.get(key) == ["true"] for key in ("recursive", "expand"))
    prefix = f"{folder}/" if folder else ""
    inside = [path for path in _paths(commit) if path.startswith(prefix) or (path == folder and path in commit.files)]
    if folder and not inside:
        raise Refusal(404, f"{folder} does not exist on {revision}", "EntryNotFound")
    return [_entry(commit, path, expand) for path in inside if recursive or "/" not in path.removeprefix(prefix)]


@_route("POST", f"{_REPO}/paths-info/([^/]+)")
def _paths_info(call: _Call, kind: str, name: str, revision: str) -> Any:
    commit, form = call.open(kind, name).at(revision), parse_qs(call.request.body.decode())
    known, expand = _paths(commit), form.get("expand") == ["true"]
    return [_entry(commit, path, expand) for path in form.get("paths", []) if path in known]


@_route("GET", f"{_REPO}/commits/([^/]+)")
def _commits(call: _Call, kind: str, name: str, revision: str) -> Any:
    return [
        {"id": one.sha, "title": one.title, "message": "", "date": one.date, "authors": [{"user": one.author}]}
        for one in call.open(kind, name).history(revision)
    ]


@_route("GET", f"{_REPO}/refs")
def _refs(call: _Call, kind: str, name: str) -> Any:
    repository = call.open(kind, name)

    def listed(group: str, names: dict[str, str]) -> list[dict[str, str]]:
        return [{"name": key, "ref": f"refs/{group}/{key}", "targetCommit": sha} for key, sha in names.items()]

    return {
        "branches": listed("heads", repository.branches),
        "tags": listed("tags", repository.tags),
        "converts": [],
        "pullRequests": [],
    }


@_route("POST DELETE", f"{_REPO}/(branch|tag)/([^/]+)")
def _ref(call: _Call, kind: str, name: str, group: str, given: str) -> Any:
    repository = call.open(kind, name, write=True)
    names = repository.branches if group == "branch" else repository.tags
    if call.request.method == "DELETE":
        if names.pop(given, None) is None:
            raise Refusal(404, f"No {group} {given}", "RevisionNotFound")
        return {}
    wanted = call.request.json()
    # A branch is posted under its own name, a tag under the revision that it is set on.
    new, start = (given, wanted.get("startingPoint", "main")) if group == "branch" else (wanted["tag"], given)
    if new in names:
        raise Refusal(409, f"Reference already exists: {new}")
    names[new] = repository.at(start).sha
    return {}


# Upload.


@_route("POST", "/api/validate-yaml")
def _validate(call: _Call) -> Any:
    try:
        data = _metadata(call.request.json()["content"])
    except yaml.YAMLError as error:
        return Answer(400, json.dumps({"errors": [{"message": str(error)}], "warnings": []}).encode())
    warnings = [] if data else [{"message": "empty or missing yaml metadata in repo card"}]
    return {"errors": [], "warnings": warnings}


@_route("POST", f"{_REPO}/preupload/([^/]+)")
def _preupload(call: _Call, kind: str, name: str, revision: str) -> Any:
    commit = call.open(kind, name, write=True).at(revision)
    files = [
        {
            "path": file["path"],
            "uploadMode": "lfs" if call.store.is_large(file["path"], file["size"]) else "regular",
            "shouldIgnore": False,
            "oid": _etag(commit, file["path"]) if file["path"] in commit.files else None,
        }
        for file in call.request.json()["files"]
    ]
    return {"files": files}


@_route("POST", rf"{_PAGE}\.git/info/lfs/objects/batch")
def _lfs_batch(call: _Call, kind: str, name: str) -> Any:
    call.open(kind, name, write=True)
    objects = call.request.json()["objects"]
    for wanted in objects:
        if wanted["oid"] not in call.store.objects:
            link = f"{call.endpoint}/lfs/{wanted['oid']}"
            wanted["actions"] = {"upload": {"href": link}, "verify": {"href": f"{link}/verify"}}
    return {"transfer": "basic", "objects": objects}


@_route("PUT", "/lfs/([0-9a-f]{64})")
def _lfs_put(call: _Call, oid: str) -> Any:
    if _sha256(call.request.body) != oid:
        raise Refusal(400, "BadDigest: the content has another SHA-256 than was announced")
    call.store.objects[oid] = call.request.body
    return {}


@_route("POST", "/lfs/([0-9a-f]{64})/verify")
def _lfs_verify(call: _Call, oid: str) -> Any:
    if len(call.store.objects.get(oid, b"")) != call.request.json()["size"]:
        raise Refusal(422, "The uploaded object has another size than was announced")
    return {}


@_route("POST", f"{_REPO}/commit/([^/]+)")
def _commit(call: _Call, kind: str, name: str, branch: str) -> Any:
    repository = call.open(kind, name, write=True)
    if branch not in repository.branches:
        raise Refusal(404, f"Invalid rev id: {branch}", "RevisionNotFound")
    header, *lines = (json.loads(line) for line in call.request.body.splitlines())
    head = repository.at(branch)
    if header["value"].get("parentCommit") not in (None, head.sha):
        raise Refusal(412, "A commit has happened since. Please refresh and try again.")
    added: Files = {}
    large, deleted = set(), set()
    for value, operation in ((line["value"], line["key"]) for line in lines):
        path = value["path"].rstrip("/")
        if {"", ".", "..", ".git"} & set(path.split("/")):
            raise Refusal(400, f"Invalid path: {path}")
        if operation == "file":
            added[path] = base64.b64decode(value["content"], validate=True)
        elif operation == "lfsFile":
            if value["oid"] not in call.store.objects:
                raise Refusal(400, "An LFS pointer pointed to a file that does not exist.")
            added[path] = call.store.objects[value["oid"]]
            large.add(path)
        else:
            folder = operation == "deletedFolder"
            gone = {old for old in head.files if (old.startswith(f"{path}/") if folder else old == path)}
            if not gone:
                raise Refusal(404, f"A file with this name doesn't exist: {path}", "EntryNotFound")
            deleted |= gone
    commit = call.store.commit(repository, branch, header["value"]["summary"], added, large, deleted)
    url = f"{call.url(repository.kind, name)}/commit/{commit.sha}"
    return {"success": True, "commitOid": commit.sha, "commitUrl": url}


# Download.


@_route("GET HEAD", f"{_PAGE}/resolve/([^/]+)/(.+)")
def _resolve(call: _Call, kind: str, name: str, revision: str, path: str) -> Any:
    repository, user = call.open(kind, name), call.store.user(call.request.token)
    if repository.gated and (user is None or user.name != repository.owner):
        message = f"Access to {repository.kind} {name} is restricted and you are not in the authorized list."
        raise Refusal(403 if user else 401, message, "GatedRepo")
    commit = repository.at(revision)
    if path not in commit.files:
        raise Refusal(404, "Entry not found", "EntryNotFound", **{"X-Repo-Commit": commit.sha})
    content, etag = commit.files[path], f'"{_etag(commit, path)}"'
    headers = {"ETag": etag, "X-Repo-Commit": commit.sha, "Content-Type": "application/octet-stream"}
    if path in commit.large:
        headers |= {"X-Linked-ETag": etag, "X-Linked-Size": str(len(content))}
    wanted = re.fullmatch(r"bytes=(\d+)-(\d*)", call.request.headers.get("range", ""))
    if wanted is None:
        return Answer(200, content, headers, is_file=True)
    start, end = int(wanted[1]), min(int(wanted[2] or len(content)), len(content) - 1)
    if start >= len(content):
        raise Refusal(416, "Range not satisfiable", **{"Content-Range": f"bytes */{len(content)}"})
    headers["Content-Range"] = f"bytes {start}-{end}/{len(content)}"
    return Answer(206, content[start : end + 1], headers, is_file=True)
