"""`hf-kcd push` as a user meets it: a run by the command line, its repositories, and strangers who go on from them."""

import json
import re
import shutil
from dataclasses import replace
from pathlib import Path

import datasets
import pytest
import torch
import yaml
from huggingface_hub import DatasetCard
from safetensors.torch import load

from hf_kcd import KnowledgeMask, load_model
from hf_kcd.cli.main import main
from hf_kcd.data import SoftLabels, load_image_data
from hf_kcd.publishing import write_mask_repository

STUDENT_FILES = {
    "README.md",
    "config.json",
    "model.safetensors",
    "plots/curves.png",
    "plots/least_valuable.png",
    "plots/most_valuable.png",
    "recipe.yaml",
    "results.json",
}
MASK_FILES = {
    "README.md",
    "data/points.parquet",
    "mask.safetensors",
    "mask_config.json",
    "plots/least_valuable.png",
    "plots/most_valuable.png",
    "plots/ranks.png",
    "plots/stages.png",
    "plots/values.png",
}
SOFT_LABEL_FILES = {"soft_labels.json", "soft_labels.safetensors"}
TINY = ["--data", "digits", "--train_points", "120", "--num_train_epochs", "3", "--seed", "3", "--save_strategy", "no"]


def hf_kcd(*words: object) -> None:
    """Run a command in this process."""
    main([*map(str, words)])


@pytest.fixture(scope="module")
def run_folder(tmp_path_factory) -> Path:
    """A condensed run on the digits, with a teacher from a folder of this machine."""
    folder = tmp_path_factory.mktemp("runs")
    words = [*TINY, "--num_train_epochs", "1", "--network", "cifar_resnet8", "--no_plots"]
    hf_kcd("train-teacher", *words, "--output_dir", folder / "teacher")
    words = [*TINY, "--teacher", folder / "teacher", "--condense", "--epochs_per_stage", "1", "--final_ratio", "0.5"]
    hf_kcd("distill", *words, "--output_dir", folder / "first")
    return folder / "first"


def refused(capsys, *words: object, code: int = 2) -> str:
    """Run a push that cannot be, check that it says why in one line, and give the line."""
    capsys.readouterr()
    with pytest.raises(SystemExit) as exit_:
        hf_kcd("push", *words)
    assert exit_.value.code == code
    lines = capsys.readouterr().err.splitlines()
    assert [line for line in lines if line.startswith("hf-kcd: error: ")] == lines[-1:], lines
    return lines[-1]


def test_student_and_mask_go_where_the_command_says(hub, run_folder, capsys):
    hf_kcd("push", run_folder, "me/first", "--license", "apache-2.0")
    said = capsys.readouterr().out
    assert set(hub.files("me/first")) == STUDENT_FILES
    assert set(hub.files("me/first-mask", "dataset")) == MASK_FILES
    for repo_id, kind, files in (
        ("me/first", "model", hub.files("me/first")),
        ("me/first-mask", "data set", hub.files("me/first-mask", "dataset")),
    ):
        place = said.index(f"→ {repo_id} ({kind})")
        assert place < said.index("Uploading")
        for name in files:
            assert name in said[place:]
    assert f"{hub.endpoint}/me/first\n" in said and f"{hub.endpoint}/datasets/me/first-mask\n" in said
    cards = [hub.files("me/first")["README.md"], hub.files("me/first-mask", "dataset")["README.md"]]
    assert b"me/first-mask" in cards[0] and b"https://huggingface.co/me/first)" in cards[1]
    assert all(b"license: apache-2.0" in card for card in cards)


def test_no_uploaded_byte_is_a_pickle_a_token_or_a_folder_of_this_machine(hub, run_folder):
    hf_kcd("push", run_folder, "me/first", "--with_soft_labels", "--views", "1")
    home = str(run_folder.parent).encode()
    for repo_id, kind in (("me/first", "model"), ("me/first-mask", "dataset")):
        for name, content in hub.files(repo_id, kind).items():
            assert Path(name).suffix in (".md", ".json", ".yaml", ".png", ".parquet", ".safetensors"), name
            assert home not in content and hub.token("me").encode() not in content, name
            # What pickles and the archives that hold them begin with.
            assert not content.startswith((b"\x80\x02", b"\x80\x03", b"\x80\x04", b"\x80\x05", b"PK\x03\x04")), name
            if Path(name).suffix in (".md", ".json", ".yaml"):
                assert not re.search(r"(?<![\w.:/-])/(?:home|root|tmp|work|usr|var)/", content.decode()), name
            if name.endswith(".safetensors"):
                assert load(content)
            if name.endswith(".json"):
                json.loads(content)
    sent = b"".join(request.body for request in hub.requests)
    assert home not in sent
    assert not any("training_args" in str(request) or "optimizer" in str(request) for request in hub.requests)


