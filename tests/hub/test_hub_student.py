"""A student is published while it trains and afterwards, and a stranger loads it in four ways; nothing private goes along."""

import json
import logging
import math
import re
import shutil
import socket
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import datasets
import huggingface_hub
import numpy as np
import pytest
import timm
import torch
import yaml
from huggingface_hub import EvalResult, ModelCard
from safetensors.torch import load, load_file
from transformers import TrainerCallback

from hf_kcd import DistillationConfig, DistillationTrainer, KCDConfig, KCDTrainerCallback, load_model
from hf_kcd.artifacts.run_folder import read_run
from hf_kcd.cli.main import main
from hf_kcd.cli.recipe import read_recipe
from hf_kcd.hub.privacy import without_folders
from hf_kcd.publishing import push_student

NAMES = ["ant", "bee", "cat"]
# Those of the recipe for small square images, which are CIFAR's.
MEAN, STD = (0.5071, 0.4867, 0.4408), (0.2675, 0.2565, 0.2761)
STUDENT_FILES = {
    "README.md",
    "config.json",
    "model.safetensors",
    "results.json",
    "recipe.yaml",
    "plots/curves.png",
    "plots/most_valuable.png",
    "plots/least_valuable.png",
}
LIVE_FILES = {"README.md", "config.json", "model.safetensors", "results.json", "plots/curves.png"}
REPOSITORY = Path(__file__).parents[2]


def image_set(num_points: int, seed: int) -> datasets.Dataset:
    generator = np.random.default_rng(seed)
    labels = generator.integers(len(NAMES), size=num_points)
    pixels = generator.integers(0, 150, size=(num_points, 16, 16, 3)) + 40 * labels[:, None, None, None]
    features = datasets.Features({"image": datasets.Image(), "label": datasets.ClassLabel(names=NAMES)})
    return datasets.Dataset.from_dict({"image": list(pixels.astype(np.uint8)), "label": labels}, features)


TRAIN, TEST = image_set(60, 0), image_set(20, 1)


def quietly(*words: object) -> None:
    main([*map(str, words)])


