"""`hf-kcd push`: a run by the command line, its repositories, and strangers who go on from them."""

import json
import shutil
from dataclasses import replace
from itertools import chain

import datasets
import huggingface_hub
import numpy as np
import pytest
import timm
import torch
import yaml
from hub.published import MASK_FILES, SOFT_LABEL_FILES, STUDENT_FILES, TINY, assert_public, command, file_names
from huggingface_hub import DatasetCard
from safetensors.torch import load_file

from hf_kcd import KnowledgeMask, load_model
from hf_kcd.data import SoftLabels, load_image_data


def test_student_and_mask_go_where_the_command_says_and_nothing_private_with_them(hub, run_folder, capsys):
    command("push", run_folder, "me/first", "--license", "apache-2.0", "--with_soft_labels", "--views", 1)
    said = capsys.readouterr().out
    student, mask = hub.files("me/first"), hub.files("me/first-mask", "dataset")
    assert set(student) == STUDENT_FILES and set(mask) == MASK_FILES | SOFT_LABEL_FILES
    public = "public unless your account's default is private"
    for what, files in (
        (f"Student → me/first (model, {public})", student),
        (f"Mask → me/first-mask (data set, {public})", mask),
    ):
        place = said.index(f"{what}: {len(files)} files, ")
        assert place < said.index("Uploading") and all(name in said[place:] for name in files)
    assert f"{hub.endpoint}/me/first\n" in said and f"{hub.endpoint}/datasets/me/first-mask\n" in said
    cards = [student["README.md"].decode(), mask["README.md"].decode()]
    assert "me/first-mask" in cards[0] and "https://huggingface.co/me/first)" in cards[1]
    assert all("license: apache-2.0" in card for card in cards)

    # The command and the recipe name the teacher's folder; what is published does not.
    home = str(run_folder.parent)
    assert home in (run_folder / "results.json").read_text() and home in (run_folder / "recipe.yaml").read_text()
    assert_public(student | mask, [huggingface_hub.get_token(), home])
    sent = b"".join(request.body for request in hub.requests)
    assert not any(text in sent for text in (home.encode(), b"training_args", b"optimizer"))
    assert "--teacher teacher " in json.loads(student["results.json"])["command"]

    table, digits = datasets.load_dataset("me/first-mask", split="train"), load_image_data("digits").train
    assert table.features["label"].names == digits.features["label"].names
    assert table["value"][:] == KnowledgeMask.from_pretrained(run_folder / "mask").value.tolist()
    results = json.loads((run_folder / "results.json").read_text())
    assert f"{results['cost']['paid']:.2%}" in cards[1]
    assert f"{results['accuracy']['last']['top1']:.2f} % top-1" in cards[1]


STRANGER = """
import json, sys
import datasets, timm, torch
from huggingface_hub import constants, get_token, snapshot_download
from PIL import Image
from transformers import AutoImageProcessor, AutoModelForImageClassification, pipeline

found = {"hub": constants.ENDPOINT, "token": get_token()}
image = Image.open(sys.argv[1])
with torch.no_grad():
    model = timm.create_model("hf_hub:me/first", pretrained=True).eval()
    transform = timm.data.create_transform(**timm.data.resolve_model_data_config(model), is_training=False)
    found["timm"] = model(transform(image).unsqueeze(0))[0].tolist()
    model = AutoModelForImageClassification.from_pretrained("me/first").eval()
    pixels = AutoImageProcessor.from_pretrained("me/first")(image, return_tensors="pt")
    found["transformers"] = model(**pixels).logits[0].tolist()
    scores = pipeline("image-classification", model="me/first", top_k=10)(image)
    found["pipeline"] = {row["label"]: row["score"] for row in scores}
    assert "hf_kcd" not in sys.modules

    import hf_kcd
    found["hf_kcd"] = hf_kcd.load_model("hf_hub:me/first").eval()(transform(image).unsqueeze(0))[0].tolist()
    # A network that only hf_kcd registers.
    images = torch.linspace(-1, 1, 3 * 8 * 8).view(1, 3, 8, 8)
    found["teacher"] = [
        timm.create_model("hf_hub:me/teacher", pretrained=True).eval()(images).tolist(),
        AutoModelForImageClassification.from_pretrained("me/teacher").eval()(images).logits.tolist(),
    ]

card = open(snapshot_download("me/first-mask", repo_type="dataset") + "/README.md").read()
names = {}
exec(card.partition("```python\\n")[2].partition("```")[0], names)
found["selected"] = len(names["condensed"])
table = datasets.load_dataset("me/first-mask", split="train")
found["kept"] = [row["point"] for row in table if row["kept"]]
print(json.dumps(found))
"""