STRANGER = """
import json
import hf_kcd, timm, torch
from datasets import load_dataset
from hf_kcd.data import first_points
from hf_kcd.data import load_image_data
from transformers import AutoModelForImageClassification, pipeline

images = torch.linspace(-1, 1, 2 * 3 * 8 * 8).view(2, 3, 8, 8)
with torch.no_grad():
    logits = [
        hf_kcd.load_model("hf_hub:me/first").eval()(images),
        timm.create_model("hf_hub:me/first", pretrained=True).eval()(images),
        AutoModelForImageClassification.from_pretrained("me/first").eval()(images).logits,
    ]
digits = load_image_data("digits")
classified = pipeline("image-classification", model="me/first")(digits.eval[0]["image"])
mask = hf_kcd.KnowledgeMask.from_pretrained("me/first-mask")
table = load_dataset("me/first-mask", split="train")
print(json.dumps({
    "logits": [found.tolist() for found in logits],
    "classes": sorted(each["label"] for each in classified),
    "selected": len(mask.select(first_points(digits.train, 120))),
    "kept": [row["point"] for row in table if row["kept"]],
}))
"""


def test_a_stranger_goes_on_from_student_mask_and_soft_labels(hub, run_folder, run_fresh, tmp_path, capsys):
    hf_kcd("push", run_folder, "me/first", "--with_soft_labels", "--views", "2", "--top_k", "3", "--bits", "16")
    capsys.readouterr()
    mask = KnowledgeMask.from_pretrained(run_folder / "mask")
    done = run_fresh(["-W", "ignore", "-c", STRANGER], cache=tmp_path / "cache")
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout.splitlines()[-1])
    images = torch.linspace(-1, 1, 2 * 3 * 8 * 8).view(2, 3, 8, 8)
    with torch.no_grad():
        expected = load_model(run_folder).eval()(images)
    for logits in found["logits"]:
        assert torch.equal(torch.tensor(logits), expected)
    assert len(found["classes"]) == 5 and set(found["classes"]) <= set("0123456789")
    assert found["selected"] == len(mask.kept) == 60
    assert found["kept"] == sorted(mask.kept.tolist())

    # The two lines of the card, and its teacher is on nobody else's machine.
    card = hub.files("me/first-mask", "dataset")["README.md"].decode()
    for words in (["--mask_mixing", "false", "--method", "ce"], ["--soft_labels", "true", "--method", "kd"]):
        options = ["--data", "digits", "--train_points", "120", "--student", "cifar_resnet8"]
        assert " ".join(options) in card
        own = [
            "--num_train_epochs",
            "1",
            "--no_plots",
            "--save_strategy",
            "no",
            "--output_dir",
            str(tmp_path / words[1]),
        ]
        command = ["distill", *options, "--mask", "me/first-mask", *words, *own]
        done = run_fresh(["-W", "ignore", "-m", "hf_kcd.cli.main", *command], cache=tmp_path / "cache")
        assert done.returncode == 0, done.stderr
        results = json.loads((tmp_path / words[1] / "results.json").read_text())
        assert results["cost"]["points"] == 60
    assert results["soft_labels"]["num_views"] == 2 and results["soft_labels"]["top_k"] == 3
    # What was learnt on a mask says which, where it is pushed in its turn.
    hf_kcd("push", tmp_path / "true", "me/second")
    assert ("dataset", "me/second-mask") not in hub.repositories
    assert b"me/first-mask" in hub.files("me/second")["README.md"]
    assert yaml.safe_load(hub.files("me/second")["recipe.yaml"])["mask"] == "me/first-mask"