@pytest.fixture(scope="module")
def images(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("data") / "insects"
    datasets.DatasetDict(train=TRAIN, test=TEST).save_to_disk(str(folder))
    return folder


@pytest.fixture(scope="module")
def teacher_run(images, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("teacher") / "bigger"
    words = ["--data", images, "--network", "cifar_resnet8", "--num_train_epochs", 1, "--plots", "false"]
    quietly("train-teacher", *words, "--output_dir", folder)
    return folder


@pytest.fixture(scope="module", params=["test_resnet", "cifar_resnet8"])
def run(request, images, teacher_run, tmp_path_factory) -> Path:
    """A condensed run of a network that timm has, and one of a network that hf_kcd registers."""
    folder = tmp_path_factory.mktemp("student") / "first"
    words = ["--data", images, "--student", request.param, "--teacher", teacher_run, "--num_train_epochs", 3]
    words += ["--per_device_train_batch_size", 16, "--learning_rate", 0.01]
    quietly("distill", *words, "--condense", "--epochs_per_stage", 1, "--output_dir", folder)
    return folder


def student_of(run: Path) -> str:
    return json.loads((run / "config.json").read_text())["architecture"]


def make_trainer(folder: Path, **options) -> DistillationTrainer:
    torch.manual_seed(1)
    teacher = options.pop("teacher", "cifar_resnet8")
    train_dataset = options.pop("train_dataset", TRAIN)
    callbacks = options.pop("callbacks", [KCDTrainerCallback(KCDConfig(epochs_per_stage=1))])
    defaults = {"per_device_train_batch_size": 16, "learning_rate": 0.01, "num_train_epochs": 3, "use_cpu": True}
    defaults |= {"report_to": "none", "disable_tqdm": True, "eval_strategy": "epoch", "logging_steps": 1, "seed": 3}
    args = DistillationConfig(str(folder), **{**defaults, **options})
    return DistillationTrainer(
        "cifar_resnet8", teacher, args, train_dataset=train_dataset, eval_dataset=TEST, callbacks=callbacks
    )


class Release(TrainerCallback):
    """Let go at the end of a training what was held up all through it."""

    def __init__(self, event: threading.Event) -> None:
        self.event = event

    def on_train_end(self, args, state, control, **kwargs):
        self.event.set()


def assert_public(files: dict[str, bytes], secrets: list[str]) -> None:
    """Nothing but what the allow list names, each file of its kind, and in no byte a secret or a folder of this machine."""
    for name, content in files.items():
        assert name in STUDENT_FILES
        for secret in secrets:
            assert secret.encode() not in content, (name, secret)
        if name.endswith(".safetensors"):
            header = content[8 : 8 + int.from_bytes(content[:8], "little")]
            assert json.loads(header)["__metadata__"] == {"format": "pt"}
            assert all(tensor.isfinite().all() for tensor in load(content).values())
        elif name.endswith(".png"):
            assert content.startswith(b"\x89PNG\r\n\x1a\n")
        else:
            text = content.decode()
            assert not re.search(r"[\0-\x08\x80]|/(tmp|home|root|work)/", text), name


# A student that is pushed, and the stranger who takes it.

PROGRAM = """
import json, sys
import numpy as np
{imports}
import timm, torch
from PIL import Image
from transformers import AutoModelForImageClassification, AutoImageProcessor, pipeline

image = Image.open({path!r})
found = {{}}
with torch.no_grad():
    model = timm.create_model("hf_hub:me/x", pretrained=True).eval()
    transform = timm.data.create_transform(**timm.data.resolve_model_data_config(model), is_training=False)
    found["timm"] = model(transform(image).unsqueeze(0))[0].tolist()
    model = AutoModelForImageClassification.from_pretrained("me/x").eval()
    pixels = AutoImageProcessor.from_pretrained("me/x")(image, return_tensors="pt")
    found["transformers"] = model(**pixels).logits[0].tolist()
    found["labels"] = [model.config.id2label[i] for i in range(3)]
    found["pipeline"] = {{row["label"]: row["score"] for row in pipeline("image-classification", model="me/x")(image)}}
    assert ("hf_kcd" in sys.modules) == bool({imports!r})
    from hf_kcd import load_model
    model = load_model("hf_hub:me/x", num_classes=3).eval()
    found["hf_kcd"] = model(transform(image).unsqueeze(0))[0].tolist()
print(json.dumps(found))
"""


def test_a_stranger_loads_what_was_pushed_in_four_ways(hub, run, run_fresh, tmp_path):
    commit = push_student(run, "me/x", private=True)
    assert hub.repository("me/x").private
    assert [one.title for one in hub.commits("me/x")] == ["Upload student", "initial commit"]
    assert commit.oid == hub.commits("me/x")[0].sha
    assert set(hub.files("me/x")) == STUDENT_FILES

    TEST[0]["image"].save(tmp_path / "image.png")
    imports = "import hf_kcd" if student_of(run).startswith("cifar_") else ""
    done = run_fresh(PROGRAM.format(imports=imports, path=str(tmp_path / "image.png")), token=hub.token("me", False))
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout.splitlines()[-1])

    # By hand: the weights of the run in a network of its name, and the pixels as training normalised them.
    model = timm.create_model(student_of(run), num_classes=3)
    model.load_state_dict(load_file(run / "model.safetensors"))
    pixels = np.asarray(TEST[0]["image"], dtype=np.float64) / 255
    pixels = torch.from_numpy(((pixels - MEAN) / STD).transpose(2, 0, 1))[None]
    with torch.no_grad():
        logits = model.eval().double()(pixels)[0].numpy()
    for way in ("timm", "transformers", "hf_kcd"):
        assert found[way] == pytest.approx(logits, abs=2e-5), way
    assert found["timm"] == pytest.approx(found["hf_kcd"], abs=1e-6)
    assert found["labels"] == NAMES
    shares = np.exp(logits - logits.max()) / np.exp(logits - logits.max()).sum()
    assert found["pipeline"] == pytest.approx(dict(zip(NAMES, shares, strict=True)), abs=1e-5)


def test_nothing_private_is_in_what_is_pushed(hub, run, images, teacher_run):
    push_student(run, "me/x")
    token = huggingface_hub.get_token()
    secrets = [token, str(run), str(images), str(teacher_run), str(run.parent), "hostname", "/tmp"]
    # What was typed and what was written down name the folders; what is published does not.
    assert str(images) in (run / "results.json").read_text() and str(images) in (run / "recipe.yaml").read_text()
    assert_public(hub.files("me/x"), secrets)
    for request in hub.requests:
        assert b"training_args" not in request.body and b"optimizer" not in request.body
    assert "insects" in json.loads(hub.files("me/x")["results.json"])["command"]


def test_the_recipe_of_the_repository_trains_again_without_the_authors_folders_or_account(hub, run, tmp_path):
    written = yaml.safe_load((run / "recipe.yaml").read_text())
    with (run / "recipe.yaml").open("a") as file:
        file.write("push_to_hub: true\nhub_model_id: me/x\n")
    try:
        push_student(run, "me/x", teacher_repo="me/bigger")
    finally:
        (run / "recipe.yaml").write_text(yaml.safe_dump(written, sort_keys=False))
    (tmp_path / "recipe.yaml").write_bytes(hub.files("me/x")["recipe.yaml"])
    published = yaml.safe_load((tmp_path / "recipe.yaml").read_text())
    assert published == written | {"data": "insects", "teacher": "hf_hub:me/bigger"}
    recipe = read_recipe("distill", ["--config", str(tmp_path / "recipe.yaml"), "--output_dir", "again"])
    assert recipe.config.teacher == "hf_hub:me/bigger" and recipe.kcd.epochs_per_stage == 1
    assert not recipe.args.push_to_hub


def test_the_card_states_the_results_and_links_and_parses(hub, run):
    push_student(run, "me/x", mask_repo="me/x-mask", teacher_repo="me/bigger", license="mit", tags="insects")
    results = json.loads((run / "results.json").read_text())
    card = ModelCard(hub.files("me/x")["README.md"].decode())
    data = card.data
    assert (data.library_name, data.pipeline_tag, data.license) == ("timm", "image-classification", "mit")
    assert {"image-classification", "knowledge-distillation", "hf_kcd", "timm", "kd", "kcd", "insects"} == set(
        data.tags
    )
    assert (data["teacher"], data["knowledge_mask"]) == ("me/bigger", "me/x-mask")
    # A folder's name is no data set of the Hub, and a mask that this run made is not what it was trained on.
    assert data.datasets is None and data.base_model is None
    assert data.model_name == "x"
    values = {result.metric_type: result.metric_value for result in data.eval_results}
    assert all(isinstance(result, EvalResult) and result.dataset_name == "insects" for result in data.eval_results)
    last = results["accuracy"]["last"]
    assert values["accuracy"] == pytest.approx(last["top1"] / 100, abs=1e-4)
    assert values["top_5_accuracy"] == pytest.approx(last["top5"] / 100, abs=1e-4)
    # 60 points, then 60 * 0.7^(1/3) = 53.3 and 60 * 0.7^(2/3) = 47.3 of them.
    paid = (60 + 53 + 47) / 180
    assert values["relative_cost"] == pytest.approx(paid, abs=1e-4)
    an_image = results["seconds"]["training"] / (60 + 53 + 47)
    assert values["seconds_saved"] == pytest.approx((7 + 13) * an_image, abs=1e-3)
    text = card.text
    assert f"{last['top1']:.2f} %" in text and f"{paid:.2%}" in text
    assert "https://huggingface.co/datasets/me/x-mask" in text and "https://huggingface.co/me/bigger" in text
    assert "![" in text and "(plots/curves.png)" in text and "(plots/most_valuable.png)" in text
    for way in ('timm.create_model("hf_hub:me/x"', 'model="me/x"', 'load_model("hf_hub:me/x")'):
        assert way in text
    # The two lines for a network that timm does not have by itself.
    assert text.count("import hf_kcd  # registers") == (2 if student_of(run).startswith("cifar_") else 0)
    assert "hf-kcd distill --data insects --student" in text and "epochs_per_stage: 1" in text
    assert "Hinton et al., 2015" in text and "li2022kcd" in text and "not stated" not in text


def test_pushed_again_the_repository_is_what_the_second_push_says(hub, run, tmp_path):
    push_student(run, "me/x")
    again = tmp_path / "again"
    shutil.copytree(run, again, ignore=shutil.ignore_patterns("plots", "checkpoint-*"))
    push_student(again, "me/x", commit_message="Without pictures", revision="plain")
    assert set(hub.files("me/x")) == STUDENT_FILES
    assert set(hub.files("me/x", revision="plain")) == {name for name in STUDENT_FILES if "plots" not in name}
    assert b"plots/" not in hub.files("me/x", revision="plain")["README.md"]


def test_a_name_without_a_user_is_that_of_who_is_logged_in(hub, run):
    push_student(run, "x")
    assert b'"hf_hub:me/x"' in hub.files("me/x")["README.md"]


@pytest.mark.parametrize(
    ("change", "error", "said"),
    [
        (lambda run: (run / "results.json").unlink(), FileNotFoundError, "not finished"),
        (lambda run: (run / "model.safetensors").unlink(), FileNotFoundError, "no model.safetensors"),
        (lambda run: (run / "recipe.yaml").write_text("- a\n- list"), ValueError, "no options of a run"),
        (lambda run: (run / "model.safetensors").write_bytes(b"\x80\x02}q\0."), ValueError, "safetensors"),
        (
            lambda run: (run / "config.json").write_text('{"architecture": "resnet18"}'),
            ValueError,
            "weights of resnet18",
        ),
    ],
)
def test_a_run_that_is_not_whole_is_refused_before_anything_is_sent(hub, run, tmp_path, change, error, said):
    broken = tmp_path / "broken"
    shutil.copytree(run, broken)
    change(broken)
    with pytest.raises(error, match=said) as caught:
        push_student(broken, "me/x")
    assert "\n" not in str(caught.value)
    assert not hub.repositories


def test_who_may_not_write_is_told_so_in_one_line(hub, run, monkeypatch):
    monkeypatch.setenv("HF_TOKEN", hub.token("me", write=False))
    with pytest.raises(PermissionError, match=r"me/x") as caught:
        push_student(run, "me/x")
    assert "\n" not in str(caught.value)
    monkeypatch.delenv("HF_TOKEN")
    with pytest.raises(PermissionError, match="hf auth login"):
        push_student(run, "me/x")


# From the trainer.


def test_every_save_pushes_the_student_alone_and_the_end_pushes_all(hub, tmp_path):
    run = tmp_path / "live"
    trainer = make_trainer(
        run,
        push_to_hub=True,
        hub_model_id="me/live",
        hub_private_repo=True,
        hub_always_push=True,
        save_strategy="epoch",
    )
    assert hub.repository("me/live").private and hub.files("me/live") == {}
    trainer.train()
    trainer.push_to_hub(mask_repo="me/live-mask")
    commits = hub.commits("me/live")[::-1]
    places = [f"Training in progress, epoch {epoch}" for epoch in (1, 2, 3)]
    assert [commit.title for commit in commits] == ["initial commit", *places, "End of training"]
    secrets = [huggingface_hub.get_token(), str(tmp_path)]
    for epoch, commit in enumerate(commits[1:4], start=1):
        files = {name: content for name, content in commit.files.items() if name != ".gitattributes"}
        assert set(files) == LIVE_FILES
        assert_public(files, secrets)
        assert f"after epoch {epoch} of 3" in files["README.md"].decode()
        assert json.loads(files["results.json"])["epochs_trained"] == epoch
        weights = load_file(run / f"checkpoint-{trainer.schedule.total_updates}" / "model.safetensors")
        pushed = load(files["model.safetensors"])
        assert all(torch.equal(pushed[name], weights[name]) for name in weights) == (epoch == 3)
    last = hub.files("me/live")
    assert set(last) == STUDENT_FILES - {"recipe.yaml"}
    assert_public(last, secrets)
    assert "The training goes on" not in last["README.md"].decode()
    # The folder of a run that is not the commands' own stays as transformers would leave it.
    assert not (run / "training_args.bin").exists() and not (run / "README.md").exists()
    trained = trainer.student.state_dict()
    assert all(torch.equal(tensor, trained[name]) for name, tensor in load(last["model.safetensors"]).items())


def test_a_slow_or_failing_hub_neither_delays_nor_ends_the_training(hub, tmp_path, waits, caplog):
    trainer = make_trainer(
        tmp_path / "run", push_to_hub=True, hub_model_id="me/x", hub_always_push=True, save_strategy="epoch"
    )
    hub.fail("POST .*/commit/", "status", math.inf, status=500)
    with caplog.at_level(logging.WARNING):
        trainer.train()
    said = [record.getMessage() for record in caplog.records if "was not pushed" in record.getMessage()]
    assert len(said) == 3 and all("500" in line and "\n" not in line for line in said)
    # The checkpoints that could not be pushed are whole.
    assert (tmp_path / "run" / f"checkpoint-{trainer.schedule.total_updates}" / "trainer_state.json").is_file()
    assert hub.files("me/x") == {}
    with pytest.raises(ConnectionError, match="500") as caught:
        trainer.push_to_hub()
    assert "\n" not in str(caught.value)
    assert hub.files("me/x") == {}


@pytest.mark.parametrize(
    ("kind", "details"),
    [("status", {"status": 429, "retry_after": 2}), ("status", {"status": 503}), ("drop", {}), ("lost", {})],
)
def test_a_moment_of_failure_is_waited_out(hub, run, waits, kind, details):
    hub.fail("POST .*/commit/", kind, 1, **details)
    push_student(run, "me/x")
    assert set(hub.files("me/x")) == STUDENT_FILES
    assert [commit.title for commit in hub.commits("me/x")] == ["Upload student", "initial commit"]


def test_a_training_does_not_wait_for_its_pushes(hub, tmp_path):
    trainer = make_trainer(tmp_path / "run", push_to_hub=True, hub_model_id="me/x", save_strategy="epoch")
    held_up = threading.Event()
    trainer._publisher._uploads.submit(held_up.wait)
    trainer.add_callback(Release(held_up))
    trainer.train()
    # The first save's push was held up until the training was over; the second and third found it on its way.
    assert [commit.title for commit in hub.commits("me/x")] == ["Training in progress, epoch 1", "initial commit"]


TWO = """
import os, sys
import torch
from hf_kcd import DistillationConfig, DistillationTrainer
from hf_kcd.data import load_image_data

data = load_image_data({data!r})
torch.manual_seed(0)
args = DistillationConfig(
    "run", method="ce", num_train_epochs=2, use_cpu=True, ddp_backend="gloo", report_to="none", disable_tqdm=True,
    push_to_hub=True, hub_model_id="me/two", hub_always_push=True, eval_strategy="epoch",
)
trainer = DistillationTrainer("cifar_resnet8", None, args, train_dataset=data.train, eval_dataset=data.eval)
trainer.train()
commit = trainer.push_to_hub()
print(args.process_index, commit is None, flush=True)
# A process of gloo may abort when the interpreter ends.
os._exit(0)
"""


def test_of_two_processes_one_pushes(hub, images, run_fresh):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    shared = {"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "OMP_NUM_THREADS": "1"}

    def process(rank: int):
        ranks = {"RANK": str(rank), "LOCAL_RANK": str(rank)}
        return run_fresh(TWO.format(data=str(images)), token=hub.token("me"), **shared, **ranks)

    with ThreadPoolExecutor(2) as threads:
        done = list(threads.map(process, range(2)))
    assert [one.returncode for one in done] == [0, 0], "".join(one.stderr for one in done)
    assert [one.stdout.splitlines()[-1] for one in done] == ["0 False", "1 True"]
    places = ["initial commit", "Training in progress, epoch 1", "Training in progress, epoch 2", "End of training"]
    assert [commit.title for commit in hub.commits("me/two")] == places[::-1]
    assert "2 processes" in hub.files("me/two")["README.md"].decode()


def test_strategy_end_and_other_refused_ways(hub, tmp_path):
    trainer = make_trainer(
        tmp_path / "run", push_to_hub=True, hub_model_id="me/x", hub_strategy="end", save_strategy="epoch"
    )
    with pytest.raises(RuntimeError, match=r"train\(\) first"):
        trainer.push_to_hub()
    trainer.train()
    assert len(hub.commits("me/x")) == 1
    trainer.save_model()
    assert [commit.title for commit in hub.commits("me/x")] == ["Model save", "initial commit"]
    with pytest.raises(ValueError, match="HF_TOKEN"):
        trainer.push_to_hub(token="hf_x")
    with pytest.raises(TypeError, match="licence"):
        trainer.push_to_hub(licence="mit")
    trainer.create_model_card(license="mit", dataset="me/insects", finetuned_from="me/older")
    card = ModelCard.load(tmp_path / "run" / "README.md")
    assert (card.data.license, card.data.datasets, card.data.base_model) == ("mit", ["me/insects"], "me/older")
    for strategy in ("checkpoint", "all_checkpoints"):
        with pytest.raises(ValueError, match="every_save"):
            DistillationConfig(str(tmp_path), hub_strategy=strategy)


def test_push_without_a_name_goes_to_the_folders_under_the_users_own(hub, tmp_path):
    trainer = make_trainer(tmp_path / "my-run", num_train_epochs=1, callbacks=[])
    trainer.train()
    commit = trainer.push_to_hub(private=True, commit_message="Mine")
    assert commit.commit_message == "Mine" and hub.repository("me/my-run").private
    assert b"hf_hub:me/my-run" in hub.files("me/my-run")["README.md"]


def test_a_teacher_from_the_hub_is_linked(hub, teacher_run, tmp_path):
    push_student(teacher_run, "me/bigger")
    teacher = load_model("hf_hub:me/bigger")
    trainer = make_trainer(tmp_path / "run", teacher=teacher, num_train_epochs=1, callbacks=[])
    trainer.train()
    trainer.push_to_hub("me/x")
    assert ModelCard(hub.files("me/x")["README.md"].decode()).data["teacher"] == "me/bigger"


def test_a_data_set_from_the_hub_is_linked_by_its_own_name(hub, tmp_path):
    TRAIN.to_parquet(tmp_path / "train.parquet")
    hub.put("me/insects", {"data/train-0.parquet": (tmp_path / "train.parquet").read_bytes()}, "dataset")
    loaded = datasets.load_dataset("me/insects", split="train")
    trainer = make_trainer(tmp_path / "run", train_dataset=loaded, num_train_epochs=1, callbacks=[])
    trainer.train()
    trainer.push_to_hub("me/x")
    assert ModelCard(hub.files("me/x")["README.md"].decode()).data.datasets == ["me/insects"]


def test_a_construction_that_may_not_create_the_repository_says_so(hub, tmp_path):
    with pytest.raises(PermissionError, match="you/x"):
        make_trainer(tmp_path / "run", push_to_hub=True, hub_model_id="you/x")


def test_weights_that_are_the_best_ones_are_published_with_their_own_accuracy(hub, tmp_path):
    trainer = make_trainer(
        tmp_path / "run",
        save_strategy="epoch",
        load_best_model_at_end=True,
        metric_for_best_model="top1",
        greater_is_better=False,
        callbacks=[],
        learning_rate=0.1,
    )
    trainer.train()
    trainer.push_to_hub("me/x")
    history = {line["epoch"]: line["eval_top1"] for line in trainer.state.log_history if "eval_top1" in line}
    # Told that less is better, it keeps the weights of the epoch with the lowest accuracy.
    lowest = min(history.values())
    results = json.loads(hub.files("me/x")["results.json"])
    assert results["accuracy"]["saved"]["top1"] == lowest
    card = ModelCard(hub.files("me/x")["README.md"].decode())
    assert card.data.eval_results[0].metric_value == pytest.approx(lowest / 100, abs=1e-4)


# From the command line.


def test_distill_pushes_when_it_is_done_and_says_where(hub, images, tmp_path, capsys):
    words = ["--data", images, "--student", "cifar_resnet8", "--method", "ce", "--num_train_epochs", 2]
    words += ["--plots", "false", "--push_to_hub", "true", "--hub_model_id", "me/cli", "--hub_strategy", "end"]
    quietly("distill", *words, "--output_dir", tmp_path / "run")
    assert "/me/cli" in capsys.readouterr().out
    assert set(hub.files("me/cli")) == STUDENT_FILES - {name for name in STUDENT_FILES if "plots" in name}
    results, _ = read_run(tmp_path / "run")
    assert json.loads(hub.files("me/cli")["results.json"]) == without_folders(results)


def test_a_run_whose_last_push_fails_is_finished_all_the_same(hub, images, tmp_path, capsys, waits):
    hub.fail("POST .*/commit/", "status", math.inf, status=503)
    words = ["--data", images, "--student", "cifar_resnet8", "--method", "ce", "--num_train_epochs", 1]
    words += ["--plots", "false", "--push_to_hub", "true", "--hub_model_id", "me/cli", "--hub_strategy", "end"]
    with pytest.raises(SystemExit) as exit_:
        quietly("distill", *words, "--output_dir", tmp_path / "run")
    assert exit_.value.code == 1
    line = capsys.readouterr().err.splitlines()[-1]
    assert "503" in line and f"hf-kcd push {tmp_path / 'run'} me/cli" in line
    assert read_run(tmp_path / "run")[0]["epochs_trained"] == 1


def test_card_of_a_run_without_weights_promises_none(run, tmp_path, capsys):
    for name in ("results.json", "recipe.yaml"):
        shutil.copy(run / name, tmp_path / name)
    quietly("card", tmp_path)
    assert capsys.readouterr().out == f"{tmp_path / 'README.md'}\n"
    card = ModelCard.load(tmp_path / "README.md")
    assert card.data.model_name == student_of(run)
    assert "not published here" in card.text and "hf_hub:" not in card.text and "![" not in card.text
    quietly("card", tmp_path, "--output", tmp_path / "x.md", "--repo", "me/x", "--license", "mit")
    assert 'load_model("hf_hub:me/x")' in (tmp_path / "x.md").read_text()


@pytest.mark.parametrize("recipe", ["3: x", "teacher: [a, b]", "mask: 5", "data: {a: b}", "student: 1.5"])
def test_a_recipe_of_other_types_is_one_clear_line(run, tmp_path, recipe):
    shutil.copy(run / "results.json", tmp_path / "results.json")
    (tmp_path / "recipe.yaml").write_text(recipe)
    with pytest.raises(ValueError, match="recipe.yaml holds no options of a run"):
        read_run(tmp_path)
