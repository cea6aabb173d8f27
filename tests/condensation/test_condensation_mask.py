"""The knowledge mask: what it refuses, what its files survive, and what a user does with it."""

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import datasets
import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from hf_kcd.condensation import CondensationSchedule, KnowledgeMask, rank_points, summarize_knowledge
from hf_kcd.identity import DatasetIdentity

NUM_POINTS = 30
REPOSITORY = Path(__file__).parents[2]
TENSORS = ("kept", "partner", "perturbation", "value", "frequency")


def image_data(num_points: int = NUM_POINTS, seed: int = 0) -> datasets.Dataset:
    generator = np.random.default_rng(seed)
    images = generator.integers(0, 256, (num_points, 4, 4, 3), dtype=np.uint8)
    features = datasets.Features(
        {"image": datasets.Image(), "label": datasets.ClassLabel(names=["cat", "dog", "owl"])}
    )
    labels = generator.integers(0, 3, num_points).tolist()
    return datasets.Dataset.from_dict({"image": list(images), "label": labels}, features=features)


@pytest.fixture(scope="module")
def dataset() -> datasets.Dataset:
    return image_data()


@pytest.fixture(scope="module")
def identity(dataset) -> DatasetIdentity:
    return DatasetIdentity.of(dataset)


def make_mask(identity: DatasetIdentity, seed: int = 0, history: bool = False) -> KnowledgeMask:
    values = torch.from_numpy(np.random.default_rng(seed).exponential(size=NUM_POINTS))
    order = rank_points(values)
    summary = summarize_knowledge(order, 21)
    entries = [(order[15:18], order[18:21], torch.tensor([0.0, 0.1, 0.2]))] * 2 + [
        (order[:0], order[:0], torch.zeros(0))
    ]
    return KnowledgeMask(
        kept=summary.kept,
        partner=summary.partner,
        perturbation=summary.perturbation,
        value=values,
        frequency=torch.arange(NUM_POINTS),
        stage=6,
        schedule={"num_points": NUM_POINTS, "num_epochs": 240, "final_ratio": 0.7, "shape": "exponential"},
        dataset=identity,
        provenance={
            "student": "resnet8x4",
            "seed": 3,
            "versions": {"torch": "2"},
            "command": ["a", "b"],
            "note": None,
        },
        mixing_history=entries if history else [],
    )


@pytest.fixture
def mask(identity) -> KnowledgeMask:
    return make_mask(identity)


@pytest.fixture
def saved(mask, tmp_path) -> Path:
    mask.save_pretrained(tmp_path / "mask")
    return tmp_path / "mask"


def assert_equal(first: KnowledgeMask, second: KnowledgeMask) -> None:
    for name in TENSORS:
        one, other = getattr(first, name), getattr(second, name)
        assert one.dtype == other.dtype, name
        assert torch.equal(one, other), name
    assert (first.stage, first.schedule, first.dataset, first.provenance) == (
        second.stage,
        second.schedule,
        second.dataset,
        second.provenance,
    )
    assert len(first.mixing_history) == len(second.mixing_history)
    for entry, other in zip(first.mixing_history, second.mixing_history, strict=True):
        assert all(map(torch.equal, entry, other))


# What a user does with it.


@pytest.mark.parametrize("history", [False, True])
def test_a_mask_comes_back_as_it_was(identity, tmp_path, history):
    mask = make_mask(identity, history=history)
    mask.save_pretrained(tmp_path / "some" / "folder")
    assert sorted(os.listdir(tmp_path / "some" / "folder")) == ["mask.safetensors", "mask_config.json"]
    assert_equal(KnowledgeMask.from_pretrained(tmp_path / "some" / "folder"), mask)
    assert_equal(KnowledgeMask.from_pretrained(str(tmp_path / "some" / "folder")), mask)


def test_ten_stages_of_mixing_come_back_in_order(identity, tmp_path):
    mask = make_mask(identity)
    entries = [(torch.tensor([stage]), torch.tensor([29]), torch.tensor([0.5])) for stage in range(12)]
    replace(mask, mixing_history=entries).save_pretrained(tmp_path)
    loaded = KnowledgeMask.from_pretrained(tmp_path)
    assert [entry[0].item() for entry in loaded.mixing_history] == list(range(12))


def test_the_schedule_that_made_it_can_be_built_again(identity, tmp_path):
    from dataclasses import asdict

    schedule = CondensationSchedule(NUM_POINTS, 12, 2, 0.7, batch_size=8)
    replace(make_mask(identity), schedule=asdict(schedule)).save_pretrained(tmp_path)
    assert CondensationSchedule(**KnowledgeMask.from_pretrained(tmp_path).schedule) == schedule


