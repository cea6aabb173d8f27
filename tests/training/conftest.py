"""Whole condensed runs, each trained once and read by many tests."""

import logging
from dataclasses import replace
from types import SimpleNamespace

import pytest
from tiny_runs import PAPER, RELEASED, Watch, dropout_network, run_training

RUNS = {
    "paper": {"kcd": PAPER, "method": "spy", "lr_decay_epochs": [2, 4]},
    "released": {"kcd": RELEASED, "method": "spy"},
    "random": {"kcd": replace(PAPER, value="random"), "method": "spy"},
    "cross_entropy": {"kcd": replace(PAPER, value="cross_entropy"), "method": "spy"},
    "kd_divergence": {"kcd": replace(PAPER, value="kd_divergence"), "method": "spy"},
    "dropout": {"kcd": PAPER},
}


@pytest.fixture(scope="session")
def finished(tmp_path_factory):
    """Return a finished run of `RUNS`: its trainer, its folder, and the `Watch` that saw it. Tests only read them."""
    runs = {}

    def run(name: str) -> SimpleNamespace:
        if name not in runs:
            folder, watch = tmp_path_factory.mktemp(name), Watch()
            model = dropout_network() if name == "dropout" else None
            trainer = run_training(folder, callbacks=[watch], model=model, **RUNS[name])
            runs[name] = SimpleNamespace(trainer=trainer, folder=folder, watch=watch)
        return runs[name]

    return run


@pytest.fixture
def capture_log(caplog):
    """What the package logs, which transformers' loggers keep from pytest."""
    logger = logging.getLogger("hf_kcd")
    logger.addHandler(caplog.handler)
    yield caplog
    logger.removeHandler(caplog.handler)
