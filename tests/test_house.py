"""The house of the package: which room may know which, and what importing it costs."""

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import hf_kcd

ROOT = Path(hf_kcd.__file__).parent

# Arrows run one way: a room may import those in its row, and the single modules at the top of the package.
ARROWS = {
    "losses": set(),
    "condensation": set(),
    "models": set(),
    "data": set(),
    "methods": {"losses", "models"},
    "analysis": {"condensation", "models", "data", "methods"},
    "hub": {"condensation", "models", "data", "methods", "analysis"},
    "training": {"losses", "condensation", "models", "data", "methods", "analysis", "hub"},
    "cli": {"condensation", "models", "data", "methods", "training", "analysis", "hub"},
}


def executed(tree: ast.AST) -> Iterator[ast.AST]:
    """Walk over what runs, which leaves out what only a type checker reads."""
    if isinstance(tree, ast.If) and ast.unparse(tree.test) == "TYPE_CHECKING":
        return
    yield tree
    for child in ast.iter_child_nodes(tree):
        yield from executed(child)


def rooms_imported(path: Path) -> set[str]:
    found = set()
    for node in executed(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom):
            parts = path.relative_to(ROOT.parent).parts[: -node.level] if node.level else ()
            names = [*parts, *(node.module or "").split(".")]
            candidates = [names] + [[*names, alias.name] for alias in node.names]
        elif isinstance(node, ast.Import):
            candidates = [alias.name.split(".") for alias in node.names]
        else:
            continue
        found |= {name[1] for name in candidates if len(name) > 1 and name[0] == "hf_kcd" and name[1] in ARROWS}
    return found


def test_arrows_between_the_rooms_run_one_way():
    for room in (path for path in ROOT.iterdir() if path.is_dir() and path.name != "__pycache__"):
        for file in room.rglob("*.py"):
            unexpected = rooms_imported(file) - ARROWS[room.name] - {room.name}
            assert not unexpected, f"{file.relative_to(ROOT)} imports {unexpected}"


def test_no_module_imports_itself_by_way_of_others():
    files = {
        ".".join(path.relative_to(ROOT.parent).with_suffix("").parts).removesuffix(".__init__"): path
        for path in ROOT.rglob("*.py")
    }
    imports: dict[str, set[str]] = {}
    for module, path in files.items():
        package = module.split(".") if path.name == "__init__.py" else module.split(".")[:-1]
        found: set[str] = set()
        for node in executed(ast.parse(path.read_text())):
            if isinstance(node, ast.ImportFrom):
                base = [*package[: len(package) - node.level + 1], *filter(None, (node.module or "").split("."))]
                names = [
                    ".".join([*(base if node.level else base[len(package) :]), alias.name]) for alias in node.names
                ]
                found |= {name if name in files else name.rpartition(".")[0] for name in names}
        # A package that lists its own modules is no circle with a module that asks another one of them by its full name.
        imports[module] = {name for name in found & set(files) if not module.startswith(f"{name}.") and name != module}
    done: set[str] = set()

    def follow(module: str, way: tuple[str, ...]) -> None:
        assert module not in way, " -> ".join([*way[way.index(module) :], module])
        if module not in done:
            for other in sorted(imports[module]):
                follow(other, (*way, module))
            done.add(module)

    for module in files:
        follow(module, ())


def test_ground_floor_modules_know_no_room():
    for file in ROOT.glob("*.py"):
        if file.name != "__init__.py":
            assert not rooms_imported(file), file


def test_importing_the_package_touches_neither_network_nor_transformers_and_registers_the_networks():
    program = (
        "import socket, sys\n"
        "def refuse(*args): raise SystemExit(f'a connection was tried: {args[1:]}')\n"
        "socket.socket.connect = refuse\n"
        "import hf_kcd, timm\n"
        "assert 'transformers' not in sys.modules, 'transformers was imported'\n"
        "assert 'cifar_resnet8' in timm.list_models('cifar_*')\n"
        "assert hf_kcd.DistillationTrainer.__mro__[1].__module__ == 'transformers.trainer'\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_every_fixed_name_is_there():
    for name in hf_kcd.__all__:
        assert getattr(hf_kcd, name) is not None
    assert set(hf_kcd.__all__) <= set(dir(hf_kcd))


def test_no_file_of_the_package_unpickles():
    calls = [
        (file.name, node)
        for file in ROOT.rglob("*.py")
        for node in ast.walk(ast.parse(file.read_text()))
        if isinstance(node, ast.Call)
    ]
    loads = [
        (file, node) for file, node in calls if ast.unparse(node.func) in ("torch.load", "pickle.load", "pickle.loads")
    ]
    assert [file for file, _ in loads] == ["checkpoints.py"]
    for _, node in loads:
        assert ast.unparse(node.func) == "torch.load"
        assert "weights_only=True" in [ast.unparse(keyword) for keyword in node.keywords]
