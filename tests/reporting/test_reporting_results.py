"""What a run says about itself: accuracy, cost, seconds and history of a real training on a few digits."""

import json
import math
import platform

import numpy as np
import pytest
import timm
import torch

from hf_kcd import DistillationConfig, DistillationTrainer, KCDConfig, KCDTrainerCallback, KnowledgeDataset
from hf_kcd.data import load_image_data
from hf_kcd.reporting import group_results, read_results, run_label, write_results, write_run_plots
from hf_kcd.training.results import run_results

NUM_POINTS, NUM_EVALUATED = 128, 64
# floor(128 * 0.7^(selections * 2 / 4)) after the selections that Algorithm 1 makes after epochs 0 and 2.
KEPT = [128, math.floor(128 * 0.7**0.5), math.floor(128 * 0.7**0.5), math.floor(128 * 0.7)]
SETTINGS = {"num_train_epochs": 4, "per_device_train_batch_size": 32, "logging_steps": 1, "eval_strategy": "epoch"}
SETTINGS |= {"save_strategy": "no", "report_to": "none", "disable_tqdm": True, "use_cpu": True, "seed": 5}


def make_trainer(folder, mask=None, condense=True, method="kd", **arguments):
    data = load_image_data("digits")
    torch.manual_seed(0)
    args = DistillationConfig(str(folder), method=method, **SETTINGS, **arguments)
    return DistillationTrainer(
        timm.create_model("cifar_resnet8", num_classes=10),
        None if method == "ce" else timm.create_model("cifar_resnet8", num_classes=10),
        args,
        train_dataset=KnowledgeDataset(data.train.select(range(NUM_POINTS)), data.preprocessing),
        eval_dataset=KnowledgeDataset(data.eval.select(range(NUM_EVALUATED)), data.preprocessing, training=False),
        callbacks=[KCDTrainerCallback(KCDConfig(epochs_per_stage=2))] if condense else None,
        mask=mask,
    )


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("secret_folder")
    trainer = make_trainer(folder, learning_rate=0.02, method_options={"ce_weight": 1, "temperature": 2.0})
    trainer.train()
    return trainer, run_results(trainer, data="digits", command="hf-kcd distill"), folder


def test_accuracy_is_that_of_the_student(run):
    trainer, results, _ = run
    evaluation = trainer.eval_dataset.__getitems__(range(NUM_EVALUATED))
    with torch.no_grad():
        logits = trainer.student.eval()(evaluation["pixel_values"]).double().numpy()
    ranked = np.argsort(-logits, axis=1)
    hits = ranked == evaluation["labels"].numpy()[:, None]
    last = results["accuracy"]["last"]
    top1, top5 = 100 * hits[:, 0].mean(), 100 * hits[:, :5].any(1).mean()
    assert last == pytest.approx({"top1": top1, "top5": top5, "epoch": 4})
    assert results["accuracy"]["best"]["top1"] == max(results["history"]["top1"]) > min(results["history"]["top1"])
    assert results["history"]["top1"][-1] == last["top1"]


def test_cost_and_seconds_count_every_point_that_was_drawn(run):
    _, results, _ = run
    assert results["history"]["num_kept"] == KEPT and results["cost"]["points"] == sum(KEPT)
    assert results["cost"]["planned"] == results["cost"]["paid"] == pytest.approx(sum(KEPT) / (4 * NUM_POINTS))
    stages = results["seconds"]["per_stage"]
    found = [(stage["stage"], stage["epochs"], stage["num_kept"]) for stage in stages]
    assert found == [(0, 1, KEPT[0]), (1, 2, KEPT[1]), (2, 1, KEPT[3])]
    assert all(stage["seconds"] > 0 for stage in stages)
    assert sum(stage["seconds"] for stage in stages) == pytest.approx(results["seconds"]["training"])


def test_history_averages_the_log_within_each_epoch(run):
    trainer, results, _ = run
    losses = [line["loss"] for line in trainer.state.log_history if "loss" in line]
    # Batches of 32: 4 of 128 points, 4 of 107, 3 of 89.
    assert len(losses) == 4 + 4 + 4 + 3
    history = results["history"]
    np.testing.assert_allclose(history["loss"], [np.mean(losses[start : start + 4]) for start in (0, 4, 8, 12)])
    np.testing.assert_allclose(np.add(history["loss_ce"], history["loss_kd"]), history["loss"], rtol=1e-3)
    assert history["epoch"] == [1, 2, 3, 4] and history["stage"] == [0, 1, 1, 2]


def test_what_made_the_run_is_stated_without_paths_and_survives_its_file(run, tmp_path):
    trainer, results, folder = run
    assert (results["student"], results["teacher"], results["method"]) == ("cifar_resnet8", "cifar_resnet8", "kd")
    # Options that were left at their defaults are stated too: a default may change.
    assert results["method_options"] == {"ce_weight": 1, "kd_weight": 0.9, "temperature": 2.0}
    assert (results["mask"], results["seed"], results["command"]) == (None, 5, "hf-kcd distill")
    assert results["condensation"]["epochs_per_stage"] == 2
    assert results["optimisation"] == {
        **{"optimiser": "sgd", "learning_rate": 0.02, "momentum": 0.9, "nesterov": False, "weight_decay": 5e-4},
        **{"lr_schedule": "multistep", "lr_decay_epochs": [2.5, 3.0, 3.5], "lr_decay_rate": 0.1, "warmup_epochs": 0.0},
        **{"max_grad_norm": 0.0, "batch_size": 32, "precision": "fp32"},
    }
    assert results["versions"]["torch"] == torch.__version__.partition("+")[0]
    assert results["num_parameters"] == sum(int(np.prod(p.shape)) for p in trainer.student.parameters())
    text = json.dumps(results)
    assert not any(secret in text for secret in (folder.name, str(folder.parent), f'"{platform.node() or None}"'))
    write_results(tmp_path / "results.json", results)
    assert read_results(tmp_path / "results.json") == results


