"""Soft labels: what is stored comes back within the stated error, belongs to the pixels shown, and nothing damaged is read."""

import dataclasses
import hashlib
import json
import re
import struct

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.special import softmax
from torch.utils.data import DataLoader

from hf_kcd.artifacts.files import load_tensors, save_tensors
from hf_kcd.data import KnowledgeDataset, Preprocessing, SoftLabels, collate
from hf_kcd.data.packing import pack_logits

PREPARED = Preprocessing((0.5,) * 3, (0.25,) * 3, 12, "crop_flip", padding=2)
KEPT, PARTNER, SHARE = [3, 5, 8, 20, 21, 39], [-1, 0, -1, -1, 1, 2], [0.0, 0.1, 0.0, 0.0, 0.2, 0.3]
NUM_VIEWS = 3


def random_logits(rows: int, num_classes: int, seed: int = 0) -> np.ndarray:
    """Rows of very different spread and place, one of them constant."""
    generator = np.random.default_rng(seed)
    spread = 10.0 ** generator.uniform(-3, 2, (rows, 1))
    logits = generator.normal(size=(rows, num_classes)) * spread + generator.normal(size=(rows, 1)) * 20
    logits[0] = 1.5
    return logits.astype(np.float32)


def make(dataset: KnowledgeDataset, num_views: int = NUM_VIEWS, top_k: int = 0, bits: int = 8, seed: int = 0):
    """Soft labels of random logits for a data set, and these logits [K, V, C]."""
    shape = (len(dataset), num_views, dataset.num_classes)
    logits = random_logits(shape[0] * shape[1], shape[2], seed)
    packed = pack_logits(torch.from_numpy(logits), top_k, bits, 4.0)
    soft_labels = SoftLabels(
        points=dataset.selected,
        **{name: None if rows is None else rows.unflatten(0, shape[:2]) for name, rows in packed.items()},
        temperature=4.0,
        seed=11,
        images=dataclasses.asdict(dataset.preprocessing),
        selection=dataset.selection_digest(),
        teacher="cifar_resnet20",
        dataset=dataset.identity,
    )
    return soft_labels, logits.reshape(shape)


@pytest.fixture
def source(make_dataset, pixels):
    return make_dataset(list(pixels), num_classes=7)


@pytest.fixture
def knowledge(source):
    dataset = KnowledgeDataset(source, PREPARED, seed=5)
    dataset.select(KEPT, PARTNER, SHARE)
    return dataset


@pytest.mark.parametrize(("bits", "levels"), [(8, 510), (16, 131_070)])
def test_logits_come_back_within_the_stated_error_and_the_rest_keeps_its_probability(knowledge, bits, levels):
    for top_k in (0, 1, 3, 6):
        soft_labels, logits = make(knowledge, top_k=top_k, bits=bits)
        assert soft_labels.bits == bits and soft_labels.top_k == top_k
        for view in range(NUM_VIEWS):
            found = soft_labels.logits(torch.tensor(KEPT), view)
            assert found.dtype == torch.float32
            for number, (own, row) in enumerate(zip(found.numpy(), logits[:, view].astype(np.float64), strict=True)):
                if top_k and number == view == 0:
                    continue  # This row is constant: any of its classes is among the first.
                first = np.argsort(-row)[: top_k or 7]
                bound = (row[first].max() - row[first].min()) / levels + 2**-21 * np.abs(row).max()
                assert (np.abs(own[first] - row[first]) <= bound).all()
                # The teacher's first class stays the first, or one within the error.
                assert row.max() - row[own.argmax()] <= 2 * bound
                if top_k:
                    others = np.setdiff1d(np.arange(7), first)
                    assert len(set(own[others].tolist())) == 1
                    share = pytest.approx(softmax(row / 4)[others].sum(), rel=2e-4, abs=1e-12)
                    assert softmax(own.astype(np.float64) / 4)[others].sum() == share


