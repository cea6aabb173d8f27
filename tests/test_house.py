"""The house of the package: which room may know which, and what importing it costs."""

import ast
import subprocess
import sys
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
    "training": {"losses", "condensation", "models", "data", "methods"},
    "hub": {"condensation", "models", "data", "methods", "training", "analysis"},
    "analysis": {"condensation", "models", "data", "methods", "training"},
    "cli": {"condensation", "models", "data", "methods", "training", "analysis", "hub"},
}


def rooms_imported(path: Path) -> set[str]:
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
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
