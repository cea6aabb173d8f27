"""The files of a mask: what they survive, and what of them is refused before it is used."""

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from mask_examples import NUM_POINTS, assert_equal, make_mask, rewrite
from safetensors.torch import load_file

from hf_kcd.condensation import KnowledgeMask

REPOSITORY = Path(__file__).parents[2]


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


def test_foreign_tensors_are_refused(saved):
    rewrite(saved, {"weight": torch.zeros(3)})
    with pytest.raises(ValueError, match="it holds 'weight', which is no tensor of a mask"):
        KnowledgeMask.from_pretrained(saved)


def test_tensors_of_a_wrong_type_are_refused(saved):
    tensors = load_file(saved / "mask.safetensors")
    rewrite(saved, {**tensors, "kept": tensors["kept"].float()})
    with pytest.raises(ValueError, match=r"kept is .21. F32 instead of .* I64"):
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
        ({"dataset": {"num_points": 30}}, "no object of num_points, class_names, labels, images"),
        ({"dataset": None}, "no valid knowledge mask"),
        ({"schedule": []}, "schedule is no plain JSON"),
        ({"provenance": {"loss": float("nan")}}, "provenance is no plain JSON"),
        ({"sha256": None}, "damaged, or of another mask"),
    ],
)
def test_configs_of_another_kind_are_refused(saved, changes, message):
    rewrite(saved, **changes)
    with pytest.raises(ValueError, match=message):
        KnowledgeMask.from_pretrained(saved)


SHA = "0" * 64


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"num_points": 10**12}, "value is .30. .* instead of .1000000000000."),
        ({"num_points": 2**70}, "num_points"),
        ({"num_points": -30}, "num_points"),
        ({"num_points": 0}, "num_points"),
        ({"num_points": True}, "num_points"),
        ({"num_points": 30.0}, "num_points"),
        ({"num_points": float("inf")}, "num_points"),
        ({"num_points": "30"}, "num_points"),
        ({"num_points": 20}, "is .* instead of .up to 20."),
        ({"class_names": "cat"}, "class_names"),
        ({"class_names": ["cat", 1]}, "class_names"),
        ({"class_names": {"cat": 0}}, "class_names"),
        ({"class_names": []}, "class_names"),
        ({"class_names": ["cat", "cat"]}, "two classes of one name"),
        ({"labels": "short"}, "labels that are no SHA-256"),
        ({"labels": 5}, "labels that are no SHA-256"),
        ({"images": SHA + "\n"}, "images that are no SHA-256"),
        ({"more": 1}, "no object of"),
    ],
)
def test_identities_that_cannot_be_are_refused(saved, identity, changes, message):
    rewrite(saved, dataset={**identity.to_dict(), **changes})
    with pytest.raises(ValueError, match=message):
        KnowledgeMask.from_pretrained(saved)


@pytest.mark.parametrize(
    "text",
    [
        '{"type": ' + "[" * 100_000,
        '{"type": ' + '{"a":' * 100_000,
        '{"stage": ' + "9" * 5_000 + "}",
        "\ufeff{}",
        "\x00",
        "null",
    ],
    ids=["nested", "nested objects", "digits", "byte order mark", "binary", "null"],
)
def test_json_that_breaks_readers_ends_in_a_value_error(saved, text):
    (saved / "mask_config.json").write_text(text)
    with pytest.raises(ValueError, match="mask_config.json"):
        KnowledgeMask.from_pretrained(saved)


@pytest.mark.parametrize("depth", [100, 900, 990, 5_000])
def test_a_provenance_nested_deeply_loads_or_is_a_value_error(saved, depth):
    text = (saved / "mask_config.json").read_text().replace('"note": null', f'"note": {"[" * depth + "]" * depth}')
    (saved / "mask_config.json").write_text(text)
    try:
        assert KnowledgeMask.from_pretrained(saved).num_points == NUM_POINTS
    except ValueError as error:
        assert depth > 100, error


def test_a_config_of_many_megabytes_is_refused_unread(saved):
    with (saved / "mask_config.json").open("r+b") as file:
        file.truncate(2**40)
    with pytest.raises(ValueError, match="more than any mask has to say"):
        KnowledgeMask.from_pretrained(saved)


