"""`hf-kcd methods`: one row per method, figures that follow from its definition, and a measured step."""

import json

import pytest

from hf_kcd.cli.main import main


def lines_of(capsys, *words: object) -> list[str]:
    main(["methods", *map(str, words)])
    return capsys.readouterr().out.splitlines()


def test_a_row_says_what_a_method_reads_and_trains(capsys, tmp_path):
    words = ["kd", "crd", "--num_points", 1000, "--json", tmp_path / "methods.json"]
    header, _, kd, crd, *_ = lines_of(capsys, *words)
    assert header.split()[:2] == ["method", "paper"]
    assert kd.startswith("kd ") and "Hinton et al., 2015" in kd
    assert "logits, embedding" in crd
    figures = {one["name"]: one for one in json.loads((tmp_path / "methods.json").read_text())["methods"]}
    assert figures["kd"]["num_parameters"] == figures["kd"]["memory_bytes"] == 0
    # Two linear layers from 64 to 128 channels with bias, and two memories of 128 float32 a point.
    assert figures["crd"]["num_parameters"] == 2 * (64 * 128 + 128)
    assert 2 * 1000 * 128 * 4 <= figures["crd"]["memory_bytes"] < 2 * 1000 * 128 * 4 + 20_000


def test_measuring_puts_each_beside_kd(capsys, tmp_path):
    words = ["ce", "--measure", "--batch_size", 4, "--rounds", 1, "--steps", 2, "--json", tmp_path / "methods.json"]
    lines = lines_of(capsys, *words)
    milliseconds = json.loads((tmp_path / "methods.json").read_text())["milliseconds"]
    # kd is measured though not listed.
    assert milliseconds.keys() == {"kd", "ce"} and min(milliseconds.values()) > 0
    assert lines[2].split()[-1] == f"{milliseconds['ce'] / milliseconds['kd']:.2f}"
    assert not any(line.startswith("kd ") for line in lines)


def test_an_unknown_method_is_named_with_the_nearest(capsys):
    with pytest.raises(SystemExit):
        main(["methods", "crdd"])
    assert "crdd" in (said := capsys.readouterr().err) and "crd" in said.replace("crdd", "")
