"""What the local Hub holds: users, and repositories as chains of commits, with the rights of the one on the other."""

import fnmatch
import hashlib
import secrets
import string
from dataclasses import dataclass, field
from datetime import datetime, timedelta

Files = dict[str, bytes]

_ATTRIBUTES = ".gitattributes"
_LARGE = ("*.safetensors", "*.parquet", "*.png", "*.bin")


class Refusal(Exception):
    """An error of the Hub: status, words, and the `X-Error-Code` by which the clients know it."""

    def __init__(self, status: int, message: str, code: str | None = None, **headers: str) -> None:
        super().__init__(message)
        self.status, self.message = status, message
        self.headers = {"X-Error-Message": message.encode("ascii", "replace").decode(), **headers}
        if code:
            self.headers["X-Error-Code"] = code


@dataclass(frozen=True)
class User:
    """Who a token belongs to and whether it may write."""

    name: str
    write: bool


@dataclass(frozen=True)
class Commit:
    """One state of a repository: its files, those of them kept as LFS objects, and where it comes from."""

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

    @property
    def owner(self) -> str:
        return self.name.split("/")[0]

    def at(self, revision: str) -> Commit:
        """The commit that a branch, a tag or an id names."""
        sha = self.branches.get(revision) or self.tags.get(revision) or revision
        if sha not in self.commits:
            raise Refusal(404, f"Invalid rev id: {revision}", "RevisionNotFound")
        return self.commits[sha]

    def history(self, revision: str) -> list[Commit]:
        """The commits that led to a revision, the newest first."""
        commits = [self.at(revision)]
        while commits[-1].parent:
            commits.append(self.commits[commits[-1].parent])
        return commits


class Store:
    """Users and repositories, in memory.

    Attributes:
        repositories: by ("model" or "dataset", "owner/name").
        objects: large files that were uploaded, by their SHA-256.
        lfs_above: a file of more bytes is a large one, as weights, tables and pictures always are.
    """

    _count = 0

    def clear(self) -> None:
        """Forget everything."""
        self.repositories: dict[tuple[str, str], Repository] = {}
        self.objects: Files = {}
        self.lfs_above = 10_000_000
        self._users: dict[str, User] = {}

    # What tests say and ask.

    def token(self, user: str, write: bool = True) -> str:
        """A new token of a user, who owns the repositories `user/…`; without `write` it only reads."""
        token = "hf_" + "".join(secrets.choice(string.ascii_letters) for _ in range(34))
        self._users[token] = User(user, write)
        return token

    def put(self, repo_id: str, files: Files, repo_type: str = "model", private: bool = False) -> str:
        """Commit files to `main` as if pushed, whatever their names and content, and return the commit's id."""
        repository = self.repositories.get((repo_type, repo_id)) or self.create(repo_type, repo_id, private)
        large = {path for path, content in files.items() if self.is_large(path, len(content))}
        return self.commit(repository, "main", "Put", files, large).sha

    def repository(self, repo_id: str, repo_type: str = "model") -> Repository:
        """The repository itself: `private` and `gated` may be set, branches and tags read."""
        return self.repositories[repo_type, repo_id]

    def files(self, repo_id: str, repo_type: str = "model", revision: str = "main") -> Files:
        """Every file of a revision but `.gitattributes`, which the Hub's own first commit brings."""
        files = self.repository(repo_id, repo_type).at(revision).files
        return {path: content for path, content in files.items() if path != _ATTRIBUTES}

    def commits(self, repo_id: str, repo_type: str = "model", revision: str = "main") -> list[Commit]:
        """The commits of a revision, the newest first; the last is the Hub's own "initial commit"."""
        return self.repository(repo_id, repo_type).history(revision)

    # What the routes ask and change.

    def user(self, token: str | None) -> User | None:
        """Who sent a token; None without one."""
        if token is not None and token not in self._users:
            raise Refusal(401, "Invalid credentials in Authorization header")
        return self._users.get(token)

    def open(self, token: str | None, kind: str, name: str, write: bool = False) -> Repository:
        """The repository, for one who may see it, and change it if `write`."""
        user, repository = self.user(token), self.repositories.get((kind, name))
        owns = repository is not None and user is not None and user.name == repository.owner
        if repository is None or (repository.private and not owns):
            # Without a login the Hub does not tell a private repository from none.
            raise Refusal(404 if user else 401, "Repository not found", "RepoNotFound")
        if write and user is None:
            raise Refusal(401, "Invalid username or password.", "RepoNotFound")
        if write and not (owns and user.write):
            raise Refusal(403, "you must use a write token to upload to a repository")
        return repository

    def is_large(self, path: str, size: int) -> bool:
        return size > self.lfs_above or any(fnmatch.fnmatch(path, pattern) for pattern in _LARGE)

    def create(self, kind: str, name: str, private: bool) -> Repository:
        """A new repository with the first commit that the Hub makes by itself."""
        repository = self.repositories[kind, name] = Repository(kind, name, private)
        attributes = "".join(f"{pattern} filter=lfs diff=lfs merge=lfs -text\n" for pattern in _LARGE)
        self.commit(repository, "main", "initial commit", {_ATTRIBUTES: attributes.encode()}, set())
        return repository

    def commit(
        self,
        repository: Repository,
        branch: str,
        title: str,
        added: Files,
        large: set[str],
        deleted: frozenset[str] | set[str] = frozenset(),
    ) -> Commit:
        """Set a branch forward: first files are deleted, then added, `large` of them as LFS objects."""
        self._count += 1
        parent = repository.commits.get(repository.branches.get(branch, ""))
        kept = {path: content for path, content in parent.files.items() if path not in deleted} if parent else {}
        commit = Commit(
            sha=hashlib.sha1(f"{repository.kind} {repository.name} {self._count}".encode()).hexdigest(),
            parent=parent.sha if parent else None,
            title=title,
            author=repository.owner,
            date=f"{datetime(2026, 1, 1) + timedelta(seconds=self._count):%Y-%m-%dT%H:%M:%S.000Z}",
            files=dict(sorted({**kept, **added}.items())),
            large=frozenset((parent.large & kept.keys()) - added.keys() | large if parent else large),
        )
        repository.commits[commit.sha] = commit
        repository.branches[branch] = commit.sha
        return commit
