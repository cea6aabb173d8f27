"""Files are whole or absent: a reader sees the old file or the new one, never a part."""

import os

import pytest
import torch

from hf_kcd.artifacts.files import atomic_file, atomic_folder, load_tensors, read_json, save_tensors, write_json


def write_folder(path, value):
    with atomic_folder(path) as folder:
        write_json(folder / "value.json", value)


WRITERS = {
    "json": (write_json, read_json),
    "tensors": (
        lambda path, value: save_tensors(path, {"x": torch.tensor(value)}),
        lambda path: load_tensors(path)[0]["x"].item(),
    ),
}


@pytest.mark.parametrize("kind", WRITERS)
def test_a_file_is_replaced_not_rewritten(tmp_path, kind):
    write, read = WRITERS[kind]
    path, held = tmp_path / "file", tmp_path / "held"
    write(path, 1)
    # A second name of the old file, as a reader that has it open: bytes copied over the old file would change it.
    os.link(path, held)
    write(path, 2)
    assert (read(path), read(held)) == (2, 1)
    assert sorted(tmp_path.iterdir()) == [path, held]


def test_a_folder_is_replaced_whole(tmp_path):
    folder = tmp_path / "folder"
    write_folder(folder, 1)
    (folder / "stale.json").write_text("{}", encoding="utf-8")
    descriptor = os.open(folder, os.O_RDONLY)
    write_folder(folder, 2)
    assert [path.name for path in folder.iterdir()] == ["value.json"] and read_json(folder / "value.json") == 2
    assert os.fstat(descriptor).st_ino != folder.stat().st_ino
    os.close(descriptor)
    assert list(tmp_path.iterdir()) == [folder]


def test_a_write_that_fails_leaves_the_old_file_and_nothing_else(tmp_path):
    path = tmp_path / "file.json"
    write_json(path, {"old": 1})
    with pytest.raises(ValueError, match="JSON"):
        write_json(path, float("nan"))
    with pytest.raises(RuntimeError, match="in the middle"), atomic_file(path) as temporary:
        temporary.write_text("half", encoding="utf-8")
        raise RuntimeError("in the middle")
    folder = tmp_path / "folder"
    write_folder(folder, 1)
    with pytest.raises(RuntimeError, match="in the middle"), atomic_folder(folder) as temporary:
        (temporary / "value.json").write_text("half", encoding="utf-8")
        raise RuntimeError("in the middle")
    assert read_json(path) == {"old": 1} and read_json(folder / "value.json") == 1
    assert sorted(tmp_path.iterdir()) == [path, folder]