@pytest.mark.parametrize(
    ("num_classes", "top_k", "bits"),
    [(5, 0, 8), (5, 0, 16), (5, 2, 8), (5, 5, 16), (300, 0, 16), (300, 2, 8), (300, 300, 8)],
)
def test_the_size_is_known_before_they_are_made(tmp_path, make_dataset, pixels, num_classes, bits, top_k):
    dataset = KnowledgeDataset(make_dataset(list(pixels), num_classes=num_classes), PREPARED)
    soft_labels, _ = make(dataset, 2, top_k, bits)
    soft_labels.save_pretrained(tmp_path)
    content = (tmp_path / "soft_labels.safetensors").read_bytes()
    size = len(content) - 8 - struct.unpack("<Q", content[:8])[0]
    assert SoftLabels.num_bytes(40, 2, num_classes, top_k, bits) == size == soft_labels.description()["bytes"]
    # All classes in 8 bits, unless told otherwise.
    assert SoftLabels.num_bytes(40, 2, num_classes) == SoftLabels.num_bytes(40, 2, num_classes, 0, 8)


def test_numbers_that_cannot_be_are_refused():
    for values, message in (
        ((0, 7, 0, 8), "num_views is 0"),
        ((1, 7, -1, 8), "top_k is -1"),
        ((2, 5, 300, 8), "top_k is 300: give 1 to 5 classes"),
        ((1, 7, 0, 4), "bits is 4"),
    ):
        with pytest.raises(ValueError, match=message):
            SoftLabels.num_bytes(10, *values)


@pytest.mark.parametrize(("top_k", "bits"), [(0, 8), (0, 16), (3, 8)])
def test_saving_and_loading_changes_nothing(tmp_path, knowledge, top_k, bits):
    soft_labels, _ = make(knowledge, top_k=top_k, bits=bits)
    soft_labels.save_pretrained(tmp_path / "one")
    loaded = SoftLabels.from_pretrained(tmp_path / "one")
    for before, after in ((vars(soft_labels)[name], value) for name, value in vars(loaded).items()):
        if isinstance(before, torch.Tensor):
            assert before.dtype == after.dtype and torch.equal(before, after)
        else:  # JSON has no tuples.
            assert before == after or json.dumps(before) == json.dumps(after)
    loaded.save_pretrained(tmp_path / "two")
    assert {path.name for path in (tmp_path / "one").iterdir()} == {"soft_labels.json", "soft_labels.safetensors"}
    for path in (tmp_path / "one").iterdir():
        assert path.read_bytes() == (tmp_path / "two" / path.name).read_bytes()
    stored = "the first 3" if top_k else "all"
    assert repr(loaded).startswith(f"SoftLabels(6 points, 3 views, {stored} of 7 classes in {bits} bits")


def test_rows_are_found_by_point_and_view(knowledge):
    soft_labels, logits = make(knowledge, bits=16)
    ids, views = torch.tensor([39, 3, 8, 3]), torch.tensor([2, 0, 1, 1])
    expected = logits[[5, 0, 2, 0], views.numpy()]
    np.testing.assert_allclose(soft_labels.logits(ids, views).numpy(), expected, atol=0.01)
    # A point without soft labels teaches nothing wrong: NaN stops the training with the point's id.
    found = soft_labels.logits(torch.tensor([3, 4, 0, 40]), 0)
    assert found[0].isfinite().all() and found[1:].isnan().all()


@pytest.mark.parametrize(
    ("kind", "workers"),
    [("crop", 0), ("crop", 2), ("any_size", 0), ("any_size_in_workers", 0), ("any_size_in_workers", 2)],
)
def test_an_epoch_shows_the_view_that_its_logits_belong_to(make_dataset, pixels, many_sizes, kind, workers):
    source = make_dataset(many_sizes if kind == "any_size_in_workers" else list(pixels), num_classes=7)
    preparation, kept, partner = PREPARED, KEPT, PARTNER
    if kind != "crop":
        preparation = Preprocessing((0.5,) * 3, (0.25,) * 3, 8, "resized_crop_flip")
        kept, partner = [0, 2, 3, 7, 9, 11], [-1, 1, -1, -1, 5, 6]
    plain, taught = (KnowledgeDataset(source, preparation, seed=seed) for seed in (11, 5))
    for dataset in (plain, taught):
        dataset.select(kept, partner, SHARE)
    assert taught.in_memory == (kind != "any_size_in_workers")
    soft_labels, logits = make(taught, bits=16)
    taught.use_soft_labels(soft_labels)
    loader = DataLoader(taught, 4, collate_fn=collate, num_workers=workers, persistent_workers=workers > 0)
    shown = []
    for epoch in range(2 * NUM_VIEWS + 1):
        taught.set_epoch(epoch)
        plain.set_epoch(epoch % NUM_VIEWS)
        batches = list(loader)
        images = torch.cat([batch["pixel_values"] for batch in batches])
        assert torch.equal(images, plain.__getitems__(range(6))["pixel_values"])
        stored = torch.cat([batch["teacher_logits"] for batch in batches]).numpy()
        np.testing.assert_allclose(stored, logits[:, epoch % NUM_VIEWS], atol=0.01)
        shown.append(images)
    assert torch.equal(shown[0], shown[NUM_VIEWS]) and not torch.equal(shown[0], shown[1])

    taught.use_soft_labels(None)
    taught.set_epoch(1)
    batch = taught.__getitems__(range(6))
    assert "teacher_logits" not in batch and not torch.equal(batch["pixel_values"], shown[1])


