"""A student on the Hub: what its repository says, and what a trainer pushes while it trains and afterwards."""

import json
import logging
import math
import shutil
import socket
import sys
import threading
from pathlib import Path

import datasets
import huggingface_hub
import numpy as np
import pytest
import timm
import torch
import yaml
from hub.published import STUDENT_FILES, TINY, assert_public, command
from huggingface_hub import ModelCard
from safetensors.torch import load, load_file
from transformers import TrainerCallback

from hf_kcd import DistillationConfig, DistillationTrainer, KCDConfig, KCDTrainerCallback, load_model
from hf_kcd.artifacts.run_folder import read_run
from hf_kcd.cli.recipe import read_recipe
from hf_kcd.hub import without_folders
from hf_kcd.methods import DistillationMethod, register_method
from hf_kcd.models import save_model
from hf_kcd.publishing import push_student

LIVE_FILES = {"README.md", "config.json", "model.safetensors", "results.json", "plots/curves.png"}


def image_set(num_points: int, seed: int) -> datasets.Dataset:
    generator = np.random.default_rng(seed)
    labels = generator.integers(3, size=num_points)
    pixels = generator.integers(0, 150, size=(num_points, 16, 16, 3)) + 40 * labels[:, None, None, None]
    classes = datasets.ClassLabel(names=["ant", "bee", "cat"])
    features = datasets.Features({"image": datasets.Image(), "label": classes})
    return datasets.Dataset.from_dict({"image": list(pixels.astype(np.uint8)), "label": labels}, features)


TRAIN, TEST = image_set(60, 0), image_set(20, 1)


def make_trainer(folder: Path, **options) -> DistillationTrainer:
    torch.manual_seed(1)
    callbacks = options.pop("callbacks", [KCDTrainerCallback(KCDConfig(epochs_per_stage=1))])
    parts = {"train_dataset": options.pop("train_dataset", TRAIN), "eval_dataset": TEST, "callbacks": callbacks}
    teacher = options.pop("teacher", "cifar_resnet8")
    defaults = {"per_device_train_batch_size": 16, "learning_rate": 0.1, "num_train_epochs": 2, "use_cpu": True}
    defaults |= {"report_to": "none", "disable_tqdm": True, "eval_strategy": "epoch", "logging_steps": 1, "seed": 3}
    args = DistillationConfig(str(folder), **defaults | options)
    return DistillationTrainer("cifar_resnet8", teacher, args, **parts)


def test_a_pushed_student_is_one_commit_whose_card_states_the_results(hub, run_folder, tmp_path):
    links = {"mask_repo": "me/x-mask", "teacher_repo": "me/bigger", "license": "mit", "tags": "insects"}
    # A name without a user is a repository of the logged-in user.
    commit = push_student(run_folder, "x", private=True, **links)
    assert hub.repository("me/x").private and set(hub.files("me/x")) == STUDENT_FILES
    assert [one.title for one in hub.commits("me/x")] == ["Upload student", "initial commit"]
    assert commit.oid == hub.commits("me/x")[0].sha
    (tmp_path / "recipe.yaml").write_bytes(hub.files("me/x")["recipe.yaml"])
    recipe = read_recipe("distill", ["--config", str(tmp_path / "recipe.yaml"), "--output_dir", "again"])
    assert recipe.config.teacher == "hf_hub:me/bigger" and recipe.kcd.epochs_per_stage == 1

    card = ModelCard(hub.files("me/x")["README.md"].decode())
    data, text = card.data, card.text
    assert (data.library_name, data.pipeline_tag, data.license) == ("timm", "image-classification", "mit")
    tags = {"image-classification", "knowledge-distillation", "hf_kcd", "timm", "kd", "kcd", "insects"}
    assert set(data.tags) == tags and data.model_name == "x"
    assert (data["teacher"], data["knowledge_mask"]) == ("me/bigger", "me/x-mask")
    # The digits are not on the Hub, and the run did not train on the mask that it made.
    assert data.datasets is None and data.base_model is None
    results = json.loads((run_folder / "results.json").read_text())
    last = results["accuracy"]["last"]
    values = {result.metric_type: result.metric_value for result in data.eval_results}
    assert {result.dataset_name for result in data.eval_results} == {"digits"}
    # 120 points, then 120 x 0.5^(1/3) = 95.2 and 120 x 0.5^(2/3) = 75.6 of them.
    paid, saved = (120 + 95 + 75) / 360, (25 + 45) * results["seconds"]["training"] / 290
    expected = {"accuracy": last["top1"] / 100, "top_5_accuracy": last["top5"] / 100, "relative_cost": paid}
    assert values == pytest.approx({**expected, "seconds_saved": saved}, abs=1e-4)
    for said in (
        f"{last['top1']:.2f} %",
        f"{paid:.2%}",
        "https://huggingface.co/datasets/me/x-mask",
        "https://huggingface.co/me/bigger",
        "(plots/curves.png)",
        "(plots/most_valuable.png)",
        'timm.create_model("hf_hub:me/x"',
        'model="me/x"',
        'load_model("hf_hub:me/x")',
        "hf-kcd distill --data digits --train_points 120",
        "epochs_per_stage: 1",
        "Hinton et al., 2015",
        "li2022kcd",
    ):
        assert said in text, said
    assert "not stated" not in text and "import hf_kcd" not in text