def test_a_stranger_goes_on_from_student_and_mask(hub, run_folder, run_fresh, tmp_path):
    command("push", run_folder, "me/first")
    command("push", run_folder.parent / "teacher", "me/teacher")
    image = load_image_data("digits").eval[0]["image"].convert("RGB")
    image.save(tmp_path / "image.png")
    done = run_fresh(STRANGER, str(tmp_path / "image.png"))
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout.splitlines()[-1])
    assert (found["hub"], found["token"]) == (hub.endpoint, None)

    # By hand: the weights of the run, and the pixels with the mean and deviation of the digits.
    model = timm.create_model("test_resnet", num_classes=10)
    model.load_state_dict(load_file(run_folder / "model.safetensors"))
    pixels = (np.asarray(image, dtype=np.float64) / 255 - 0.3053) / 0.376
    with torch.no_grad():
        logits = model.eval().double()(torch.from_numpy(pixels.transpose(2, 0, 1))[None])[0].numpy()
        images = torch.linspace(-1, 1, 3 * 8 * 8).view(1, 3, 8, 8)
        teacher = load_model(run_folder.parent / "teacher").eval()(images)
    for way in ("timm", "transformers", "hf_kcd"):
        assert found[way] == pytest.approx(logits, abs=2e-5), way
    shares = np.exp(logits - logits.max()) / np.exp(logits - logits.max()).sum()
    assert found["pipeline"] == pytest.approx(dict(zip("0123456789", shares, strict=True)), abs=1e-5)
    for way in found["teacher"]:
        torch.testing.assert_close(torch.tensor(way), teacher)

    mask = KnowledgeMask.from_pretrained(run_folder / "mask")
    assert found["selected"] == len(mask.kept) == 60 and found["kept"] == sorted(mask.kept.tolist())


def test_a_published_mask_and_its_soft_labels_replace_the_teacher(hub, run_folder, tmp_path, capsys, monkeypatch):
    command("push", run_folder, "me/first", "--with_soft_labels", "--views", 2, "--top_k", 3, "--bits", 16)
    words = ["--data", "digits", "--train_points", "120", "--student", "test_resnet", "--mask", "me/first-mask"]
    assert " ".join(words[:6]) in hub.files("me/first-mask", "dataset")["README.md"].decode()
    words = ["distill", *words, "--soft_labels", "true", "--num_train_epochs", 1, "--no_plots", "--output_dir"]
    command(*words, tmp_path / "soft")
    assert "from the soft labels of cifar_resnet8" in capsys.readouterr().out
    results = json.loads((tmp_path / "soft" / "results.json").read_text())
    stored = results["soft_labels"]
    assert stored == SoftLabels.from_pretrained("me/first-mask").description()
    assert results["teacher"] == "cifar_resnet8"
    assert (results["cost"]["points"], stored["num_views"], stored["top_k"]) == (60, 2, 3)
    assert np.isfinite(results["history"]["loss"]).all() and load_model(str(tmp_path / "soft")).num_classes == 10
    # A student that trained on a published mask links it.
    command("push", tmp_path / "soft", "me/second")
    assert ("dataset", "me/second-mask") not in hub.repositories
    assert b"me/first-mask" in hub.files("me/second")["README.md"]
    assert yaml.safe_load(hub.files("me/second")["recipe.yaml"])["mask"] == "me/first-mask"

    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "empty"))
    capsys.readouterr()
    with pytest.raises(SystemExit, match="2"):
        command(*words, tmp_path / "other")
    error = capsys.readouterr().err
    assert error.startswith("hf-kcd: error: ") and error.count("\n") == 1 and not (tmp_path / "other").exists()


def test_dry_run_writes_what_would_go_up_and_sends_nothing(hub, run_folder, tmp_path, capsys, refused, monkeypatch):
    monkeypatch.delenv("HF_TOKEN")
    words = ["--dry_run", tmp_path / "out", "--mask_repo", "me/points", "--with_soft_labels", "--views", 3]
    command("push", run_folder, "me/first", *words)
    said = capsys.readouterr().out
    assert "nothing was uploaded" in said and "→ me/points (data set, public unless" in said and not hub.requests
    # 60 x (8 + 3 x (10 + 2 x 4)) bytes, announced before the teacher answers.
    assert "3 views of 60 points, all 10 classes, 8 bits: 3.7 kB" in said.splitlines()[0]
    assert "180 images" in said.splitlines()[0]
    student, mask = tmp_path / "out" / "student", tmp_path / "out" / "mask"
    assert file_names(student) == STUDENT_FILES and file_names(mask) == MASK_FILES | SOFT_LABEL_FILES
    # A local folder loads like the repository.
    table = datasets.load_dataset(str(mask))
    assert list(table) == ["train"] and len(table["train"]) == 120
    assert KnowledgeMask.from_pretrained(mask).num_points == 120 and SoftLabels.from_pretrained(mask).num_views == 3
    before = sorted((tmp_path / "out").rglob("*"))
    assert "not empty" in refused("push", run_folder, "me/first", "--dry_run", tmp_path / "out")
    assert sorted((tmp_path / "out").rglob("*")) == before


