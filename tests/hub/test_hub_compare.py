"""Comparing published runs: their curves and figures side by side, by their ids alone."""

from pathlib import Path

import numpy as np
import pytest
from hub.local_hub import LocalHub
from PIL import Image

from hf_kcd.artifacts.files import read_json, write_json
from hf_kcd.cli.main import main

RUNS = Path(__file__).parents[2] / "model_cards" / "cifar100" / "short_resnet20_resnet8"


@pytest.fixture
def published(hub: LocalHub) -> LocalHub:
    for name in ("kd", "kckd"):
        hub.put(f"me/{name}", {"results.json": (RUNS / name / "results.json").read_bytes()})
    return hub


def test_published_and_own_runs_share_a_table_and_a_plot(published, tmp_path, capsys):
    main(["plot", "me/kd", "me/kckd", str(RUNS / "random"), "--output", str(tmp_path / "all.png")])
    printed = capsys.readouterr().out
    for name in ("kd", "kckd", "random"):
        assert f"{read_json(RUNS / name / 'results.json')['accuracy']['last']['top1']:.2f}" in printed
    main(["plot", "me/kckd", "--output", str(tmp_path / "one.png")])
    images = [np.asarray(Image.open(tmp_path / name).convert("L")) for name in ("all.png", "one.png")]
    for image in images:
        assert min(image.shape) > 300 and 0.01 < (image < 128).mean() < 0.5, "lines and letters on an empty page"
    assert not np.array_equal(*images)


def test_what_is_no_run_is_one_line(published, tmp_path, capsys):
    def refused(run: str) -> str:
        with pytest.raises(SystemExit) as stop:
            main(["plot", run, "me/kd"])
        assert stop.value.code == 2
        error = capsys.readouterr().err
        assert error.count("\n") == 1 and "Traceback" not in error
        return error

    nowhere = "runs/nowhere is not a folder here, and as a Hub id: The model repository 'runs/nowhere' does not exist"
    assert nowhere in refused("runs/nowhere")
    published.put("me/other", {"config.json": b"{}"})
    assert "'me/other' has no results.json" in refused("me/other")
    results = read_json(RUNS / "kd" / "results.json")
    halves, endless = {"last": {"top1": 1, "epoch": 1}, "best": None}, {**results["cost"], "paid": 10**400}
    changes = [("accuracy", [1]), ("accuracy", halves), ("history", {"epoch": "x"}), ("cost", None), ("cost", endless)]
    changes += [("history", {name: [] for name in results["history"]}), ("method", 3), ("student", "\x1b[31m")]
    for name, change in changes:
        write_json(tmp_path / "results.json", {**results, name: change})
        published.put("me/damaged", {"results.json": (tmp_path / "results.json").read_bytes()})
        assert "results.json" in refused("me/damaged")