def test_dry_run_writes_what_would_go_up_and_sends_nothing(hub, run_folder, tmp_path, capsys, monkeypatch):
    monkeypatch.delenv("HF_TOKEN")
    hf_kcd("push", run_folder, "me/first", "--dry_run", tmp_path / "out", "--mask_repo", "me/points")
    said = capsys.readouterr().out
    assert "nothing was uploaded" in said and "→ me/points (data set)" in said
    for name, files in (("student", STUDENT_FILES), ("mask", MASK_FILES)):
        folder = tmp_path / "out" / name
        assert {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()} == files
    assert not hub.requests
    # A folder of the machine reads as the repository does.
    table = datasets.load_dataset(str(tmp_path / "out" / "mask"))
    assert list(table) == ["train"] and len(table["train"]) == 120
    assert KnowledgeMask.from_pretrained(tmp_path / "out" / "mask").num_points == 120
    before = sorted((tmp_path / "out").rglob("*"))
    assert "not empty" in refused(capsys, run_folder, "me/first", "--dry_run", tmp_path / "out")
    assert sorted((tmp_path / "out").rglob("*")) == before


def test_size_of_soft_labels_is_said_before_they_are_made(run_folder, tmp_path, capsys):
    words = ["--dry_run", tmp_path / "out", "--mask_only", "--with_soft_labels", "--views", "3"]
    hf_kcd("push", run_folder, "me/points", *words)
    said = capsys.readouterr().out
    assert "3 views of 60 points, all 10 classes, 8 bits" in said
    # 60 x (8 + 3 x (10 + 2 x 4)) bytes.
    assert "3.7 kB" in said.splitlines()[0] and "180 images" in said.splitlines()[0]
    folder = tmp_path / "out" / "mask"
    assert {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()} == (
        MASK_FILES | SOFT_LABEL_FILES
    )
    assert SoftLabels.load(folder).num_views == 3


def test_one_of_the_two_goes_alone(hub, run_folder, capsys):
    hf_kcd("push", run_folder, "me/first", "--student_only", "--private")
    assert set(hub.repositories) == {("model", "me/first")} and hub.repository("me/first").private
    hf_kcd("push", run_folder / "mask", "me/points", "--mask_only", "--revision", "v1")
    assert set(hub.files("me/points", "dataset", "v1")) == {
        "README.md",
        "data/points.parquet",
        "mask.safetensors",
        "mask_config.json",
        "plots/values.png",
    }
    assert hub.files("me/points", "dataset") == {}
    assert KnowledgeMask.from_pretrained("me/points", revision="v1").num_points == 120
    stage = run_folder / "stages" / "stage-01"
    hf_kcd("push", stage, "me/points", "--mask_only")
    assert KnowledgeMask.from_pretrained("me/points").stage == 1


def test_teacher_of_a_recipe_is_linked(hub, run_folder, tmp_path, capsys):
    hub.put("you/teacher", {"config.json": b"{}"})
    folder = tmp_path / "run"
    shutil.copytree(run_folder, folder)
    recipe = yaml.safe_load((folder / "recipe.yaml").read_text())
    (folder / "recipe.yaml").write_text(yaml.safe_dump({**recipe, "teacher": "hf_hub:you/teacher@v1"}))
    hf_kcd("push", folder, "me/first")
    for repo_id, kind in (("me/first", "model"), ("me/first-mask", "dataset")):
        assert b"https://huggingface.co/you/teacher)" in hub.files(repo_id, kind)["README.md"]
    hf_kcd("push", run_folder, "me/second", "--teacher_repo", "them/theirs")
    for repo_id, kind in (("me/second", "model"), ("me/second-mask", "dataset")):
        assert b"https://huggingface.co/them/theirs)" in hub.files(repo_id, kind)["README.md"]


def test_a_mask_that_was_here_when_it_was_trained_on_is_no_repository(hub, run_folder, tmp_path):
    words = [*TINY, "--mask", run_folder / "mask", "--method", "ce", "--no_plots", "--output_dir", tmp_path / "run"]
    hf_kcd("distill", *words)
    recipe = yaml.safe_load((tmp_path / "run" / "recipe.yaml").read_text())
    (tmp_path / "run" / "recipe.yaml").write_text(yaml.safe_dump({**recipe, "mask": "/home/me/gone/mask"}))
    hf_kcd("push", tmp_path / "run", "me/second")
    card = hub.files("me/second")["README.md"].decode()
    assert "Trained on a mask" in card and "/datasets/" not in card
    assert yaml.safe_load(hub.files("me/second")["recipe.yaml"])["mask"] == "mask"


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["nowhere", "me/first"], "nowhere is not a folder"),
        (["{run}/plots", "me/first"], "results.json does not exist"),
        (["{run}/plots", "me/first", "--mask_only"], "no mask to push"),
        (["{run}/mask", "me/first"], "add --mask_only"),
        (["{run}", "first"], "give user/name"),
        (["{run}", "me/fir/st"], "cannot exist"),
        (["{run}", "me/first", "--mask_only", "--mask_repo", "me/x"], "leave --mask_repo out"),
        (["{run}", "me/first", "--student_only", "--with_soft_labels"], "no mask to push"),
        (["{run}", "me/first", "--with_soft_labels", "--bits", "4"], "bits is 4"),
        (["{run}", "me/first", "--with_soft_labels", "--views", "0"], "num_views is 0"),
        (["{run}/mask", "me/first", "--mask_only", "--with_soft_labels"], "recipe.yaml"),
        (["{run}", "you/first"], "may not be written to"),
    ],
)
def test_what_cannot_be_pushed_is_one_line_and_leaves_nothing(hub, run_folder, words, said, capsys):
    assert said in refused(capsys, *(word.format(run=run_folder) for word in words))
    assert not hub.repositories