@pytest.mark.parametrize(
    ("name", "tensor", "message"),
    [
        ("kept", torch.zeros(21, 1, dtype=torch.int64), "kept is .21, 1. I64"),
        ("kept", torch.tensor(3), "kept is .. I64"),
        ("kept", torch.arange(31), "kept is .31. I64 instead of .up to 30."),
        ("kept", torch.zeros(21, dtype=torch.int64), "kept holds point 0 more than once"),
        ("kept", torch.arange(20, 41)[:21], "is no id of 30 points"),
        ("partner", torch.zeros(3, dtype=torch.int64), "partner is .3."),
        ("value", torch.full((30,), torch.nan, dtype=torch.float64), "value is not finite"),
        ("value", torch.zeros(30, dtype=torch.complex64), "value is"),
        ("frequency", torch.full((30,), -1), "frequency is negative"),
        ("labels", torch.zeros(30, dtype=torch.int32), "labels is .30. I32"),
        ("labels", torch.full((30,), 2), "labels are not those of the data set"),
        ("labels", torch.full((30,), 7), "labels is no id of 3 classes"),
        ("more", torch.zeros(1), "it holds 'more'"),
        ("../kept", torch.zeros(1), "it holds '../kept'"),
        ("mixing.0.weight", torch.zeros(1), "it holds 'mixing.0.weight'"),
        ("mixing.-1.point", torch.zeros(1), "it holds 'mixing.-1.point'"),
        ("mixing.1.point", torch.zeros(1, dtype=torch.int64), "it lacks mixing.0.point"),
        ("mixing.00.point", torch.zeros(1, dtype=torch.int64), "it lacks mixing.0.point"),
        ("mixing.0.point", torch.zeros(1, dtype=torch.int64), "it lacks mixing.0.partner"),
        ("mixing.0.point", torch.zeros(31, dtype=torch.int64), "mixing.0.point is .31. I64"),
    ],
)
def test_tensors_that_no_mask_has_are_refused(saved, name, tensor, message):
    rewrite(saved, {**load_file(saved / "mask.safetensors"), name: tensor})
    with pytest.raises(ValueError, match=message):
        KnowledgeMask.from_pretrained(saved)


@pytest.mark.parametrize("name", ["kept", "partner", "perturbation", "value", "frequency"])
def test_a_missing_tensor_is_named(saved, name):
    tensors = load_file(saved / "mask.safetensors")
    del tensors[name]
    rewrite(saved, tensors)
    with pytest.raises(ValueError, match=f"it lacks the tensors {name}"):
        KnowledgeMask.from_pretrained(saved)


def test_a_header_that_claims_more_than_the_file_has_is_refused(saved):
    header = json.dumps({"kept": {"dtype": "I64", "shape": [10**15], "data_offsets": [0, 8 * 10**15]}}).encode()
    (saved / "mask.safetensors").write_bytes(len(header).to_bytes(8, "little") + header)
    rewrite(saved)
    with pytest.raises(ValueError, match="not a whole safetensors file"):
        KnowledgeMask.from_pretrained(saved)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda children: st.lists(children, max_size=3) | st.dictionaries(st.text(max_size=5), children, max_size=3),
    max_leaves=8,
)
KEYS = ["type", "format_version", "sha256", "stage", "schedule", "dataset", "provenance"]
FUZZ = settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


@FUZZ
@given(key=st.sampled_from([*KEYS, "num_points", "class_names", "labels", "images"]), value=JSON)
def test_any_json_in_the_config_loads_or_is_a_value_error(identity, key, value):
    with tempfile.TemporaryDirectory() as folder:
        make_mask(identity).save_pretrained(folder)
        own = {key: value} if key in KEYS else {"dataset": {**identity.to_dict(), key: value}}
        rewrite(Path(folder), **own)
        try:
            mask = KnowledgeMask.from_pretrained(folder)
        except ValueError:
            return
        assert mask.num_points == NUM_POINTS and mask.kept_mask.sum() == 21


@FUZZ
@given(data=st.data())
def test_any_bytes_in_the_tensors_load_or_are_a_value_error(identity, data):
    with tempfile.TemporaryDirectory() as folder:
        make_mask(identity, history=True).save_pretrained(folder)
        path = Path(folder) / "mask.safetensors"
        content = bytearray(path.read_bytes())
        for _ in range(data.draw(st.integers(1, 4))):
            start = data.draw(st.integers(0, len(content) - 1))
            content[start : start + data.draw(st.integers(0, 9))] = data.draw(st.binary(max_size=9))
        path.write_bytes(content)
        rewrite(Path(folder))
        try:
            mask = KnowledgeMask.from_pretrained(folder)
        except ValueError:
            return
        # What was let in can be used.
        assert len(mask.to_table()) == NUM_POINTS
        assert bool(mask.value.isfinite().all())


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