@pytest.mark.parametrize(
    ("name", "content", "error", "said"),
    [
        ("results.json", None, FileNotFoundError, "not finished"),
        ("model.safetensors", None, FileNotFoundError, "no model.safetensors"),
        ("model.safetensors", b"\x80\x02}q\0.", ValueError, "safetensors"),
        ("config.json", b'{"architecture": "resnet18"}', ValueError, "weights of resnet18"),
        *(
            ("recipe.yaml", content, ValueError, "no options of a run")
            for content in (b"- a\n- list", b"3: x", b"teacher: [a, b]", b"mask: 5", b"data: {a: b}", b"student: 1.5")
        ),
    ],
)
def test_a_run_that_is_not_whole_is_never_sent(hub, run_folder, tmp_path, name, content, error, said):
    broken = tmp_path / "broken"
    shutil.copytree(run_folder, broken, ignore=shutil.ignore_patterns("stages", "mask"))
    if content is None:
        (broken / name).unlink()
    else:
        (broken / name).write_bytes(content)
    with pytest.raises(error, match=said) as caught:
        push_student(broken, "me/x")
    assert "\n" not in str(caught.value) and not hub.repositories


def test_card_of_a_run_without_weights_promises_none(run_folder, tmp_path, capsys):
    for name in ("results.json", "recipe.yaml"):
        shutil.copy(run_folder / name, tmp_path / name)
    capsys.readouterr()
    command("card", tmp_path)
    assert capsys.readouterr().out == f"{tmp_path / 'README.md'}\n"
    card = ModelCard.load(tmp_path / "README.md")
    assert card.data.model_name == "test_resnet"
    assert "not published here" in card.text and "hf_hub:" not in card.text and "![" not in card.text
    command("card", tmp_path, "--output", tmp_path / "x.md", "--repo", "me/x", "--license", "mit")
    assert 'load_model("hf_hub:me/x")' in (tmp_path / "x.md").read_text()


def test_every_save_pushes_the_student_and_the_end_pushes_all_with_the_best_weights(hub, tmp_path):
    run = tmp_path / "live"
    # Fewer is better here: the run keeps the weights with the lowest accuracy.
    best = {"load_best_model_at_end": True, "metric_for_best_model": "top1", "greater_is_better": False}
    pushing = {"push_to_hub": True, "hub_model_id": "me/live", "hub_private_repo": True, "hub_always_push": True}
    trainer = make_trainer(run, save_strategy="epoch", **pushing, **best)
    assert hub.repository("me/live").private and hub.files("me/live") == {}
    trainer.train()
    trainer.push_to_hub(mask_repo="me/live-mask")
    commits = hub.commits("me/live")[::-1]
    places = [f"Training in progress, epoch {epoch}" for epoch in (1, 2)]
    assert [commit.title for commit in commits] == ["initial commit", *places, "End of training"]
    secrets = [huggingface_hub.get_token(), str(tmp_path)]

    def same_weights(files: dict[str, bytes], checkpoint: Path) -> bool:
        trained = load_file(checkpoint / "model.safetensors")
        return all(torch.equal(tensor, trained[name]) for name, tensor in load(files["model.safetensors"]).items())

    for epoch, commit in enumerate(commits[1:3], start=1):
        files = {name: content for name, content in commit.files.items() if name != ".gitattributes"}
        assert set(files) == LIVE_FILES
        assert_public(files, secrets)
        assert f"after epoch {epoch} of 2" in files["README.md"].decode()
        assert json.loads(files["results.json"])["epochs_trained"] == epoch
        updates = sum(trainer.schedule.updates(one) for one in range(epoch))
        assert same_weights(files, run / f"checkpoint-{updates}")
    last = hub.files("me/live")
    assert set(last) == STUDENT_FILES - {"recipe.yaml"}
    assert_public(last, secrets)
    assert "The training goes on" not in last["README.md"].decode()
    # Nothing is written into the run's folder.
    assert not (run / "training_args.bin").exists() and not (run / "README.md").exists()
    assert same_weights(last, Path(trainer.state.best_model_checkpoint))
    lowest = min(line["eval_top1"] for line in trainer.state.log_history if "eval_top1" in line)
    assert json.loads(last["results.json"])["accuracy"]["saved"]["top1"] == lowest
    card = ModelCard(last["README.md"].decode())
    assert card.data.eval_results[0].metric_value == pytest.approx(lowest / 100, abs=1e-4)


