"""Which tests run which lines of the package, and how long each takes: a plugin of pytest, and what it found."""

import inspect
import json
import os
import re
import time
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import coverage
import pytest

SETTINGS = """\
[run]
source = {package}
data_file = {folder}/coverage
parallel = true
sigterm = true
context = ${{MUTANTS_CONTEXT-}}
"""


class NoteLines:
    """Note the lines that every test and every shared fixture runs, in this process and in those that they start."""

    def __init__(self, package: Path, folder: Path) -> None:
        settings = folder / "settings.ini"
        settings.write_text(SETTINGS.format(package=package, folder=folder), encoding="utf-8")
        self.package, self.coverage = package, coverage.Coverage(config_file=str(settings))
        os.environ["COVERAGE_PROCESS_START"] = str(settings)  # coverage starts in subprocesses through its .pth file
        self.seconds, self.passed, self.names = defaultdict(float), {}, {}
        self.open, self.factories = [""], set()
        self.coverage.start()

    @contextmanager
    def context(self, name: str) -> Iterator[None]:
        """Note lines and seconds under a name, and not under the one around it."""
        start = time.perf_counter()
        self.open.append(name)
        self.enter(name)
        yield
        taken = time.perf_counter() - start
        self.open.pop()
        self.enter(self.open[-1])
        self.seconds[name] += taken
        self.seconds[self.open[-1]] -= taken

    def enter(self, name: str) -> None:
        self.coverage.switch_context(name)
        os.environ["MUTANTS_CONTEXT"] = name

    @pytest.hookimpl(wrapper=True, tryfirst=True)
    def pytest_runtest_protocol(self, item: pytest.Item):
        self.names[item.nodeid] = list(item.fixturenames)
        with self.context(item.nodeid):
            return (yield)

    @pytest.hookimpl(wrapper=True, tryfirst=True)
    def pytest_fixture_setup(self, fixturedef, request):
        if fixturedef.scope == "function":
            return (yield)
        name = f"fixture {fixturedef.argname} of {fixturedef.baseid}"
        with self.context(name):
            value = yield
        if inspect.isfunction(value):
            self.factories.add(name)
        return value

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if report.when == "call" or not report.passed:
            self.passed[report.nodeid] = report.passed and self.passed.get(report.nodeid, True)

    def found(self) -> dict:
        """Return the tests with their seconds, the shared fixtures, and the tests and fixtures of each line."""
        self.coverage.stop()
        self.coverage.save()
        self.coverage.combine()
        data, root = self.coverage.get_data(), self.package.parent
        lines = {}
        for name in data.measured_files():
            contexts = {str(line): names for line, names in data.contexts_by_lineno(name).items()}
            lines[str(Path(name).relative_to(root))] = contexts
        # Those whose outcome serves more than one test: made at a cost, or made where a test asks for it.
        kept = {name for name, seconds in self.seconds.items() if name in self.factories or seconds > 0.05}
        fixtures = {name: round(self.seconds[name], 3) for name in sorted(kept) if name.startswith("fixture ")}
        tests = {}
        for test, passed in self.passed.items():
            shared = [name for name in fixtures if _reaches(name, test, self.names[test])]
            tests[test] = {"passed": passed, "seconds": round(self.seconds[test], 3), "fixtures": shared}
        return {"tests": tests, "fixtures": fixtures, "lines": lines}


def write(found: dict, file: Path) -> None:
    """Write what was found; its names are numbered, since a line may have a thousand."""
    names = sorted({name for lines in found["lines"].values() for contexts in lines.values() for name in contexts})
    number = {name: index for index, name in enumerate(names)}
    lines = {
        path: {line: [number[name] for name in contexts] for line, contexts in of_file.items()}
        for path, of_file in found["lines"].items()
    }
    file.write_text(json.dumps({**found, "names": names, "lines": lines}), encoding="utf-8")


def read(file: Path) -> dict:
    """Read what `write` has written."""
    found = json.loads(file.read_text(encoding="utf-8"))
    names = found.pop("names")
    for of_file in found["lines"].values():
        for line, contexts in of_file.items():
            of_file[line] = [names[index] for index in contexts]
    return found


def merge(known: dict, found: dict, files: set[str]) -> dict:
    """What is known, with what was found anew in some files of tests in place of what they had."""

    def stays(context: str) -> bool:
        return context.partition("::")[0] not in files

    tests = {test: own for test, own in known["tests"].items() if stays(test)} | found["tests"]
    lines = {}
    for file in known["lines"].keys() | found["lines"].keys():
        old, new = known["lines"].get(file, {}), found["lines"].get(file, {})
        lines[file] = {
            line: sorted({*filter(stays, old.get(line, [])), *new.get(line, [])}) for line in old.keys() | new.keys()
        }
    return {"tests": tests, "fixtures": known["fixtures"] | found["fixtures"], "lines": lines}


def _reaches(fixture: str, test: str, names: list[str]) -> bool:
    """Whether a test asks for a shared fixture that is defined for its folder or file."""
    name, _, base = fixture.removeprefix("fixture ").partition(" of ")
    return name in names and test.startswith(base)


class TestsByLine:
    """The tests that run a line, those first that run it themselves, the fastest of them first."""

    __test__ = False  # no test, for pytest

    def __init__(self, file: Path) -> None:
        found = read(file)
        self.tests = {name: test for name, test in found["tests"].items() if test["passed"]}
        self.fixtures, self.lines = found["fixtures"], found["lines"]

    def seconds(self, test: str) -> float:
        """The seconds of a test on its own, with its shared fixtures."""
        own = self.tests[test]
        return own["seconds"] + sum(self.fixtures[name] for name in own["fixtures"])

    def of(self, file: str, lines: range, at_import: bool, tree: Path) -> list[str]:
        """The tests that run some of a file's lines.

        A line that runs at import belongs to the tests that run a line with the name that it defines, to those of its file,
        and to those of its room.
        """
        contexts = self.lines.get(file, {})
        chosen = {name for line in lines for name in contexts.get(str(line), ())}
        groups = [chosen]
        if at_import:
            rows = (tree / file).read_text(encoding="utf-8").splitlines()
            defined = re.match(r"\s*(?:def |class )?(\w+)", rows[lines[0] - 1])
            groups = [
                self._with_word(defined[1], tree) if defined else set(),
                {n for line in contexts.values() for n in line},
            ]
        fixtures = [names & self.fixtures.keys() for names in groups]
        groups = [
            names | {test for test, own in self.tests.items() if shared & set(own["fixtures"])}
            for names, shared in zip(groups, fixtures, strict=True)
        ]
        # A shared fixture may run a line for the first of its tests alone, and keep the outcome for the others.
        shared = {name for test in groups[0] & self.tests.keys() for name in self.tests[test]["fixtures"]}
        groups.append({test for test, own in self.tests.items() if shared & set(own["fixtures"])})
        if at_import:
            groups.append({test for test in self.tests if test.startswith(f"tests/{Path(file).parts[1]}/")})
        ordered: dict[str, None] = {}
        for names in groups:
            ordered |= dict.fromkeys(sorted(names & self.tests.keys(), key=self.seconds))
        return list(ordered)

    def _with_word(self, word: str, tree: Path) -> set[str]:
        """The tests and fixtures that run a line of the package with a word."""
        found = set()
        for file, contexts in self.lines.items():
            rows = (tree / file).read_text(encoding="utf-8").splitlines()
            for number, row in enumerate(rows, start=1):
                if re.search(rf"\b{word}\b", row):
                    found.update(contexts.get(str(number), ()))
        return found
