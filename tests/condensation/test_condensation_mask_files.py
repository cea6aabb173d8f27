"""The files of a mask: what they survive, and what is refused before it is used."""

import json
import os
import resource
import shutil
from pathlib import Path

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from mask_examples import NUM_POINTS, assert_equal, make_mask, rewrite
from safetensors.torch import load_file

from hf_kcd.artifacts.identity import DatasetIdentity
from hf_kcd.condensation import KnowledgeMask

TENSORS, CONFIG = "mask.safetensors", "mask_config.json"


def refused(folder: Path, message: str, error: type[Exception] = ValueError) -> None:
    with pytest.raises(error, match=message):
        KnowledgeMask.from_pretrained(folder)


def test_a_folder_without_a_mask_says_what_is_missing(saved, tmp_path):
    (saved / CONFIG).unlink()
    refused(saved, r"holds no knowledge mask: mask_config.json missing", FileNotFoundError)
    (tmp_path / "empty").mkdir()
    refused(tmp_path / "empty", r"mask_config.json and mask.safetensors missing", FileNotFoundError)
    refused(saved / TENSORS, "is a file", FileNotFoundError)
    with pytest.raises(ValueError, match="folders have no revisions. Leave 'main' out"):
        KnowledgeMask.from_pretrained(saved, revision="main")


@pytest.mark.parametrize("file", [TENSORS, CONFIG])
def test_files_cut_short_flipped_or_swapped_are_refused(identity, saved, tmp_path, file):
    content = (saved / file).read_bytes()
    for share in (0.0, 0.1, 0.5, 0.99):
        (saved / file).write_bytes(content[: int(share * len(content))])
        refused(saved, file)
    if file == TENSORS:
        for position in range(0, len(content), 11):
            flipped = bytearray(content)
            flipped[position] ^= 0x10
            (saved / file).write_bytes(flipped)
            refused(saved, file)
    (saved / file).write_bytes(content)
    make_mask(identity, seed=1).save_pretrained(tmp_path / "other")
    shutil.copy(tmp_path / "other" / TENSORS, saved)
    refused(saved, "mask.safetensors is not the file that mask_config.json describes")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        *(({"type": name}, "describes no knowledge mask") for name in ("resnet", "gone")),
        ({"format_version": 2, "library_version": "9.1"}, "written by hf_kcd 9.1.*Upgrade hf_kcd"),
        ({"format_version": "1"}, "format version '1'"),
        ({"stage": "gone"}, "missing stage"),
        ({"stage": "six"}, "no valid knowledge mask: stage is 'six'"),
        ({"dataset": {"num_points": 30}}, "not an object of num_points, class_names, labels, images"),
        ({"dataset": None}, "no valid knowledge mask"),
        ({"schedule": []}, "schedule is not a plain JSON"),
        ({"provenance": {"loss": float("nan")}}, "provenance is not a plain JSON"),
        ({"sha256": None}, "cut short, damaged, or from elsewhere"),
        ({"num_points": 10**12}, "value is .30. .* instead of .1000000000000."),
        *(({"num_points": number}, "num_points") for number in (2**70, -30, 0, True, 30.0, float("inf"), "30")),
        ({"num_points": 20}, "is .* instead of .up to 20."),
        *(({"class_names": names}, "class_names") for names in ("cat", ["cat", 1], {"cat": 0}, [])),
        ({"class_names": ["cat", "cat"]}, "two classes of one name"),
        *(({"labels": digest}, "labels that are not SHA-256") for digest in ("short", 5)),
        ({"images": "0" * 64 + "\n"}, "images that are not SHA-256"),
        ({"more": 1}, "not an object of"),
    ],
)
def test_descriptions_that_cannot_be_are_refused(saved, identity, changes, message):
    if changes.keys() <= {"num_points", "class_names", "labels", "images", "more"}:
        changes = {"dataset": {**identity.to_dict(), **changes}}
    rewrite(saved, **changes)
    refused(saved, message)


@pytest.mark.parametrize(
    "text",
    [
        *('{"type": ' + "[" * 100_000, '{"type": ' + '{"a":' * 100_000, '{"stage": ' + "9" * 5_000 + "}"),
        *("\ufeff{}", "\x00", "null", "[1, 2]", pytest.param(None, id="a terabyte")),
    ],
    ids=str,
)
def test_json_that_breaks_readers_ends_in_a_value_error(saved, text):
    if text is None:
        os.truncate(saved / CONFIG, 2**40)
    else:
        (saved / CONFIG).write_text(text)
    refused(saved, CONFIG)


@pytest.mark.parametrize("depth", [100, 900, 990, 5_000])
def test_a_provenance_nested_deeply_loads_or_is_a_value_error(saved, depth):
    text = (saved / CONFIG).read_text().replace('"note": null', f'"note": {"[" * depth + "]" * depth}')
    (saved / CONFIG).write_text(text)
    mask = loaded(saved)
    assert mask.num_points == NUM_POINTS if mask else depth > 100


INTEGER = torch.zeros(1, dtype=torch.int64)