def test_a_repository_that_is_not_ours_is_found_before_the_training(hub, tmp_path):
    hub.put("me/other", {"model.safetensors": b"mine"})
    with pytest.raises(ValueError, match="me/other holds files that hf_kcd did not write"):
        make_trainer(tmp_path / "run", push_to_hub=True, hub_model_id="me/other").train()
    assert hub.files("me/other") == {"model.safetensors": b"mine"} and not list(tmp_path.glob("run/checkpoint-*"))


def test_a_slow_and_failing_hub_neither_delays_nor_ends_the_training(hub, tmp_path, waits, caplog):
    trainer = make_trainer(tmp_path / "run", push_to_hub=True, hub_model_id="me/x", save_strategy="epoch")
    hub.fail("POST .*/commit/", "status", math.inf, status=500)
    held_up, release = threading.Event(), TrainerCallback()
    trainer._uploads.submit(held_up.wait)
    release.on_train_end = lambda *_, **__: held_up.set()
    trainer.add_callback(release)
    with caplog.at_level(logging.WARNING):
        trainer.train()
    # The first push waited until the training was over, so the second save did not push.
    said = [record.getMessage() for record in caplog.records if "was not pushed" in record.getMessage()]
    assert len(said) == 1 and "epoch 1 was not pushed" in said[0] and "500" in said[0] and "\n" not in said[0]
    # The checkpoints are whole all the same.
    assert (tmp_path / "run" / f"checkpoint-{trainer.schedule.total_updates}" / "trainer_state.json").is_file()
    with pytest.raises(ConnectionError, match="500") as caught:
        trainer.push_to_hub()
    assert "\n" not in str(caught.value) and hub.files("me/x") == {}


@register_method("test_bare")
class Bare(DistillationMethod):
    def forward(self, student, teacher, batch):
        return {"ce": torch.nn.functional.cross_entropy(student.logits, batch["labels"])}


def test_a_method_without_a_paper_teacher_and_data_of_the_hub_and_what_is_refused(hub, tmp_path, monkeypatch):
    # A stranger's method has no paper, and its module no docstring.
    monkeypatch.setattr(sys.modules[__name__], "__doc__", None)
    save_model(timm.create_model("cifar_resnet8", num_classes=3), tmp_path / "bigger")
    hub.put("me/bigger", {path.name: path.read_bytes() for path in (tmp_path / "bigger").iterdir()})
    TRAIN.to_parquet(tmp_path / "train.parquet")
    hub.put("me/insects", {"data/train-0.parquet": (tmp_path / "train.parquet").read_bytes()}, "dataset")
    parts = {"teacher": load_model("hf_hub:me/bigger"), "callbacks": [], "method": "test_bare", "num_train_epochs": 1}
    parts["train_dataset"] = datasets.load_dataset("me/insects", split="train")
    pushing = {"push_to_hub": True, "hub_private_repo": True, "hub_strategy": "end", "save_strategy": "epoch"}
    trainer = make_trainer(tmp_path / "my-run", **parts, **pushing)
    with pytest.raises(RuntimeError, match=r"train\(\) first"):
        trainer.push_to_hub()
    trainer.train()
    # The strategy "end" pushes no checkpoint. Without a name the student goes to the folder's, under the user's own.
    assert hub.repository("me/my-run").private and len(hub.commits("me/my-run")) == 1
    trainer.save_model()
    assert [commit.title for commit in hub.commits("me/my-run")] == ["Model save", "initial commit"]
    future = trainer.push_to_hub("me/x", blocking=False, private=True, commit_message="Mine")
    assert future.result().commit_message == "Mine" and hub.repository("me/x").private
    card = ModelCard(hub.files("me/x")["README.md"].decode())
    assert (card.data["teacher"], card.data.datasets) == ("me/bigger", ["me/insects"])
    assert "| Method | test_bare |" in card.text and "hf_hub:me/x" in card.text

    requests = len(hub.requests)
    with pytest.raises(ValueError, match="HF_TOKEN"):
        trainer.push_to_hub(token="hf_x")
    with pytest.raises(TypeError, match="licence"):
        trainer.push_to_hub(licence="mit")
    for message in ("End of training", "me/my/run"):
        with pytest.raises(ValueError, match=f"commit_message='{message}'"):
            trainer.push_to_hub(message)
    assert len(hub.requests) == requests
    # A recipe in the run's folder belongs to the run.
    (tmp_path / "my-run" / "recipe.yaml").write_text("method: test_bare\n")
    for options in ({"dataset": "me/beetles"}, {"dataset_tags": "me/beetles"}):
        trainer.create_model_card(license="mit", finetuned_from="me/older", **options)
        card = ModelCard.load(tmp_path / "my-run" / "README.md")
        assert (card.data.license, card.data.datasets, card.data.base_model) == ("mit", ["me/beetles"], "me/older")
    trainer.push_to_hub("me/x")
    assert yaml.safe_load(hub.files("me/x")["recipe.yaml"]) == {"method": "test_bare"}
    for strategy in ("checkpoint", "all_checkpoints"):
        with pytest.raises(ValueError, match="every_save"):
            DistillationConfig(str(tmp_path), hub_strategy=strategy)
    with pytest.raises(PermissionError, match="you/x"):
        make_trainer(tmp_path / "other", push_to_hub=True, hub_model_id="you/x")


