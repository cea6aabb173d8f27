"""The house of the package: which room may import which, and what importing it costs."""

import ast
import subprocess
import sys
from collections.abc import Iterator
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

import hf_kcd

ROOT = Path(hf_kcd.__file__).parent

# A room may import itself, the rooms of its row, and the single modules at the top of the package.
GROUND = {"artifacts", "hub", "condensation", "data"}
ARROWS = {
    "losses": set(),
    "hub": set(),
    "artifacts": {"hub"},
    "condensation": {"losses", "artifacts", "hub"},
    "models": {"artifacts", "hub"},
    "data": {"condensation", "artifacts", "hub", "models"},
    "methods": {"losses", "models"},
    "reporting": GROUND | {"methods"},
    "publishing": GROUND | {"reporting"},
    "training": GROUND | {"losses", "models", "methods", "reporting", "publishing"},
    "cli": GROUND | {"losses", "models", "methods", "reporting", "publishing", "training"},
}


def imported_names(tree: ast.AST, package: str) -> Iterator[str]:
    """Yield what a file imports anywhere: at the top, in functions, for type checkers, by import_module."""
    parts = package.split(".")
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = parts[: len(parts) - node.level + 1] if node.level else []
            yield from (".".join(filter(None, [*base, node.module, alias.name])) for alias in node.names)
        elif isinstance(node, ast.Call) and ast.unparse(node.func).split(".")[-1] in ("import_module", "__import__"):
            target = getattr(node.args[0], "value", None) if node.args else None
            if isinstance(target, str):
                yield package + target if target.startswith(".") else target


def import_graph(root: Path = ROOT) -> dict[str, set[str]]:
    """Map every module of a package to the modules of it that it imports."""
    files = {
        ".".join(path.relative_to(root.parent).with_suffix("").parts).removesuffix(".__init__"): path
        for path in root.rglob("*.py")
    }

    def module_of(name: str) -> str:
        while name and name not in files:
            name = name.rpartition(".")[0]
        return name

    graph = {}
    for module, path in files.items():
        package = module if path.name == "__init__.py" else module.rpartition(".")[0]
        names = imported_names(ast.parse(path.read_text(encoding="utf-8")), package)
        graph[module] = {module_of(name) for name in names} - {"", module}
    return graph


def room_of(module: str) -> str:
    return module.split(".")[1] if "." in module else ""


def room_graph(graph: dict[str, set[str]]) -> dict[str, set[str]]:
    """Map every room, and every single module at the top, to the others that it imports."""
    rooms: dict[str, set[str]] = {}
    for module, others in graph.items():
        if room_of(module):
            rooms.setdefault(room_of(module), set()).update({room_of(other) for other in others} - {room_of(module)})
    return {room: others - {""} for room, others in rooms.items()}


def circle(graph: dict[str, set[str]]) -> list[str]:
    """Return a circle of the graph; empty where there is none."""
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        return error.args[1]
    return []


def wrong_arrows(graph: dict[str, set[str]]) -> list[str]:
    """List the imports that the table does not allow."""
    return sorted(
        f"{module} -> {other}"
        for module, others in graph.items()
        for other in others
        if room_of(module)
        and room_of(other) in ARROWS
        and room_of(other) not in {room_of(module)} | ARROWS.get(room_of(module), set())
    )


def test_imports_run_one_way_and_in_no_circle():
    graph = import_graph()
    assert not wrong_arrows(graph)
    assert not circle(graph)
    assert not circle(room_graph(graph))
    assert {path.name for path in ROOT.iterdir() if (path / "__init__.py").exists()} == set(ARROWS)


@pytest.mark.parametrize(
    "line",
    [
        "from ..b import name",
        "from .. import b",
        "import house.b",
        "def function():\n    from house import b",
        "if TYPE_CHECKING:\n    from ..b import name",
        "import_module('house.b')",
        "importlib.import_module('house.b')",
    ],
)
def test_every_kind_of_import_is_seen(tmp_path, line):
    for room, text in (("a", line), ("b", "from ..a import name")):
        (tmp_path / "house" / room).mkdir(parents=True)
        (tmp_path / "house" / room / "__init__.py").write_text(text)
    (tmp_path / "house" / "__init__.py").write_text("")
    graph = import_graph(tmp_path / "house")
    assert graph["house.a"] == {"house.b"}
    assert set(circle(graph)) == {"house.a", "house.b"} and set(circle(room_graph(graph))) == {"a", "b"}


def test_importing_the_package_is_light_and_every_public_name_is_there():
    program = (
        "import socket, sys\n"
        "def refuse(*args): raise SystemExit(f'a connection was tried: {args[1:]}')\n"
        "socket.socket.connect = refuse\n"
        "import hf_kcd, timm\n"
        "assert not {'transformers', 'matplotlib'} & set(sys.modules), 'a heavy library was imported'\n"
        "import hf_kcd.reporting\n"
        "assert not {'matplotlib.pyplot', 'hf_kcd.training'} & set(sys.modules), 'drawing sets up too much'\n"
        "assert 'cifar_resnet8' in timm.list_models('cifar_*')\n"
        "assert all(getattr(hf_kcd, name) is not None for name in hf_kcd.__all__)\n"
        "assert set(hf_kcd.__all__) <= set(dir(hf_kcd))\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_no_file_of_the_package_unpickles():
    calls = [
        (file.name, ast.unparse(node))
        for file in ROOT.rglob("*.py")
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8")))
        if isinstance(node, ast.Call) and ast.unparse(node.func) in ("torch.load", "pickle.load", "pickle.loads")
    ]
    assert [file for file, _ in calls] == ["checkpoints.py"]
    assert all(call.startswith("torch.load(") and "weights_only=True" in call for _, call in calls)