def test_equal_masks_give_equal_bytes(identity, tmp_path):
    for name in ("first", "second"):
        make_mask(identity, history=True).save_pretrained(tmp_path / name)
    for file in os.listdir(tmp_path / "first"):
        assert (tmp_path / "first" / file).read_bytes() == (tmp_path / "second" / file).read_bytes()


def test_saving_again_replaces_the_mask_and_nothing_else(identity, saved):
    (saved / "README.md").write_text("mine")
    other = make_mask(identity, seed=1)
    other.save_pretrained(saved)
    assert_equal(KnowledgeMask.from_pretrained(saved), other)
    assert sorted(os.listdir(saved)) == ["README.md", "mask.safetensors", "mask_config.json"]


def test_select_takes_the_kept_points_in_their_order(mask, dataset):
    selected = mask.select(dataset)
    kept = sorted(mask.kept.tolist())
    assert len(selected) == 21
    assert selected["label"][:] == [dataset[point]["label"] for point in kept]
    assert (np.asarray(selected[3]["image"]) == np.asarray(dataset[kept[3]]["image"])).all()


def test_other_data_is_refused(mask, dataset, identity):
    mask.check(dataset)
    mask.check(identity)
    with pytest.raises(ValueError, match="20 points instead of 30"):
        mask.select(dataset.select(range(20)))
    with pytest.raises(ValueError, match="another order"):
        mask.select(dataset.shuffle(seed=1))
    with pytest.raises(ValueError, match="images differ"):
        mask.select(image_data(seed=0).map(lambda row: {"image": row["image"].rotate(90)}))
    with pytest.raises(ValueError, match="classes differ"):
        mask.check(replace(identity, class_names=("cat", "dog", "eel")))


def test_hamming_distance_counts_differing_labels(identity):
    first, second = make_mask(identity, 0), make_mask(identity, 1)
    one, other = set(first.kept.tolist()), set(second.kept.tolist())
    assert len(one ^ other) > 0
    assert first.hamming_distance(second) == second.hamming_distance(first) == len(one ^ other)
    assert first.hamming_distance(first) == 0
    with pytest.raises(ValueError, match="not about this data set"):
        first.hamming_distance(replace(second, dataset=replace(identity, labels="other")))


def test_kept_mask_is_the_value_label(mask):
    kept = set(mask.kept.tolist())
    assert mask.kept_mask.tolist() == [point in kept for point in range(NUM_POINTS)]
    assert mask.num_points == NUM_POINTS


def test_repr_is_one_short_line(mask):
    assert repr(mask) == "KnowledgeMask(21 of 30 points kept, 9 with a partner, stage 6)"


def test_a_mask_does_not_follow_the_training_it_came_from(identity):
    value = torch.ones(NUM_POINTS, dtype=torch.float64)
    mask = replace(make_mask(identity), value=value)
    value.zero_()
    assert mask.value.sum() == NUM_POINTS
    with pytest.raises(AttributeError):
        mask.stage = 7


# What it refuses.


def with_entry(name: str, position: int, entry: float):
    def change(mask: KnowledgeMask) -> dict:
        tensor = getattr(mask, name).clone()
        tensor[position] = entry
        return {name: tensor}

    return change


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda mask: {"kept": mask.kept.int()}, "kept is .*int32 instead of .*int64"),
        (lambda mask: {"kept": mask.kept[:, None]}, "kept is"),
        (lambda mask: {"kept": mask.kept.tolist()}, "kept holds a list"),
        (lambda mask: {"kept": mask.kept[:0], "partner": mask.kept[:0]}, "kept is empty"),
        (lambda mask: {"partner": mask.partner[1:]}, "partner is"),
        (lambda mask: {"perturbation": mask.perturbation.double()}, "perturbation is"),
        (lambda mask: {"value": mask.value[1:]}, "value is"),
        (lambda mask: {"value": mask.value.float()}, "value is"),
        (lambda mask: {"frequency": mask.frequency.double()}, "frequency is"),
        (with_entry("kept", 2, 30), "kept is no id of 30 points at position 2"),
        (with_entry("kept", 2, -1), "kept is no id"),
        (lambda mask: {"kept": torch.cat([mask.kept[:-1], mask.kept[:1]])}, "kept holds point .* more than once"),
        (with_entry("partner", -1, 30), "partner is neither"),
        (with_entry("partner", -1, -2), "partner is neither"),
        (lambda mask: {"partner": mask.kept.clone()}, "partner is the point itself"),
        (with_entry("perturbation", -1, 1.1), "perturbation is no share"),
        (with_entry("perturbation", -1, -0.1), "perturbation is no share"),
        (with_entry("perturbation", -1, float("nan")), "perturbation is no share"),
        (with_entry("perturbation", 0, 0.1), "above 0 without a partner"),
        (with_entry("value", 4, float("nan")), "value is not finite at position 4"),
        (with_entry("value", 4, float("inf")), "value is not finite"),
        (with_entry("frequency", 4, -1), "frequency is negative"),
        (lambda mask: {"stage": -1}, "stage is -1"),
        (lambda mask: {"stage": 1.5}, "stage is 1.5"),
        (lambda mask: {"schedule": {"sizes": (1, 2)}}, "schedule is no plain JSON"),
        (lambda mask: {"schedule": None}, "schedule is no plain JSON"),
        (lambda mask: {"provenance": {1: "a"}}, "provenance is no plain JSON"),
        (lambda mask: {"provenance": {"loss": float("nan")}}, "provenance is no plain JSON"),
        (lambda mask: {"provenance": {"path": Path("x")}}, "provenance is no plain JSON"),
        (lambda mask: {"mixing_history": [(mask.kept[:1], mask.kept[1:2])]}, "mixing_history.0. has 2 parts"),
        (lambda mask: {"mixing_history": [(mask.kept[:1], mask.kept[:1], torch.zeros(1))]}, "the point itself"),
        (lambda mask: {"mixing_history": [(mask.kept[:1], mask.kept[:1] * 0 - 1, torch.zeros(1))]}, "is missing"),
        (lambda mask: {"mixing_history": [(mask.kept[:1], mask.kept[1:2], torch.ones(1) * 2)]}, "is no share"),
    ],
)
def test_parts_that_do_not_fit_are_named(mask, change, message):
    with pytest.raises(ValueError, match=message):
        replace(mask, **change(mask))