TWO = """
import os
import torch
import yaml
from hf_kcd import DistillationConfig, DistillationTrainer
from hf_kcd.data import load_image_data

# One import serves both processes.
child = os.fork()
os.environ["RANK"] = os.environ["LOCAL_RANK"] = "0" if child else "1"
data = load_image_data("digits")
torch.manual_seed(0)
args = DistillationConfig(
    "run", method="ce", num_train_epochs=1, use_cpu=True, ddp_backend="gloo", report_to="none", disable_tqdm=True,
    push_to_hub=True, hub_model_id="me/two", hub_always_push=True, eval_strategy="epoch",
)
train, test = data.train.select(range(64)), data.eval.select(range(64))
trainer = DistillationTrainer("cifar_resnet8", None, args, train_dataset=train, eval_dataset=test)
trainer.train()
commit = trainer.push_to_hub()
print(f"rank {args.process_index} pushed: {commit is not None}", flush=True)
assert not child or os.waitpid(child, 0)[1] == 0
# A process of gloo may abort when the interpreter ends.
os._exit(0)
"""


def test_of_two_processes_one_pushes(hub, run_fresh):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    shared = {"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "OMP_NUM_THREADS": "1"}
    done = run_fresh(TWO, HF_TOKEN=hub.token("me"), **shared)
    assert done.returncode == 0, done.stderr
    assert "rank 0 pushed: True" in done.stdout and "rank 1 pushed: False" in done.stdout
    titles = [commit.title for commit in hub.commits("me/two")]
    assert titles == ["End of training", "Training in progress, epoch 1", "initial commit"]
    assert "2 processes" in hub.files("me/two")["README.md"].decode()


def test_distill_pushes_when_it_is_done_and_a_push_that_fails_leaves_a_finished_run(
    hub, tmp_path, capsys, refused, waits
):
    words = [*TINY, "--student", "cifar_resnet8", "--method", "ce", "--num_train_epochs", 1, "--plots", "false"]
    words += ["--push_to_hub", "true", "--hub_model_id", "me/cli", "--hub_strategy", "end", "--output_dir"]
    hub.fail("POST .*/commit/", "status", math.inf, status=503)
    line = refused("distill", *words, tmp_path / "failed", code=1)
    assert "503" in line and f"hf-kcd push {tmp_path / 'failed'} me/cli" in line
    assert read_run(tmp_path / "failed")[0]["epochs_trained"] == 1
    hub.mend()
    command("distill", *words, tmp_path / "run")
    assert "/me/cli" in capsys.readouterr().out
    assert set(hub.files("me/cli")) == {name for name in STUDENT_FILES if "plots" not in name}
    results, _ = read_run(tmp_path / "run")
    assert json.loads(hub.files("me/cli")["results.json"]) == without_folders(results)
