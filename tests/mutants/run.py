"""Put a random sample of small faults into the package, one at a time, and see whether the tests notice.

The faults are those of mutmut's operators. mutmut's own runner keeps all faults of a function beside it in one file,
leaves out decorated functions, and does not reach the programs that tests start; here each fault is in a copy of the
tree of its own, and a process that has imported torch is forked for it. A fault meets the tests that run its line,
the fastest first, until one fails.
"""

import argparse
import compileall
import contextlib
import dataclasses
import hashlib
import importlib
import json
import os
import py_compile
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from faults import ROOMS, Fault, again, faulty, sample
from tests_by_line import NoteLines, TestsByLine, merge, read, write

ROOT = Path(__file__).resolve().parents[2]
EQUIVALENT = Path(__file__).with_name("equivalent.json")
NOTICED = ("noticed", "out of time")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--folder",
        type=Path,
        default=ROOT / "mutants",
        help="sample, results and survivors; a run that was stopped goes on there",
    )
    parser.add_argument("--number", type=int, default=300, help="number of faults of a new sample (default: 300)")
    parser.add_argument("--seed", type=int, default=12, help="seed of a new sample (default: 12)")
    parser.add_argument("--seconds", type=float, default=60, help="seconds of tests for each fault (default: 60)")
    parser.add_argument("--survivors", action="store_true", help="try again only the faults that no test noticed")
    parser.add_argument("--anew", action="store_true", help="forget the results, and try the whole sample again")
    parser.add_argument("--report", action="store_true", help="only count what has been tried")
    args = parser.parse_args()
    args.folder.mkdir(parents=True, exist_ok=True)
    folder = args.folder.resolve()
    if not args.report:
        signal.signal(signal.SIGTERM, lambda *_: sys.exit("stopped"))
        os.environ["OMP_NUM_THREADS"] = "1"
        if args.anew:
            (folder / "results.jsonl").unlink(missing_ok=True)
        _copy_tree(folder)
        _map_tests(folder)
        _try_all(_sample(folder, args.number, args.seed), folder, args.seconds, args.survivors)
        _check(folder)
    _report(folder)


def _copy_tree(folder: Path) -> None:
    """Copy what git knows or would add; a .pyc is valid while its source has the same bytes."""
    tree = folder / "tree"
    shutil.rmtree(tree, ignore_errors=True)
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT,
        check=True,
        capture_output=True,
    )
    for name in listed.stdout.decode().split("\0"):
        if name and (ROOT / name).is_file():
            (tree / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / name, tree / name)
    compileall.compile_dir(tree, quiet=1, invalidation_mode=py_compile.PycInvalidationMode.CHECKED_HASH)
    if (ROOT.parent / "shared").is_dir() and not (folder / "shared").exists():
        (folder / "shared").symlink_to(ROOT.parent / "shared")


def _map_tests(folder: Path) -> None:
    """Note which tests run which lines; where only files of tests have changed, for these alone."""
    file, tree = folder / "tests.json", folder / "tree"
    digests = {
        str(path.relative_to(tree)): hashlib.sha256(path.read_bytes()).hexdigest()
        for place in ("hf_kcd", "tests")
        for path in sorted((tree / place).rglob("*.py"))
        if "mutants" not in path.parts[len(tree.parts) :]
    }
    known = read(file) if file.exists() else {"digests": {}}
    changed = {
        name for name in digests.keys() | known["digests"].keys() if digests.get(name) != known["digests"].get(name)
    }
    if not changed:
        return
    partly = known["digests"] and all(Path(name).name.startswith("test_") for name in changed)
    which = sorted(name for name in changed if name in digests) if partly else ["tests"]
    print(f"Noting the lines of {' '.join(which)}", flush=True)

    def work() -> int:
        notes = NoteLines(tree / "hf_kcd", folder)
        pytest.main([*which, "-q", "-p", "no:cacheprovider", "--tb=no", "-rfE"], plugins=[notes])
        found = notes.found()
        if partly:
            found = merge(known, found, changed)
        write({**found, "digests": digests}, file)
        return 0

    if _in_child(work, tree, folder / "tests.log", 6 * 3600) != 0:
        raise SystemExit(f"The tests could not be run: see {folder / 'tests.log'}.")