@pytest.mark.parametrize(
    ("name", "tensor", "message"),
    [
        ("kept", torch.zeros(21, 1, dtype=torch.int64), "kept is .21, 1. I64"),
        ("kept", torch.arange(31), "kept is .31. I64 instead of .up to 30. torch.int64"),
        ("kept", torch.zeros(21), "kept is .21. F32 instead of .* torch.int64"),
        ("kept", torch.zeros(21, dtype=torch.int64), "kept holds 0 more than once"),
        ("partner", torch.zeros(3, dtype=torch.int64), "partner is .3."),
        ("value", torch.full((30,), torch.nan, dtype=torch.float64), "value holds nan"),
        ("value", torch.zeros(30, dtype=torch.complex64), "value is"),
        ("frequency", torch.full((30,), -1), "frequency holds -1"),
        ("labels", torch.zeros(30, dtype=torch.int32), "labels is .30. I32"),
        ("labels", torch.full((30,), 2), "labels do not match the mask's data set"),
        ("more", torch.zeros(1), "'more' is not one of its tensors"),
        ("../kept", torch.zeros(1), "'../kept' is not"),
        ("mixing.0.weight", torch.zeros(1), "'mixing.0.weight' is not"),
        *((f"mixing.{stage}.point", INTEGER, f"'mixing.{stage}.point' is not") for stage in ("-1", "1", "00")),
        ("mixing.0.point", INTEGER, "It lacks mixing.0.partner"),
        ("mixing.0.point", torch.zeros(31, dtype=torch.int64), "mixing.0.point is .31. I64"),
        *((name, None, f"It lacks {name}") for name in ("kept", "partner", "perturbation", "value", "frequency")),
    ],
)
def test_tensors_that_no_mask_has_are_refused(saved, name, tensor, message):
    tensors = load_file(saved / TENSORS) | {name: tensor}
    rewrite(saved, {key: value for key, value in tensors.items() if value is not None})
    refused(saved, message)


def test_headers_that_lie_and_incomplete_histories_are_refused(identity, saved):
    make_mask(identity, history=True).save_pretrained(saved)
    tensors = load_file(saved / TENSORS)
    del tensors["mixing.0.partner"]
    rewrite(saved, tensors)
    refused(saved, "It lacks mixing.0.partner")
    header = json.dumps({"kept": {"dtype": "I64", "shape": [10**15], "data_offsets": [0, 8 * 10**15]}}).encode()
    (saved / TENSORS).write_bytes(len(header).to_bytes(8, "little") + header)
    rewrite(saved)
    refused(saved, "not a whole safetensors file")


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda children: st.lists(children, max_size=3) | st.dictionaries(st.text(max_size=5), children, max_size=3),
    max_leaves=8,
)
KEYS = ["type", "format_version", "sha256", "stage", "schedule", "dataset", "provenance"]
FUZZ = settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


@pytest.fixture(scope="module")
def fuzzed(identity: DatasetIdentity, tmp_path_factory) -> tuple[Path, bytes, bytes]:
    """The folder of a mask with a history, and what its two files held at first."""
    folder = tmp_path_factory.mktemp("fuzzed")
    make_mask(identity, history=True).save_pretrained(folder)
    return folder, (folder / TENSORS).read_bytes(), (folder / CONFIG).read_bytes()


def loaded(folder: Path) -> KnowledgeMask | None:
    try:
        return KnowledgeMask.from_pretrained(folder)
    except ValueError:
        return None


@FUZZ
@given(key=st.sampled_from([*KEYS, "num_points", "class_names", "labels", "images"]), value=JSON)
def test_any_json_in_the_config_loads_or_is_a_value_error(identity, fuzzed, key, value):
    folder, tensors, config = fuzzed
    (folder / TENSORS).write_bytes(tensors)
    (folder / CONFIG).write_bytes(config)
    rewrite(folder, **({key: value} if key in KEYS else {"dataset": {**identity.to_dict(), key: value}}))
    mask = loaded(folder)
    assert mask is None or (mask.num_points == NUM_POINTS and mask.kept_mask.sum() == 21)


@FUZZ
@given(data=st.data())
def test_any_bytes_in_the_tensors_load_or_are_a_value_error(fuzzed, data):
    folder, tensors, config = fuzzed
    content = bytearray(tensors)
    for _ in range(data.draw(st.integers(1, 4))):
        start = data.draw(st.integers(0, len(content) - 1))
        content[start : start + data.draw(st.integers(0, 9))] = data.draw(st.binary(max_size=9))
    (folder / TENSORS).write_bytes(content)
    (folder / CONFIG).write_bytes(config)
    rewrite(folder)
    mask = loaded(folder)
    # What was let in can be used.
    assert mask is None or (len(mask.to_table()) == NUM_POINTS and bool(mask.value.isfinite().all()))


def test_a_disk_that_cannot_be_written_leaves_the_old_mask_and_nothing_half_written(mask, saved, tmp_path):
    (tmp_path / "file").write_text("a file where a folder is expected")
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    for folder in (tmp_path / "file", saved, tmp_path / "new"):
        # A limit on the size of a file acts as a full disk: the same write fails half-way.
        resource.setrlimit(resource.RLIMIT_FSIZE, (500, hard))
        try:
            with pytest.raises(OSError, match=f"Cannot write {folder}"):
                make_mask(mask.dataset, seed=1).save_pretrained(folder)
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert (tmp_path / "file").read_text() == "a file where a folder is expected"
    assert_equal(KnowledgeMask.from_pretrained(saved), mask)
    assert sorted(os.listdir(saved)) == [TENSORS, CONFIG]
    assert os.listdir(tmp_path / "new") == []