def test_one_of_the_two_goes_alone(hub, run_folder, capsys):
    command("push", run_folder, "me/first", "--student_only", "--private")
    assert set(hub.repositories) == {("model", "me/first")} and hub.repository("me/first").private
    command("push", run_folder / "mask", "me/points", "--mask_only", "--revision", "v1")
    alone = {name for name in MASK_FILES if "plots" not in name} | {"plots/values.png"}
    assert set(hub.files("me/points", "dataset", "v1")) == alone and hub.files("me/points", "dataset") == {}
    assert KnowledgeMask.from_pretrained("me/points", revision="v1").num_points == 120
    command("push", run_folder / "stages" / "stage-01", "me/points", "--mask_only")
    assert KnowledgeMask.from_pretrained("me/points").stage == 1


def test_the_teacher_is_linked_and_the_recipe_trains_again_without_folders_or_accounts(hub, run_folder, tmp_path):
    folder = tmp_path / "run"
    shutil.copytree(run_folder, folder)
    written = yaml.safe_load((folder / "recipe.yaml").read_text())
    account = {"push_to_hub": True, "hub_model_id": "me/first"}
    (folder / "recipe.yaml").write_text(yaml.safe_dump({**written, **account, "teacher": "hf_hub:you/teacher@v1"}))
    for words, teacher in (([], "you/teacher@v1"), (["--teacher_repo", "them/theirs"], "them/theirs")):
        command("push", folder, "me/first", *words)
        for repo_id, kind in (("me/first", "model"), ("me/first-mask", "dataset")):
            link = f"https://huggingface.co/{teacher.partition('@')[0]})"
            assert link in hub.files(repo_id, kind)["README.md"].decode()
        published = yaml.safe_load(hub.files("me/first")["recipe.yaml"])
        assert published == written | {"teacher": f"hf_hub:{teacher}"}


def test_a_local_mask_that_is_gone_is_no_repository(hub, run_folder, tmp_path):
    mask = {"--mask": run_folder / "mask", "--mask_mixing": "false", "--method": "ce", "--num_train_epochs": 1}
    command("distill", *TINY, "--no_plots", *chain(*mask.items()), "--output_dir", tmp_path / "run")
    recipe = yaml.safe_load((tmp_path / "run" / "recipe.yaml").read_text())
    (tmp_path / "run" / "recipe.yaml").write_text(yaml.safe_dump({**recipe, "mask": "/home/me/gone/mask"}))
    command("push", tmp_path / "run", "me/second")
    card = hub.files("me/second")["README.md"].decode()
    assert "Trained on a mask" in card and "/datasets/" not in card
    assert yaml.safe_load(hub.files("me/second")["recipe.yaml"])["mask"] == "mask"


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["nowhere", "me/first"], "nowhere is not a folder"),
        (["{run}/plots", "me/first"], "results.json does not exist"),
        (["{run}/plots", "me/first", "--mask_only"], "has no mask: leave --mask_only out"),
        (["{run}/mask", "me/first"], "add --mask_only"),
        (["{run}", "first"], "give user/name"),
        (["{run}", "me/fir/st"], "cannot exist"),
        (["{run}", "me/first", "--mask_only", "--mask_repo", "me/x"], "leave --mask_repo out"),
        (["{run}", "me/first", "--student_only", "--with_soft_labels"], "leave it or --with_soft_labels out"),
        (["{run}", "me/first", "--student_only", "--mask_repo", "me/x"], "leave it or --mask_repo out"),
        (["{run}/plots", "me/first", "--mask_repo", "me/x"], "has no mask: leave --mask_repo out"),
        (["{run}", "me/first", "--views", "2"], "views is given, but no soft labels are made"),
        (["{run}", "me/first", "--top_k", "3"], "top_k is given, but no soft labels are made"),
        (["{run}", "me/first", "--bits", "16"], "bits is given, but no soft labels are made"),
        (["{run}", "me/first", "--with_soft_labels", "--bits", "4"], "bits is 4"),
        (["{run}", "me/first", "--with_soft_labels", "--views", "0"], "num_views is 0"),
        (["{run}/mask", "me/first", "--mask_only", "--with_soft_labels"], "recipe.yaml"),
        (["{run}", "you/first"], "may not be written to"),
        (["{run}", "me/first", "--with_soft_labels"], "hf auth login"),
    ],
)
def test_a_push_that_cannot_work_is_one_line_and_leaves_nothing(hub, run_folder, words, said, refused, monkeypatch):
    if "login" in said:
        monkeypatch.delenv("HF_TOKEN")
    assert said in refused("push", *(word.format(run=run_folder) for word in words))
    assert not hub.repositories