# What its files survive.


def test_a_folder_without_a_mask_says_what_is_missing(saved, tmp_path):
    (saved / "mask_config.json").unlink()
    with pytest.raises(FileNotFoundError, match=r"mask_config.json missing"):
        KnowledgeMask.from_pretrained(saved)
    (tmp_path / "empty").mkdir()
    with pytest.raises(FileNotFoundError, match=r"mask_config.json and mask.safetensors missing"):
        KnowledgeMask.from_pretrained(tmp_path / "empty")
    with pytest.raises(FileNotFoundError, match="is a file"):
        KnowledgeMask.from_pretrained(saved / "mask.safetensors")


@pytest.mark.parametrize("share", [0.0, 0.1, 0.5, 0.99])
@pytest.mark.parametrize("file", ["mask.safetensors", "mask_config.json"])
def test_truncated_files_are_refused(saved, file, share):
    content = (saved / file).read_bytes()
    (saved / file).write_bytes(content[: int(share * len(content))])
    with pytest.raises(ValueError, match=file):
        KnowledgeMask.from_pretrained(saved)


def test_every_flipped_byte_is_noticed(saved):
    content = (saved / "mask.safetensors").read_bytes()
    for position in range(0, len(content), 11):
        flipped = bytearray(content)
        flipped[position] ^= 0x10
        (saved / "mask.safetensors").write_bytes(flipped)
        with pytest.raises(ValueError, match=r"mask.safetensors"):
            KnowledgeMask.from_pretrained(saved)


def test_tensors_of_another_mask_are_noticed(identity, saved, tmp_path):
    make_mask(identity, seed=1).save_pretrained(tmp_path / "other")
    (tmp_path / "other" / "mask.safetensors").replace(saved / "mask.safetensors")
    with pytest.raises(ValueError, match="damaged, or of another mask"):
        KnowledgeMask.from_pretrained(saved)


def rewrite(folder: Path, tensors: dict | None = None, **changes) -> None:
    """Write a mask as another program might: consistent checksum, other content."""
    import hashlib

    if tensors is not None:
        save_file(tensors, folder / "mask.safetensors")
    config = json.loads((folder / "mask_config.json").read_text())
    config["sha256"] = hashlib.sha256((folder / "mask.safetensors").read_bytes()).hexdigest()
    config.update(changes)
    (folder / "mask_config.json").write_text(
        json.dumps({key: value for key, value in config.items() if value != "gone"})
    )


def test_foreign_tensors_are_refused(saved):
    rewrite(saved, {"weight": torch.zeros(3)})
    with pytest.raises(ValueError, match=r"holds the tensors \['weight'\] instead of"):
        KnowledgeMask.from_pretrained(saved)


def test_tensors_of_a_wrong_type_are_refused(saved):
    tensors = load_file(saved / "mask.safetensors")
    rewrite(saved, {**tensors, "kept": tensors["kept"].float()})
    with pytest.raises(ValueError, match=r"kept is .* torch.float32"):
        KnowledgeMask.from_pretrained(saved)