def test_another_data_set_preparation_or_selection_is_refused(source, knowledge, make_dataset, pixels):
    soft_labels, _ = make(knowledge)

    def refused(message, dataset):
        with pytest.raises(ValueError, match=message) as caught:
            dataset.use_soft_labels(soft_labels)
        assert dataset.soft_labels is None and "\n" not in str(caught.value)

    for changes in ({"padding": 1}, {"augmentation": "crop"}, {"resize": 24}):
        other = KnowledgeDataset(source, dataclasses.replace(PREPARED, **changes))
        other.select(KEPT, PARTNER, SHARE)
        refused(f"{next(iter(changes))} is .* there and {next(iter(changes.values()))!r} here", other)
    shifted = KnowledgeDataset(make_dataset(list(pixels[::-1].copy()), num_classes=7), PREPARED)
    refused("not about this data set: its images differ", shifted)

    plain = KnowledgeDataset(source, PREPARED)
    refused("of another selection: theirs has 6 points", plain)
    for kept, partner, share in (
        (KEPT, None, None),
        (KEPT, [-1, 0, -1, -1, 1, 4], SHARE),
        (KEPT, PARTNER, [*SHARE[:-1], 0.2]),
        ([*KEPT[:-1], 38], PARTNER, SHARE),
    ):
        plain.select(kept, partner, share)
        refused("mixed as it was", plain)
    plain.select(KEPT[::-1], PARTNER[::-1], SHARE[::-1])
    plain.use_soft_labels(soft_labels)
    plain.use_soft_labels(None)
    digests = []
    for share in (0.3, 0.2, 0.3):
        plain.blend([3], [7], [share])
        refused("of another selection", plain)
        digests.append(plain.selection_digest())
        plain.restore_images()
    assert digests[0] == digests[2] != digests[1]
    plain.use_soft_labels(soft_labels)

    # Mean and deviation are the student's: the pixels that the teacher answered are the same.
    normalized = KnowledgeDataset(source, dataclasses.replace(PREPARED, mean=(0.4,) * 3, std=(0.2,) * 3))
    normalized.select(KEPT, PARTNER, SHARE)
    normalized.use_soft_labels(soft_labels)


def one_line(folder) -> str:
    """The error of loading a folder."""
    with pytest.raises((ValueError, FileNotFoundError)) as caught:
        SoftLabels.from_pretrained(folder)
    assert len(str(caught.value).splitlines()) == 1
    return str(caught.value)


