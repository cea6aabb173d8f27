"""What a published run consists of, and what may not be in it."""

import json
import re
from pathlib import Path

from safetensors.torch import load

from hf_kcd.cli.main import main

_PICTURES = {"plots/least_valuable.png", "plots/most_valuable.png"}
_STUDENT = {"README.md", "config.json", "model.safetensors", "plots/curves.png", "recipe.yaml", "results.json"}
_MASK = {"README.md", "data/points.parquet", "mask.safetensors", "mask_config.json"}
STUDENT_FILES = _STUDENT | _PICTURES
MASK_FILES = _MASK | _PICTURES | {"plots/ranks.png", "plots/stages.png", "plots/values.png"}
SOFT_LABEL_FILES = {"soft_labels.json", "soft_labels.safetensors"}
TINY = ["--data", "digits", "--train_points", 120, "--seed", 3, "--save_strategy", "no"]


def command(*words: object) -> None:
    """Run a command of `hf-kcd` in this process."""
    main([*map(str, words)])


def file_names(folder: Path) -> set[str]:
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}


def assert_public(files: dict[str, bytes], secrets: list[str]) -> None:
    """No unknown file, each of its kind, and no secret, pickle or folder of this machine in any byte."""
    for name, content in files.items():
        assert name in STUDENT_FILES | MASK_FILES | SOFT_LABEL_FILES
        for secret in secrets:
            assert secret.encode() not in content, (name, secret)
        if name.endswith(".safetensors"):
            assert all(tensor.isfinite().all() for tensor in load(content).values())
        elif name.endswith(".png"):
            assert content.startswith(b"\x89PNG\r\n\x1a\n")
        elif name.endswith(".parquet"):
            assert content.startswith(b"PAR1")
        else:
            assert not re.search(r"[\0-\x08]|(?<![\w.:/-])/(?:home|root|tmp|work|usr|var)/", content.decode()), name
            if name.endswith(".json"):
                json.loads(content)