def test_incomplete_mixing_history_is_refused(identity, tmp_path):
    make_mask(identity, history=True).save_pretrained(tmp_path)
    tensors = load_file(tmp_path / "mask.safetensors")
    del tensors["mixing.0.partner"]
    rewrite(tmp_path, tensors)
    with pytest.raises(ValueError, match=r"mixing.0.partner"):
        KnowledgeMask.from_pretrained(tmp_path)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"type": "resnet"}, "does not describe a knowledge mask"),
        ({"type": "gone"}, "does not describe a knowledge mask"),
        ({"format_version": 2, "library_version": "9.1"}, "written by hf_kcd 9.1.*Upgrade hf_kcd"),
        ({"format_version": "1"}, "format version '1'"),
        ({"stage": "gone"}, "missing stage"),
        ({"stage": "six"}, "stage is 'six'"),
        ({"dataset": {"num_points": 30}}, "class_names"),
        ({"dataset": None}, "no valid knowledge mask"),
        ({"schedule": []}, "schedule is no plain JSON"),
    ],
)
def test_configs_of_another_kind_are_refused(saved, changes, message):
    rewrite(saved, **changes)
    with pytest.raises(ValueError, match=message):
        KnowledgeMask.from_pretrained(saved)


def test_a_config_that_is_no_object_is_refused(saved):
    (saved / "mask_config.json").write_text("[1, 2]")
    with pytest.raises(ValueError, match="does not describe a knowledge mask"):
        KnowledgeMask.from_pretrained(saved)


def test_a_folder_that_cannot_be_written_is_named(mask, tmp_path):
    (tmp_path / "file").write_text("a file where a folder is expected")
    with pytest.raises(OSError, match=r"Cannot write .*file"):
        mask.save_pretrained(tmp_path / "file")
    assert (tmp_path / "file").read_text() == "a file where a folder is expected"


FULL_DISK = """
import resource, signal, sys, torch
from dataclasses import replace
from hf_kcd.condensation import KnowledgeMask

mask = KnowledgeMask.from_pretrained(sys.argv[1])
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (500, 500))
for folder in sys.argv[1:]:
    try:
        replace(mask, stage=1).save_pretrained(folder)
    except OSError as error:
        print(error)
"""


@pytest.mark.skipif(sys.platform == "win32", reason="needs RLIMIT_FSIZE")
def test_a_full_disk_leaves_the_old_mask_and_nothing_half_written(mask, saved, tmp_path):
    # A limit on the size of a file stands for the full disk: the same write fails half-way.
    result = subprocess.run(
        [sys.executable, "-c", FULL_DISK, str(saved), str(tmp_path / "new")],
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
    )
    lines = result.stdout.splitlines()
    assert [line.startswith("Cannot write") for line in lines] == [True, True], result.stderr
    assert_equal(KnowledgeMask.from_pretrained(saved), mask)
    assert sorted(os.listdir(saved)) == ["mask.safetensors", "mask_config.json"]
    assert os.listdir(tmp_path / "new") == []


OFFLINE = """
import sys
from hf_kcd.condensation import KnowledgeMask

print(KnowledgeMask.from_pretrained("me/my-mask"))
for name, revision in (("me/other", None), ("me/my-mask", "v2"), ("no/such/folder", None)):
    try:
        KnowledgeMask.from_pretrained(name, revision=revision)
    except FileNotFoundError as error:
        print(error)
"""


def test_without_a_network_a_fetched_mask_loads_and_a_missing_one_is_one_clear_line(saved, tmp_path):
    repository = tmp_path / "cache" / "datasets--me--my-mask"
    (repository / "refs").mkdir(parents=True)
    (repository / "refs" / "main").write_text("0" * 40)
    (repository / "snapshots").mkdir()
    saved.rename(repository / "snapshots" / ("0" * 40))
    # Port 9 of this machine answers nobody.
    environment = {**os.environ, "HF_HUB_CACHE": str(tmp_path / "cache"), "HF_ENDPOINT": "http://127.0.0.1:9"}
    for offline in ("0", "1"):
        result = subprocess.run(
            [sys.executable, "-c", OFFLINE],
            cwd=REPOSITORY,
            capture_output=True,
            text=True,
            env={**environment, "HF_HUB_OFFLINE": offline},
        )
        lines = result.stdout.splitlines()
        assert len(lines) == 4, result.stdout + result.stderr
        assert lines[0] == "KnowledgeMask(21 of 30 points kept, 9 with a partner, stage 6)"
        assert lines[1].startswith("me/other is no folder here")
        assert "revision 'v2'" in lines[2]
        assert lines[3] == "no/such/folder is neither a folder nor a repository id such as 'me/my-mask'."
