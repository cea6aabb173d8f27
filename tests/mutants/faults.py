"""Small faults in the package, made by mutmut's operators: found in the source, named, sampled, and put in."""

import random
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import libcst as cst
from libcst.metadata import MetadataWrapper, PositionProvider, WhitespaceInclusivePositionProvider
from mutmut.mutation.file_mutation import NEVER_MUTATE_FUNCTION_CALLS
from mutmut.mutation.mutators import mutation_operators

# Rooms of the package, with their folders and files.
ROOMS = {
    "training": ["hf_kcd/training"],
    "data": ["hf_kcd/data"],
    "methods": ["hf_kcd/methods"],
    "publishing": ["hf_kcd/training/publishing.py", "hf_kcd/publishing", "hf_kcd/hub"],
    "cli": ["hf_kcd/cli"],
}
# Calls and arguments whose strings only people read.
TELLING = {"print", "warn", "warning", "warning_once", "info", "debug", "error", "exception", "option"}
TEXTS = {"help", "description", "epilog", "metavar"}


@dataclass(frozen=True)
class Fault:
    """One change: of `row` and those after it, in the statement of `lines`; `name` finds it again where they moved."""

    room: str
    file: str
    function: str
    operator: str
    occurrence: int
    change: str
    row: int
    lines: tuple[int, int]
    at_import: bool = False

    @property
    def name(self) -> str:
        return f"{self.file}::{self.function}::{self.operator}::{self.occurrence}"


def faults_of(root: Path) -> dict[str, list[Fault]]:
    """All faults by room, in the order of the source."""
    found, seen = {}, set()
    for room in sorted(ROOMS, key=lambda room: room == "training"):  # publishing has one of training's files
        files = [path for place in ROOMS[room] for path in _files(root / place) if path not in seen]
        seen.update(files)
        found[room] = [fault for path in files for fault in _of_file(path, room, root)]
    return {room: found[room] for room in ROOMS}


def sample(root: Path, number: int, seed: int) -> list[Fault]:
    """Draw faults without replacement; each room has its share of the lines of code."""
    found, generator = faults_of(root), random.Random(seed)
    size = {room: sum(_lines(root / file) for file in {fault.file for fault in found[room]}) for room in found}
    ends, total = {}, 0
    for room in found:
        total += size[room]
        ends[room] = round(number * total / sum(size.values()))
    counts, start = {}, 0
    for room, end in ends.items():
        counts[room], start = end - start, end
    drawn = []
    for room, count in counts.items():
        generator.shuffle(found[room])
        drawn += islice((fault for fault in found[room] if _compiles(faulty(fault, root))), count)
    generator.shuffle(drawn)  # so that the first of them are a sample, too
    return drawn


def again(faults: list[Fault], root: Path) -> dict[str, Fault]:
    """Map the names of a sample to the same faults in the present source: by their change, else by their number.

    Those that are gone are left out.
    """
    present = [fault for room in faults_of(root).values() for fault in room]
    by_name = {fault.name: fault for fault in present}
    by_change = {(fault.file, fault.function, fault.operator, fault.change): fault for fault in present}
    kept = {}
    for old in faults:
        new = by_name.get(old.name)
        if new is None or new.change != old.change:
            new = by_change.get((old.file, old.function, old.operator, old.change), new)
        if new is not None and _compiles(faulty(new, root)):
            kept[old.name] = new
    return kept


def faulty(fault: Fault, root: Path) -> str:
    """The text of the fault's file with the fault."""
    rows = (root / fault.file).read_text(encoding="utf-8").splitlines()
    changed = fault.change.splitlines()
    old, new = ([row[1:] for row in changed if row[0] == sign] for sign in "-+")
    assert rows[fault.row - 1 : fault.row - 1 + len(old)] == old, (
        f"{fault.file} has changed since the sample was drawn"
    )
    return "\n".join([*rows[: fault.row - 1], *new, *rows[fault.row - 1 + len(old) :], ""])


def _compiles(code: str) -> bool:
    try:
        compile(code, "a file with a fault", "exec")
    except SyntaxError:
        return False
    return True


def _files(place: Path) -> list[Path]:
    return [place] if place.is_file() else sorted(place.rglob("*.py"))


def _lines(file: Path) -> int:
    return len(file.read_text(encoding="utf-8").splitlines())


def _of_file(path: Path, room: str, root: Path) -> Iterator[Fault]:
    source = path.read_text(encoding="utf-8")
    wrapper = MetadataWrapper(cst.parse_module(source), unsafe_skip_copy=True)
    visitor = _Visitor()
    wrapper.visit(visitor)
    positions = wrapper.resolve(WhitespaceInclusivePositionProvider)
    rows = source.splitlines()
    counts: Counter[tuple[str, str]] = Counter()
    for function, operator, original, changed, *place in visitor.found:
        start, end = positions[original].start, positions[original].end
        old = rows[start.line - 1 : end.line]
        new = old[0][: start.column] + wrapper.module.code_for_node(changed) + old[-1][end.column :]
        change = "\n".join([*(f"-{row}" for row in old), *(f"+{row}" for row in new.splitlines())])
        counts[function, operator] += 1
        number, file = counts[function, operator], str(path.relative_to(root))
        yield Fault(room, file, function, operator, number, change, start.line, *place)