def _sample(folder: Path, number: int, seed: int) -> dict[str, Fault]:
    """The folder's sample by name, as its faults are in the present source; a new one where it has none."""
    file, tree = folder / "sample.json", folder / "tree"
    if not file.exists():
        faults = sample(tree, number, seed)
        file.write_text(json.dumps([dataclasses.asdict(fault) for fault in faults], indent=1), encoding="utf-8")
    return again(_read_sample(folder), tree)


def _read_sample(folder: Path) -> list[Fault]:
    rows = json.loads((folder / "sample.json").read_text(encoding="utf-8"))
    return [Fault(**{**row, "lines": tuple(row["lines"])}) for row in rows]


def _results(folder: Path) -> dict[str, dict]:
    """The last result of each fault, by its name."""
    file = folder / "results.jsonl"
    lines = file.read_text(encoding="utf-8").splitlines() if file.exists() else []
    return {result["fault"]: result for result in map(json.loads, lines)}


def _try_all(faults: dict[str, Fault], folder: Path, seconds: float, survivors: bool) -> None:
    _preload()
    tests, results = TestsByLine(folder / "tests.json"), _results(folder)
    drawn, reasons = _read_sample(folder), _reasons()
    if survivors:
        missed = [fault for fault in drawn if fault.name in results and _outcome(fault, results) not in NOTICED]
        left = [fault.name for fault in missed if (fault.file, fault.function, fault.change) not in reasons]
    else:
        left = [fault.name for fault in drawn if fault.name not in results]
    for number, name in enumerate(left, start=1):
        tried = _try(faults[name], tests, folder, seconds) if name in faults else {"outcome": "gone", "seconds": 0}
        with open(folder / "results.jsonl", "a", encoding="utf-8") as file:
            file.write(json.dumps({"fault": name, **tried}) + "\n")
        print(f"{number}/{len(left)}  {tried['outcome']:11}  {tried['seconds']:6.1f} s  {name}", flush=True)


def _preload() -> None:
    """Import what costs seconds, except the package."""
    for name in (
        *("torch._dynamo", "torchvision.transforms", "pandas", "pyarrow.parquet", "sklearn.datasets", "hypothesis"),
        *("matplotlib.pyplot", "huggingface_hub.hf_api", "datasets", "timm", "transformers.trainer", "evaluate"),
    ):
        importlib.import_module(name)


def _try(fault: Fault, tests: TestsByLine, folder: Path, seconds: float) -> dict:
    """Run the tests of a fault's lines with the fault in place."""
    tree, noticed_by = folder / "tree", folder / "noticed_by"
    all_tests = tests.of(fault.file, range(fault.lines[0], fault.lines[1] + 1), fault.at_import, tree)
    chosen, planned = [], 0.0
    for test in all_tests:
        planned += tests.seconds(test)
        if chosen and planned > seconds:
            break
        chosen.append(test)
    noticed_by.unlink(missing_ok=True)
    original, start = (tree / fault.file).read_text(encoding="utf-8"), time.perf_counter()
    (tree / fault.file).write_text(faulty(fault, tree), encoding="utf-8")
    try:
        limit = 60 + 10 * min(planned, seconds)
        code = _in_child(lambda: _run(["-x", *chosen], noticed_by) if chosen else 0, tree, folder / "last.log", limit)
    finally:
        (tree / fault.file).write_text(original, encoding="utf-8")
    outcome = {0: "survived", None: "out of time", 5: "survived"}.get(code, "noticed")
    by = noticed_by.read_text(encoding="utf-8").splitlines()[0] if noticed_by.exists() else ""
    taken = round(time.perf_counter() - start, 1)
    return {"outcome": outcome, "by": by, "seconds": taken, "tests": len(chosen), "of": len(all_tests)}


def _check(folder: Path) -> None:
    """Run the tests that noticed a fault once without one: what a test noticed that fails anyway does not count."""
    failed, results = folder / "failed_anyway", _results(folder)
    failed.unlink(missing_ok=True)
    tests = sorted({result["by"] for result in results.values() if result.get("by")})
    if tests:
        _in_child(lambda: _run(tests, failed), folder / "tree", folder / "last.log", 3600)
    names = set(failed.read_text(encoding="utf-8").splitlines()) if failed.exists() else set()
    with open(folder / "results.jsonl", "a", encoding="utf-8") as file:
        for result in results.values():
            if result.get("by") in names:
                print(f"{result['by']} fails without the fault, too: {result['fault']}")
                file.write(json.dumps({**result, "outcome": "unsure"}) + "\n")