def test_a_push_that_breaks_off_says_what_is_up_and_the_same_command_goes_on(hub, run_folder, refused, waits):
    hub.fail("POST /api/datasets/.*/commit/", "status", 100, status=500)
    said = refused("push", run_folder, "me/first", code=1)
    assert "me/first is uploaded" in said and "me/first-mask is unchanged" in said
    assert set(hub.files("me/first")) == STUDENT_FILES and hub.files("me/first-mask", "dataset") == {}
    hub.mend()
    commits = hub.commits("me/first")
    command("push", run_folder, "me/first")
    assert set(hub.files("me/first-mask", "dataset")) == MASK_FILES
    assert hub.commits("me/first") == commits


def test_data_of_the_hub_is_linked_and_loaded_from_there(run_folder, tmp_path):
    shutil.copytree(run_folder, tmp_path / "run")
    results = json.loads((run_folder / "results.json").read_text())
    mask = KnowledgeMask.from_pretrained(run_folder / "mask")
    for data, split, repository in (("cifar100", None, "uoft-cs/cifar100"), ("you/birds", "all", "you/birds")):
        recipe = {"data": data, "train_split": split, "data_dir": "/home/someone/data", "student": "test_resnet"}
        (tmp_path / "run" / "recipe.yaml").write_text(yaml.safe_dump(recipe))
        (tmp_path / "run" / "results.json").write_text(json.dumps({**results, "data": data}))
        mask.write_repository(tmp_path / "out", repo_id="me/x", run_folder=tmp_path / "run")
        card = DatasetCard.load(tmp_path / "out" / "README.md")
        assert card.data.source_datasets == [repository]
        assert f"[{data}](https://huggingface.co/datasets/{repository})" in card.text
        assert f'load_dataset("{repository}", split="{split or "train"}")' in card.text
        assert "mask.select(data)" in card.text and "someone" not in card.text
        assert f"hf-kcd distill --data {data}" in card.text and ("--train_split all" in card.text) == bool(split)


def test_a_run_is_not_shown_beside_the_mask_of_another(run_folder, tmp_path):
    mask = KnowledgeMask.from_pretrained(run_folder / "mask")
    other = replace(mask, provenance={**mask.provenance, "seed": 9})
    with pytest.raises(ValueError, match="its seed is 3, the mask's is 9"):
        other.write_repository(tmp_path / "out", repo_id="me/x", run_folder=run_folder)
    with pytest.raises(ValueError, match="it condensed nothing, or other data"):
        mask.write_repository(tmp_path / "out", repo_id="me/x", run_folder=run_folder.parent / "teacher")


@pytest.mark.parametrize(
    "place", ["model.safetensors", "results.json", "recipe.yaml", "plots/curves.png", "plots", "mask"]
)
def test_a_link_in_a_strangers_run_is_not_followed(hub, run_folder, tmp_path, refused, place):
    run = tmp_path / "run"
    shutil.copytree(run_folder, run)
    (run / place).rename(tmp_path / "private")
    (run / place).symlink_to(tmp_path / "private")
    assert "is a link, which is not followed" in refused("push", run, "me/first", "--dry_run", tmp_path / "out")
    assert not (tmp_path / "out").exists() and not hub.repositories
    # The folder itself may lie behind a link of one's own.
    (run / place).unlink()
    (tmp_path / "private").rename(run / place)
    (tmp_path / "alias").symlink_to(run)
    command("push", tmp_path / "alias", "me/first", "--dry_run", tmp_path / "out", "--no_pictures")
    files = file_names(tmp_path / "out" / "student") | file_names(tmp_path / "out" / "mask")
    # Only the histogram of the mask's own values is left.
    assert {name for name in files if name.endswith(".png")} == {"plots/values.png"}


def test_pictures_stay_here_and_public_is_said_before(hub, run_folder, tmp_path, capsys):
    command("push", run_folder, "me/first", "--no_pictures")
    said = capsys.readouterr().out
    assert said.index("public unless your account's default is private") < said.index("Uploading")
    assert "png" not in "".join(hub.files("me/first"))
    assert "](plots/" not in hub.files("me/first")["README.md"].decode()