class _Visitor(cst.CSTVisitor):
    """What mutmut's operators change, without annotations, texts for people, and what only an import shows.

    mutmut's own visitor leaves out decorated functions, since it makes its copies inside the file; here each fault
    has a file of its own.
    """

    METADATA_DEPENDENCIES = (PositionProvider,)

    def __init__(self) -> None:
        super().__init__()
        self.found: list[tuple[str, str, cst.CSTNode, cst.CSTNode, tuple[int, int], bool]] = []
        self.bodies = 0
        self.names: list[str] = []
        self.statements: list[cst.CSTNode] = []
        self.telling: list[cst.CSTNode] = []

    def on_visit(self, node: cst.CSTNode) -> bool:
        if _is_left_out(node):
            return False
        if isinstance(node, cst.FunctionDef | cst.ClassDef):
            self.names.append(node.name.value)
        if isinstance(node, cst.SimpleStatementLine):
            self.statements.append(node)
        if isinstance(node, cst.FunctionDef):
            self.bodies += 1
        if isinstance(node, cst.Parameters):
            self.bodies -= 1  # defaults are evaluated outside
        if _tells(node):
            self.telling.append(node)
        for kind, operator in mutation_operators:
            if isinstance(node, kind):
                for changed in operator(node):
                    if not self._is_text(node, changed):
                        self._add(operator.__name__.removeprefix("operator_"), node, changed)
        return True

    def on_leave(self, original_node: cst.CSTNode) -> None:
        if _is_left_out(original_node):
            return
        if isinstance(original_node, cst.FunctionDef | cst.ClassDef):
            self.names.pop()
        if isinstance(original_node, cst.FunctionDef):
            self.bodies -= 1
        if isinstance(original_node, cst.Parameters):
            self.bodies += 1
        for stack in (self.statements, self.telling):
            if stack and stack[-1] is original_node:
                stack.pop()

    def _add(self, operator: str, node: cst.CSTNode, changed: cst.CSTNode) -> None:
        position = self.get_metadata(PositionProvider, self.statements[-1] if self.statements else node)
        lines = (position.start.line, position.end.line)
        function = ".".join(self.names) or "module"
        self.found.append((function, operator, node, changed, lines, not self.bodies))

    def _is_text(self, node: cst.CSTNode, changed: cst.CSTNode) -> bool:
        if isinstance(node, cst.BaseString):
            return bool(self.telling) or _is_prose(node)
        if isinstance(node, cst.Call) and isinstance(changed, cst.Call):
            same = [old is new for old, new in zip(node.args, changed.args, strict=False)]
            if len(node.args) == len(changed.args) and all(same):
                return False
            if self.telling and self.telling[-1] is node:
                return True
            argument = node.args[same.index(False) if False in same else len(node.args) - 1]
            named = argument.keyword is not None and argument.keyword.value in TEXTS
            return named or _is_prose(argument.value)
        return False


def _is_left_out(node: cst.CSTNode) -> bool:
    if isinstance(node, cst.Annotation | cst.Decorator | cst.Import | cst.ImportFrom):
        return True
    if isinstance(node, cst.Call) and isinstance(node.func, cst.Name):
        return node.func.value in NEVER_MUTATE_FUNCTION_CALLS
    if isinstance(node, cst.Param):  # as mutmut does: another default would fail at import
        return node.default is not None and not isinstance(node.default, cst.Name | cst.BaseNumber | cst.BaseString)
    if isinstance(node, cst.If):
        return isinstance(node.test, cst.Name) and node.test.value == "TYPE_CHECKING"
    if isinstance(node, cst.SimpleStatementLine):
        first = node.body[0]
        if isinstance(first, cst.Expr):
            return isinstance(first.value, cst.BaseString)
        if isinstance(first, cst.Assign):
            target = first.targets[0].target
            return isinstance(target, cst.Name) and target.value == "__all__"
    return False


def _tells(node: cst.CSTNode) -> bool:
    """Whether strings below a node are read by people alone."""
    if isinstance(node, cst.Raise):
        return True
    if isinstance(node, cst.Arg):
        return node.keyword is not None and node.keyword.value in TEXTS
    if isinstance(node, cst.Call):
        called = node.func.attr if isinstance(node.func, cst.Attribute) else node.func
        return isinstance(called, cst.Name) and (called.value in TELLING or called.value.endswith("Error"))
    return False


def _is_prose(node: cst.BaseExpression) -> bool:
    """Whether an expression is a text of three words or more."""
    return isinstance(node, cst.BaseString) and len(cst.Module([]).code_for_node(node).split()) > 2
