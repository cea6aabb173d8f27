"""What the local Hub holds: users, and repositories as chains of commits."""

import fnmatch
import hashlib
from dataclasses import dataclass, field
from typing import NamedTuple

Files = dict[str, bytes]

_ATTRIBUTES = ".gitattributes"
_LARGE = ("*.safetensors", "*.parquet", "*.png")


class Refusal(Exception):
    """An error of the Hub: status, words, and the `X-Error-Code` that its clients read."""

    def __init__(self, status: int, message: str, code: str | None = None, **headers: str) -> None:
        super().__init__(message)
        self.status, self.message = status, message
        self.headers = {"X-Error-Message": message.encode("ascii", "replace").decode(), **headers}
        if code:
            self.headers["X-Error-Code"] = code


class User(NamedTuple):
    name: str
    write: bool


class Commit(NamedTuple):
    sha: str
    parent: str | None
    title: str
    files: Files


@dataclass
class Repository:
    """`branches` and `tags` name commits; `gated` lets nobody but the owner read files."""

    kind: str
    name: str
    private: bool
    gated: bool = False
    branches: dict[str, str] = field(default_factory=dict)
    tags: dict[str, str] = field(default_factory=dict)
    commits: dict[str, Commit] = field(default_factory=dict)

    @property
    def owner(self) -> str:
        return self.name.split("/")[0]

    def at(self, revision: str) -> Commit:
        """The commit that a branch, a tag or an id names."""
        sha = self.branches.get(revision) or self.tags.get(revision) or revision
        if sha not in self.commits:
            raise Refusal(404, f"Invalid rev id: {revision}", "RevisionNotFound")
        return self.commits[sha]


class Store:
    """Users and repositories, in memory."""

    _count = 0

    def clear(self) -> None:
        self.repositories: dict[tuple[str, str], Repository] = {}  # By ("model" or "dataset", "owner/name").
        self.objects: Files = {}  # Large files that were uploaded, by their SHA-256.
        self._users: dict[str, User] = {}

    def token(self, user: str, write: bool = True) -> str:
        """A new token of a user, who owns the repositories `user/…`; it only reads without `write`."""
        token = f"hf_{hashlib.sha256(f'{user} {len(self._users)}'.encode()).hexdigest()[:34]}"
        self._users[token] = User(user, write)
        return token

    def put(self, repo_id: str, files: Files, repo_type: str = "model") -> str:
        """Commit files to `main` as if pushed, whatever their names and content, and return the commit's id."""
        repository = self.repositories.get((repo_type, repo_id)) or self.create(repo_type, repo_id, private=False)
        return self.commit(repository, "main", "Put", files).sha

    def repository(self, repo_id: str, repo_type: str = "model") -> Repository:
        """The repository itself: tests may set `private` and `gated`."""
        return self.repositories[repo_type, repo_id]

    def files(self, repo_id: str, repo_type: str = "model", revision: str = "main") -> Files:
        """All files of a revision except `.gitattributes`, which the Hub's own first commit brings."""
        files = self.repository(repo_id, repo_type).at(revision).files
        return {path: content for path, content in files.items() if path != _ATTRIBUTES}

    def commits(self, repo_id: str, repo_type: str = "model", revision: str = "main") -> list[Commit]:
        """The commits of a revision, the newest first; the last is the Hub's own "initial commit"."""
        repository = self.repository(repo_id, repo_type)
        commits = [repository.at(revision)]
        while commits[-1].parent:
            commits.append(repository.commits[commits[-1].parent])
        return commits

    def user(self, token: str | None) -> User | None:
        """The owner of a token; None without one."""
        if token is not None and token not in self._users:
            raise Refusal(401, "Invalid credentials in Authorization header")
        return self._users.get(token)

    def open(self, token: str | None, kind: str, name: str, write: bool = False) -> Repository:
        """The repository, if the token's owner may see it, and change it if `write`."""
        user, repository = self.user(token), self.repositories.get((kind, name))
        owns = repository is not None and user is not None and user.name == repository.owner
        if repository is None or (repository.private and not owns):
            # Without a login the Hub does not tell private from missing.
            raise Refusal(404 if user else 401, "Repository not found", "RepoNotFound")
        if write and user is None:
            raise Refusal(401, "Invalid username or password.", "RepoNotFound")
        if write and not (owns and user.write):
            raise Refusal(403, "you must use a write token to upload to a repository")
        return repository

    def create(self, kind: str, name: str, private: bool) -> Repository:
        """A new repository with the Hub's own first commit."""
        repository = self.repositories[kind, name] = Repository(kind, name, private)
        attributes = {_ATTRIBUTES: b"*.png filter=lfs diff=lfs merge=lfs -text\n"}
        self.commit(repository, "main", "initial commit", attributes)
        return repository

    def commit(self, repository: Repository, branch: str, title: str, added: Files, deleted=frozenset()) -> Commit:
        """Advance a branch: delete files, then add files."""
        self._count += 1
        parent = repository.commits.get(repository.branches.get(branch, ""))
        kept = {path: content for path, content in parent.files.items() if path not in deleted} if parent else {}
        sha = hashlib.sha1(f"{repository.kind} {repository.name} {self._count}".encode()).hexdigest()
        commit = Commit(sha, parent.sha if parent else None, title, dict(sorted({**kept, **added}.items())))
        repository.commits[sha], repository.branches[branch] = commit, sha
        return commit


def is_large(path: str) -> bool:
    """Whether git keeps a file as an LFS object."""
    return any(fnmatch.fnmatch(path, pattern) for pattern in _LARGE)