def test_a_real_run_is_drawn_whole(run, tmp_path):
    trainer, results, _ = run
    paths = write_run_plots(tmp_path, results, [trainer.knowledge_mask], trainer.train_dataset)
    # One mask alone has no change of ranks.
    assert [path.stem for path in paths] == ["curves", "stages", "values", "most_valuable", "least_valuable"]
    assert all(path.parent == tmp_path / "plots" and path.stat().st_size > 5000 for path in paths)


def test_a_mask_run_pays_for_its_points_alone(run, tmp_path):
    trainer, _, _ = run
    again = make_trainer(tmp_path, mask=trainer.knowledge_mask, condense=False)
    again.train()
    results = run_results(again, data="digits")
    assert results["cost"]["planned"] == results["cost"]["paid"] == pytest.approx(KEPT[3] / NUM_POINTS)
    assert results["history"]["num_kept"] == [KEPT[3]] * 4
    assert [(stage["stage"], stage["epochs"]) for stage in results["seconds"]["per_stage"]] == [(0, 4)]
    mask = results["mask"]
    assert results["condensation"] is None and mask["provenance"]["student"] == "cifar_resnet8"
    assert (mask["num_kept"], mask["num_mixed"]) == (KEPT[3], NUM_POINTS - KEPT[3])
    assert run_label(results) == "KD on a mask, resnet8 → resnet8"


def test_a_run_that_stopped_early_states_what_it_did(tmp_path):
    trainer = make_trainer(tmp_path, condense=False, method="ce", max_steps=6)
    with pytest.raises(RuntimeError, match=r"train\(\) first"):
        run_results(trainer, data="digits")
    trainer.train()
    results = run_results(trainer, data="digits")
    cost = {name: results["cost"][name] for name in ("planned", "points", "paid")}
    assert cost == pytest.approx({"planned": 1.0, "points": 6 * 32, "paid": 6 * 32 / (4 * NUM_POINTS)})
    assert results["teacher"] is None and results["history"]["epoch"] == [1, 2]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ('{"a": 1}', "no results of a run"),
        ("[1, 2]", "no results of a run"),
        ('{"type": "hf_kcd.Results", "format_version": 7}', "Upgrade hf_kcd"),
        ('{"type": "hf_kcd.Results", "format_version": 1, "seed": 1}', "missing accuracy"),
        ('{"type": "hf_kcd.Res', "not a JSON file"),
    ],
)
def test_a_foreign_or_missing_file_is_named_and_nan_never_written(tmp_path, make_results, content, message):
    path = tmp_path / "results.json"
    with pytest.raises(ValueError):
        write_results(path, make_results(seconds=float("nan")))
    assert not list(tmp_path.iterdir())
    with pytest.raises(FileNotFoundError, match=r"results\.json does not exist"):
        read_results(path)
    path.write_text(content)
    with pytest.raises(ValueError, match=message) as caught:
        read_results(path)
    assert str(path) in str(caught.value)


def test_labels_are_the_papers_names(make_results):
    for changes, name in (
        ({}, "KC-KD"),
        ({"condensation": None}, "KD"),
        ({"condensation": {"value": "random"}}, "KD, random selection"),
        ({"condensation": {"value": "entropy", "cumulative_mixing": True}}, "KC-KD (released code)"),
        ({"condensation": None, "mask": {"num_kept": 9, "num_mixed": 5}}, "KD on a mask"),
        ({"condensation": None, "mask": {"num_kept": 9, "num_mixed": 0}}, "KD on a mask, unmixed"),
    ):
        assert run_label(make_results(**changes)) == f"{name}, resnet20 → resnet8"
    assert run_label(make_results(condensation=None, method="ce", teacher=None)) == "CE, resnet8"
    soft_labels = {"num_views": 4, "top_k": 5, "bits": 8}
    taught = make_results(condensation=None, soft_labels=soft_labels)
    assert run_label(taught) == "KD, soft labels (4 views, top 5, 8 bits), resnet20 → resnet8"


def test_runs_are_grouped_over_seeds_and_never_over_settings(make_results):
    first, second = make_results(seed=0), make_results(seed=1, seconds=9.0)
    other = make_results(seed=0, condensation={"value": "entropy", "final_ratio": 0.5})
    plain = make_results(condensation=None)
    groups = group_results([first, plain, other, second])
    assert groups == {
        "KC-KD, resnet20 → resnet8": [first, second],
        "KD, resnet20 → resnet8": [plain],
        "KC-KD, resnet20 → resnet8 #2": [other],
    }
    # Whatever a user sets makes another experiment, whatever happens to a run does not.
    settings = {"num_epochs": 9, "optimisation": {"learning_rate": 0.1}, "method_options": {"temperature": 2.0}}
    settings |= {"mask": {"num_mixed": 3}, "soft_labels": {"num_views": 2, "top_k": 0, "bits": 8}}
    settings |= dict.fromkeys(("student", "teacher", "data"), "b")
    for name, value in settings.items():
        assert len(group_results([first, {**second, name: value}])) == 2, name
    for name, value in {"machine": {"cpu": "other"}, "command": "again", "versions": {"torch": "2.9"}}.items():
        assert len(group_results([first, {**second, name: value}])) == 1, name