def _run(words: list[str], failed: Path) -> int:
    """Run pytest, and write the names of failed tests into a file."""

    class Watch:
        def pytest_collection(self):
            """The tests' conftest.py has chosen a Hub: read the settings again that were read when the Hub was imported."""
            constants = importlib.reload(sys.modules["huggingface_hub.constants"])
            importlib.reload(sys.modules["datasets.config"])
            sys.modules["huggingface_hub.hf_api"].api.endpoint = constants.ENDPOINT

        def pytest_runtest_logreport(self, report):
            if report.failed:
                with open(failed, "a", encoding="utf-8") as file:
                    file.write(report.nodeid + "\n")

    return pytest.main(["-q", "-p", "no:cacheprovider", "--tb=short", *words], plugins=[Watch()])


def _in_child(work: Callable[[], int], tree: Path, log: Path, limit: float) -> int | None:
    """Run `work` in a forked process and the tree; return its exit code, or None where it came to the limit of seconds."""
    child = os.fork()
    if child == 0:
        os.setsid()  # the child and all that it starts end together
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        with open(log, "w", encoding="utf-8") as out:
            os.dup2(out.fileno(), 1)
            os.dup2(out.fileno(), 2)
        code = 70
        try:
            os.chdir(tree)
            os.environ["PYTHONPATH"] = str(tree)
            os.environ["PYTHONDONTWRITEBYTECODE"] = "1"  # a .pyc of a fault must not outlive it
            sys.path.insert(0, str(tree))
            code = int(work())
        finally:
            os._exit(code)
    end, code = time.monotonic() + limit, None
    try:
        while time.monotonic() < end:
            done, status = os.waitpid(child, os.WNOHANG)
            if done:
                code = os.waitstatus_to_exitcode(status)
                break
            time.sleep(0.05)
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(child, signal.SIGKILL)
        if code is None:
            os.waitpid(child, 0)
    return code


def _outcome(fault: Fault, results: dict[str, dict]) -> str:
    return results.get(fault.name, {"outcome": ""})["outcome"]


def _reasons() -> dict[tuple[str, str, str], str]:
    """Why no test can notice a change, by file, function and change."""
    rows = json.loads(EQUIVALENT.read_text(encoding="utf-8"))
    return {(row["file"], row["function"], row["change"]): row["why"] for row in rows}


def _report(folder: Path) -> None:
    """Print what was noticed, by room, and write the survivors with the changes that they make."""
    results, faults = _results(folder), _read_sample(folder)
    reasons = _reasons()
    survivors, equal, rows = [], [], []
    for room in ROOMS:
        tried = [fault for fault in faults if fault.room == room and _outcome(fault, results) not in ("", "gone")]
        missed = [fault for fault in tried if _outcome(fault, results) not in NOTICED]
        same = [fault for fault in missed if (fault.file, fault.function, fault.change) in reasons]
        survivors += [fault for fault in missed if fault not in same]
        equal += same
        rows.append((room, len(tried), len(tried) - len(missed), len(same), len(missed) - len(same)))
    rows.append(("all", *map(sum, zip(*(row[1:] for row in rows), strict=True))))
    print(f"{'room':12}{'tried':>8}{'noticed':>9}{'equal':>7}{'missed':>8}")
    for room, *counts in rows:
        print(f"{room:12}{counts[0]:8}{counts[1]:9}{counts[2]:7}{counts[3]:8}")
    if tried := rows[-1][1]:
        print(f"noticed or equal: {(tried - rows[-1][4]) / tried:.1%} of {tried} tried, {len(faults)} in the sample")
    pages = [
        f"## {fault.name}\n\nrow {fault.row}, {results[fault.name]['tests']} tests\n\n```diff\n{fault.change}\n```\n"
        for fault in survivors
    ]
    pages += [f"## equal: {fault.name}\n\n{reasons[fault.file, fault.function, fault.change]}\n" for fault in equal]
    (folder / "survivors.md").write_text("\n".join(pages), encoding="utf-8")
    print(f"survivors: {folder / 'survivors.md'}")


if __name__ == "__main__":
    main()
