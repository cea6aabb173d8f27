"""The Hub is an empty server on this machine: no test reaches the real one, and a wrong request fails at once."""

import os
import tempfile
from collections.abc import Callable

import pytest
from hub.local_hub import LocalHub

_HUB = LocalHub()
_HOME = tempfile.TemporaryDirectory(prefix="hf-kcd-tests-", ignore_cleanup_errors=True)

# huggingface_hub reads the environment when the first test file imports it.
# No login, offline switch or proxy of the person who runs the tests.
_FOREIGN = ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN", "HF_OIDC_RESOURCE", "HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE")
for _name in set(os.environ):
    if _name in _FOREIGN or _name.upper() in ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY"):
        del os.environ[_name]
os.environ.update(
    HF_ENDPOINT=_HUB.endpoint,
    HF_HUB_CACHE=os.path.join(_HOME.name, "hub"),
    HF_TOKEN_PATH=os.path.join(_HOME.name, "token"),
    HF_HUB_DISABLE_XET="1",
    HF_HUB_DISABLE_TELEMETRY="1",
    HF_HUB_DISABLE_PROGRESS_BARS="1",
    HF_UPDATE_DOWNLOAD_COUNTS="0",
)


@pytest.fixture(scope="session")
def session_hub() -> LocalHub:
    """The server of the session; tests use `hub` of tests/hub/conftest.py, which is empty and logged in."""
    return _HUB


@pytest.fixture
def refused(capsys) -> Callable[..., str]:
    """Run a command that fails, check its exit code and that it ends in one line on stderr, and return the line."""

    def run(*words: object, code: int = 2) -> str:
        from hf_kcd.cli.main import main  # Only now: it imports huggingface_hub.

        capsys.readouterr()
        with pytest.raises(SystemExit) as exit_:
            main([*map(str, words)])
        assert exit_.value.code == code
        lines = capsys.readouterr().err.splitlines()
        assert [line for line in lines if line.startswith("hf-kcd: error: ")] == lines[-1:]
        return lines[-1]

    return run