def test_files_that_are_missing_or_cut_short_are_refused(tmp_path, knowledge):
    assert "holds no soft labels: soft_labels.json and soft_labels.safetensors missing" in one_line(tmp_path)
    make(knowledge)[0].save_pretrained(tmp_path)
    tensors, config = tmp_path / "soft_labels.safetensors", tmp_path / "soft_labels.json"
    whole, description = tensors.read_bytes(), config.read_bytes()
    for content in (b"", whole[:100], whole + bytes(2**17), whole[:-1], whole[:-1] + bytes([whole[-1] ^ 1])):
        tensors.write_bytes(content)
        assert "is not the file that soft_labels.json describes" in one_line(tmp_path)
    tensors.write_bytes(whole)
    for content, message in ((description[:50], "is not a JSON file"), (b"[]", "describes no soft labels")):
        config.write_bytes(content)
        assert message in one_line(tmp_path)
    for change, message in (
        ({"format_version": 2}, "Upgrade hf_kcd"),
        ({"teacher": "\x1b[2Jnet"}, "holds control characters"),
        ({"num_points": 5}, "instead of [up to 5"),
        ({"temperature": 10**400}, "temperature is not a positive number"),
        ({"num_points": 2**70}, "num_points is 1180591620717411303424, but 6 in the tensors"),
    ):
        config.write_text(json.dumps(json.loads(description) | change))
        assert message in one_line(tmp_path)


def changed(name: str, position: tuple, value: float):
    def change(tensors: dict[str, torch.Tensor]) -> None:
        tensors[name][position] = value

    return change


TAMPERED = {
    "low is not finite": (0, changed("low", (0, 0), float("nan"))),
    "high is not finite": (0, changed("high", (1, 1), float("inf"))),
    "high is below low": (0, changed("high", (1, 1), -1e9)),
    "ascending": (0, changed("points", (1,), 3)),
    "holds an id outside 0 to 39": (0, changed("points", (-1,), 40)),
    "classes names one twice": (3, lambda tensors: tensors["classes"][0, 0].fill_(2)),
    "holds a class outside 0 to 6": (3, changed("classes", (2, 1, 0), 7)),
    "rest is not finite": (3, changed("rest", (0, 0), float("nan"))),
    "is not one of its tensors": (3, lambda tensors: tensors.update(more=tensors.pop("rest"))),
    "codes is [6, 3, 7] U8 instead of": (0, lambda tensors: tensors.update(codes=tensors["codes"].view(torch.uint8))),
    "low is [6, 3] I32 instead of": (0, lambda tensors: tensors.update(low=tensors["low"].view(torch.int32))),
}


@pytest.mark.parametrize("message", TAMPERED)
def test_tensors_that_do_not_fit_together_are_refused(tmp_path, knowledge, message):
    top_k, tamper = TAMPERED[message]
    make(knowledge, top_k=top_k)[0].save_pretrained(tmp_path)
    tensors, _ = load_tensors(tmp_path / "soft_labels.safetensors")
    tamper(tensors)
    save_tensors(tmp_path / "soft_labels.safetensors", tensors)
    config = json.loads((tmp_path / "soft_labels.json").read_text())
    config["sha256"] = hashlib.sha256((tmp_path / "soft_labels.safetensors").read_bytes()).hexdigest()
    (tmp_path / "soft_labels.json").write_text(json.dumps(config))
    assert message in one_line(tmp_path)


SAMPLES = st.sampled_from([None, True, False, [], {}, 1e308, 2.5, 0, -1])
VALUES = st.one_of(SAMPLES, st.integers(-3, 2**70), st.text(max_size=3))
# No tensor says what these are: other values of their type and range load, and are what the file says.
FREE = {
    "seed": lambda value: type(value) is int,
    "temperature": lambda value: type(value) in (int, float) and 0 < value < 1e308,
    "teacher": lambda value: type(value) is str and not re.search(r"[^\t\n\r -~\xa0-\U0010ffff]", value),
}


@settings(max_examples=80, deadline=None)
@given(name=st.sampled_from(["sha256", "format_version", "type", *SoftLabels.FACTS, *FREE, *FREE]), value=VALUES)
def test_a_description_with_any_value_changed_is_refused(saved, name, value):
    folder, description = saved
    (folder / "soft_labels.json").write_text(json.dumps({**description, name: value}))
    if name in FREE and FREE[name](value):
        assert getattr(SoftLabels.from_pretrained(folder), name) == value
    elif description[name] != value:
        one_line(folder)


@pytest.fixture(scope="module")
def saved(tmp_path_factory, make_dataset, pixels):
    folder = tmp_path_factory.mktemp("soft_labels")
    make(KnowledgeDataset(make_dataset(list(pixels[:9]), num_classes=7), PREPARED))[0].save_pretrained(folder)
    return folder, json.loads((folder / "soft_labels.json").read_text())
