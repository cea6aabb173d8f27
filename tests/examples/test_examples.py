"""The examples run as a newcomer starts them."""

import ast
import json
import os
import subprocess
import sys
from pathlib import Path

import datasets
import numpy as np
import pytest
import timm
import torch
from PIL import Image
from tiny_runs import config

from hf_kcd import DistillationTrainer, KnowledgeMask, load_model
from hf_kcd.data import KnowledgeDataset, load_image_data

EXAMPLES = Path(__file__).parents[2] / "examples"
# As evaluate's script of that name, which it would fetch from the Hub.
ACCURACY = """
import datasets
import evaluate
from sklearn.metrics import accuracy_score


class Accuracy(evaluate.Metric):
    def _info(self):
        features = datasets.Features({name: datasets.Value("int32") for name in ("predictions", "references")})
        return evaluate.MetricInfo(description="", citation="", inputs_description="", features=features)

    def _compute(self, predictions, references):
        return {"accuracy": float(accuracy_score(references, predictions))}
"""


def test_plain_loop_condenses_without_transformers(tmp_path):
    program = (
        "import runpy, sys; sys.argv = sys.argv[1:]; runpy.run_path(sys.argv[0], run_name='__main__'); "
        "assert 'transformers' not in sys.modules"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, str(EXAMPLES / "plain_loop.py"), str(tmp_path / "mask")],
        capture_output=True,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    assert done.returncode == 0, done.stderr
    mask = KnowledgeMask.from_pretrained(tmp_path / "mask")
    # 70 % of the 1,501 points, rounded down.
    assert len(mask.kept) == 1050
    assert len(mask.select(load_image_data("digits").train)) == 1050
    # A network that has learned nothing has 10 %.
    assert float(done.stdout.partition("top-1 of the student: ")[2].partition("%")[0]) > 50


def photograph(kind: str, number: int) -> Image.Image:
    """Leaves with green spots or with rusty stripes, in other colors and places each time."""
    generator = np.random.default_rng(1000 * (kind == "rust") + number)
    y, x = np.mgrid[:64, :64] / 64 + generator.random(2)[:, None, None]
    pattern = np.sin(20 * x) * np.sin(20 * y) if kind == "spots" else np.sin(25 * y)
    pixels = 128 + 70 * pattern[..., None] * (0.5 + generator.random(3)) + generator.normal(0, 10, (64, 64, 3))
    pixels += (-40, 40, 0) if kind == "spots" else (40, -40, 0)
    return Image.fromarray(pixels.clip(0, 255).astype(np.uint8))


@pytest.fixture
def photographs(tmp_path) -> Path:
    """Folders of JPEG photographs, by split and class."""
    for split, start, number in (("train", 0, 24), ("validation", 100, 12), ("test", 200, 12)):
        for kind in ("rust", "spots"):
            folder = tmp_path / "leaves" / split / kind
            folder.mkdir(parents=True)
            for i in range(number):
                photograph(kind, start + i).save(folder / f"{i}.jpg")
    return tmp_path / "leaves"


def test_the_trainer_tutorial_trains_evaluates_and_pushes(tmp_path, photographs, session_hub):
    data = datasets.load_dataset(str(photographs), cache_dir=str(tmp_path / "cache"))
    torch.manual_seed(0)
    shape = {"img_size": 64, "patch_size": 8, "embed_dim": 48, "depth": 2, "num_heads": 3, "num_classes": 2}
    vit = timm.create_model("vit_tiny_patch16_224", **shape)
    own = {"optimizer_cls_and_kwargs": (torch.optim.AdamW, {"lr": 2e-3}), "train_dataset": data["train"]}
    args = config(tmp_path / "teacher", method="ce", num_train_epochs=8, logging_strategy="no")
    teacher = DistillationTrainer(vit, None, args, **own)
    teacher.train()
    teacher.save_model()
    (tmp_path / "accuracy").mkdir()
    (tmp_path / "accuracy" / "accuracy.py").write_text(ACCURACY)

    session_hub.clear()
    words = [photographs, tmp_path / "teacher", "mobilenetv3_small_050", "me/student", tmp_path / "accuracy"]
    homes = {"HF_HOME": str(tmp_path / "home"), "HF_TOKEN": session_hub.token("me"), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, str(EXAMPLES / "trainer_tutorial.py"), *map(str, words)],
        capture_output=True,
        text=True,
        env={**os.environ, **homes},
        cwd=tmp_path,
    )
    assert done.returncode == 0, done.stderr

    pushed = session_hub.repositories["model", "me/student"].at("main").files
    (tmp_path / "pushed").mkdir()
    for name in ("config.json", "model.safetensors"):
        (tmp_path / "pushed" / name).write_bytes(pushed[name])
    student = load_model(tmp_path / "pushed").eval()
    own_set = KnowledgeDataset(data["validation"], teacher.train_dataset.preprocessing, training=False)
    batch = own_set.__getitems__(range(len(own_set)))
    with torch.no_grad():
        correct = (student(batch["pixel_values"]).argmax(1) == batch["labels"]).float().mean().item()
    results = json.loads(pushed["results.json"])
    assert results["accuracy"]["saved"]["top1"] == pytest.approx(100 * correct)
    assert correct > 0.7
    printed = next(line for line in done.stdout.splitlines() if "test_accuracy" in line and "test_top1" in line)
    measured = ast.literal_eval(printed)
    assert measured["test_top1"] == pytest.approx(100 * measured["test_accuracy"])
    session_hub.clear()


def test_the_trainer_tutorial_is_short():
    tree = ast.parse((EXAMPLES / "trainer_tutorial.py").read_text())
    own = [node for node in tree.body[1:] if not isinstance(node, ast.Import | ast.ImportFrom)]
    assert sum(node.end_lineno - node.lineno + 1 for node in own) <= 15
