"""Comparing published runs: their curves and figures side by side, by their ids alone."""

import copy
from pathlib import Path

import pytest
from hub.local_hub import LocalHub

from hf_kcd.artifacts.files import read_json, write_json
from hf_kcd.cli.main import main

RUNS = Path(__file__).parents[2] / "model_cards" / "cifar100" / "short_resnet20_resnet8"


@pytest.fixture
def published(hub: LocalHub) -> LocalHub:
    for name in ("kd", "kckd"):
        hub.put(f"me/{name}", {"results.json": (RUNS / name / "results.json").read_bytes()})
    return hub


def test_published_runs_and_own_ones_stand_in_one_table(published, tmp_path, capsys):
    main(["plot", "me/kd", "me/kckd", str(RUNS / "random"), "--output", str(tmp_path / "all.png")])
    printed = capsys.readouterr().out
    for name in ("kd", "kckd", "random"):
        assert f"{read_json(RUNS / name / 'results.json')['accuracy']['last']['top1']:.2f}" in printed
    assert (tmp_path / "all.png").read_bytes().startswith(b"\x89PNG")


def test_one_published_run_is_drawn(published, tmp_path, capsys):
    main(["plot", "me/kckd", "--output", str(tmp_path / "one.png")])
    assert (tmp_path / "one.png").is_file()


def refused(words, capsys) -> str:
    with pytest.raises(SystemExit) as stop:
        main(words)
    assert stop.value.code == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1 and "Traceback" not in error
    return error


def test_what_is_no_run_is_one_line(published, tmp_path, capsys):
    assert "runs/nowhere is not a folder here, and as a Hub id: The model repository 'runs/nowhere' does not exist" in (
        refused(["plot", "runs/nowhere", "me/kd"], capsys)
    )
    published.put("me/other", {"config.json": b"{}"})
    assert "'me/other' has no results.json" in refused(["plot", "me/other", "me/kd"], capsys)
    results = read_json(RUNS / "kd" / "results.json")
    damage = [("accuracy", [1]), ("history", {"epoch": "x"}), ("cost", None), ("method", 3), ("student", "\x1b[31m")]
    damage += [("history", {name: [] for name in results["history"]}), ("cost", {**results["cost"], "paid": 10**400})]
    for name, change in damage:
        damaged = {**copy.deepcopy(results), name: change}
        write_json(tmp_path / "results.json", damaged)
        published.put("me/damaged", {"results.json": (tmp_path / "results.json").read_bytes()})
        assert "results.json" in refused(["plot", "me/damaged", "me/kd"], capsys)