def test_without_a_login_nothing_is_made(hub, run_folder, capsys, monkeypatch):
    monkeypatch.delenv("HF_TOKEN")
    assert "hf auth login" in refused(capsys, run_folder, "me/first", "--with_soft_labels")
    assert not hub.repositories


def test_a_push_that_breaks_off_says_what_is_up_and_the_same_command_goes_on(hub, run_folder, capsys, waits):
    hub.fail("POST /api/datasets/.*/commit/", "status", 100, status=500)
    said = refused(capsys, run_folder, "me/first", code=1)
    assert "me/first is uploaded" in said and "me/first-mask is unchanged" in said
    assert set(hub.files("me/first")) == STUDENT_FILES and hub.files("me/first-mask", "dataset") == {}
    hub.mend()
    commits = hub.commits("me/first")
    hf_kcd("push", run_folder, "me/first")
    assert set(hub.files("me/first-mask", "dataset")) == MASK_FILES
    assert hub.commits("me/first") == commits


def test_data_of_the_hub_is_linked_and_loaded_from_there(run_folder, tmp_path):
    shutil.copytree(run_folder, tmp_path / "run")
    results = json.loads((run_folder / "results.json").read_text())
    mask = KnowledgeMask.from_pretrained(run_folder / "mask")
    for data, split, repository in (("cifar100", None, "uoft-cs/cifar100"), ("you/birds", "all", "you/birds")):
        recipe = {"data": data, "train_split": split, "data_dir": "/home/someone/data", "student": "cifar_resnet8"}
        (tmp_path / "run" / "recipe.yaml").write_text(yaml.safe_dump(recipe))
        (tmp_path / "run" / "results.json").write_text(json.dumps({**results, "data": data}))
        write_mask_repository(tmp_path / "out", mask, repo_id="me/x", run_folder=tmp_path / "run")
        card = DatasetCard.load(tmp_path / "out" / "README.md")
        assert card.data.source_datasets == [repository]
        assert f"[{data}](https://huggingface.co/datasets/{repository})" in card.text
        assert (
            "mask.select(data)" in card.text
            and f'load_dataset("{repository}", split="{split or "train"}")' in card.text
        )
        assert f"hf-kcd distill --data {data}" in card.text and "someone" not in card.text
        assert ("--train_split all" in card.text) == (split is not None)


def test_a_run_is_not_shown_beside_the_mask_of_another(run_folder, tmp_path):
    mask = KnowledgeMask.from_pretrained(run_folder / "mask")
    other = replace(mask, provenance={**mask.provenance, "seed": 9})
    with pytest.raises(ValueError, match="its seed is 3, the mask's is 9"):
        write_mask_repository(tmp_path / "out", other, repo_id="me/x", run_folder=run_folder)
    with pytest.raises(ValueError, match="it condensed nothing, or other data"):
        write_mask_repository(tmp_path / "out", mask, repo_id="me/x", run_folder=run_folder.parent / "teacher")


def test_repositories_have_the_labels_and_values_of_the_run(hub, run_folder):
    hf_kcd("push", run_folder, "me/first")
    table = datasets.load_dataset("me/first-mask", split="train")
    mask = KnowledgeMask.from_pretrained(run_folder / "mask")
    digits = load_image_data("digits").train
    assert table.features["label"].names == digits.features["label"].names
    assert table["value"][:] == mask.value.tolist()
    results = json.loads((run_folder / "results.json").read_text())
    card = hub.files("me/first-mask", "dataset")["README.md"].decode()
    assert f"{results['cost']['paid']:.2%}" in card
    assert f"{results['accuracy']['last']['top1']:.2f} % top-1" in card
