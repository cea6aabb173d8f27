"""Metrics and evaluation sets that people bring from transformers' Trainer give the numbers that they give there."""

import json
from dataclasses import replace

import datasets
import numpy as np
import pytest
import torch
from huggingface_hub import ModelCard
from tiny_runs import EVAL, PAPER, RECIPE, assert_same_end, dropout_network, image_set, make_trainer
from transformers import TrainerCallback
from transformers.utils.logging import warning_once

from hf_kcd import KnowledgeDataset
from hf_kcd.reporting import describe_run, plot_curves
from hf_kcd.training.progress import show_progress
from hf_kcd.training.results import run_results

LABELS = np.array(EVAL["label"])
SHORT = {"num_train_epochs": 2, "lr_decay_epochs": [1], "eval_strategy": "epoch"}
OTHER = image_set(30, seed=7)


def accuracy(prediction):
    return {"accuracy": (np.argmax(prediction.predictions, -1) == prediction.label_ids).mean()}


class Counter:
    """Accuracy batch by batch, as `batch_eval_metrics` asks for it."""

    def __init__(self):
        self.right, self.total, self.sizes = 0, 0, []

    def __call__(self, prediction, compute_result):
        self.sizes.append(len(prediction.label_ids))
        self.right += int((prediction.predictions.argmax(-1) == prediction.label_ids).sum())
        self.total += len(prediction.label_ids)
        return {"counted": self.right / self.total} if compute_result else {}


def test_own_metrics_get_logits_and_choose_the_best_weights(tmp_path):
    options = dict.fromkeys(("eval_strategy", "save_strategy"), "epoch")
    options |= {"num_train_epochs": 3, "lr_decay_epochs": [2], "metric_for_best_model": "accuracy"}
    best = {"load_best_model_at_end": True, "compute_metrics": accuracy}
    trainer = make_trainer(tmp_path, None, eval_dataset=EVAL, **options, **best)
    trainer.train()
    lines = [line for line in trainer.state.log_history if "eval_accuracy" in line]
    assert len(lines) == 3
    for line in lines:
        assert 100 * line["eval_accuracy"] == pytest.approx(line["eval_top1"])
    assert trainer.state.best_metric == max(line["eval_accuracy"] for line in lines)
    predictions = trainer.predict(EVAL).predictions
    assert predictions.shape == (len(EVAL), trainer.student.num_classes)
    assert predictions.dtype == np.float32


def test_every_point_is_evaluated_under_drop_last(tmp_path):
    # 40 points in batches of 16: the last batch of 8 counts too.
    trainer = make_trainer(tmp_path, eval_dataset=EVAL, dataloader_drop_last=True, compute_metrics=accuracy)
    metrics, prediction = trainer.evaluate(), trainer.predict(EVAL)
    assert len(prediction.predictions) == len(EVAL) == 40
    hits = prediction.predictions.argmax(-1) == np.array(EVAL["label"])
    assert metrics["eval_accuracy"] == pytest.approx(hits.mean())
    assert trainer.args.dataloader_drop_last


def test_accuracy_is_a_fraction_without_metrics_of_ones_own(tmp_path):
    save = {"save_strategy": "epoch", "load_best_model_at_end": True, "metric_for_best_model": "accuracy"}
    trainer = make_trainer(tmp_path, eval_dataset=EVAL, **SHORT, **save)
    trainer.train()
    output = trainer.predict(EVAL)
    # predict gives logits, as from any Trainer, so that argmax over them is right.
    right = np.mean(np.argmax(output.predictions, -1) == LABELS)
    assert output.metrics["test_accuracy"] == right
    assert output.metrics["test_top1"] == pytest.approx(100 * right)
    assert trainer.evaluate()["eval_accuracy"] == right == trainer.state.best_metric


@pytest.mark.parametrize("name", ["accuracy", "eval_accuracy"])
def test_an_own_metric_of_the_name_wins(tmp_path, name):
    metrics = make_trainer(tmp_path, eval_dataset=EVAL, compute_metrics=lambda _: {name: 0.125}).evaluate()
    assert metrics["eval_accuracy"] == 0.125
    assert metrics["eval_top1"] != 12.5


def test_metrics_set_after_construction_get_logits_too(tmp_path):
    trainer = make_trainer(tmp_path, eval_dataset=EVAL)
    before = trainer.evaluate()
    trainer.compute_metrics = accuracy
    assert trainer.evaluate()["eval_accuracy"] == before["eval_accuracy"]
    assert trainer.compute_metrics is accuracy


@pytest.mark.parametrize("options", [{"batch_eval_metrics": True}, {"eval_do_concat_batches": False}])
def test_metrics_by_batches_equal_those_of_the_whole(tmp_path, options):
    batches = {"eval_dataset": EVAL, "per_device_eval_batch_size": 16}
    whole = make_trainer(tmp_path, **batches).evaluate()
    metrics = make_trainer(tmp_path, **batches, **options).evaluate()
    for name in ("eval_accuracy", "eval_top1", "eval_top5"):
        assert metrics[name] == whole[name]


def test_batch_eval_metrics_calls_own_metrics_for_every_batch(tmp_path):
    options = {"eval_dataset": EVAL, "per_device_eval_batch_size": 16, "batch_eval_metrics": True}
    own = Counter()
    metrics = make_trainer(tmp_path, compute_metrics=own, **options).evaluate()
    assert own.sizes == [16, 16, 8]
    assert metrics["eval_counted"] == metrics["eval_accuracy"]
    with pytest.raises(ValueError, match="give compute_metrics a parameter compute_result"):
        make_trainer(tmp_path / "run", compute_metrics=accuracy, **options)
    assert not (tmp_path / "run").exists()


def test_metrics_may_see_images_and_losses(tmp_path):
    seen = {}

    def own(prediction):
        seen.update(inputs=prediction.inputs, losses=prediction.losses)
        return {}

    options = {"include_for_metrics": ["inputs", "loss"], "per_device_eval_batch_size": 10}
    trainer = make_trainer(tmp_path, eval_dataset=EVAL, compute_metrics=own, **options)
    metrics = trainer.evaluate()
    with torch.no_grad():
        logits = trainer.student(torch.from_numpy(seen["inputs"]))
    assert logits.argmax(1).eq(torch.from_numpy(LABELS)).float().mean() == pytest.approx(metrics["eval_accuracy"])
    assert seen["losses"].mean() == pytest.approx(metrics["eval_loss"])


@pytest.mark.parametrize("own", [None, accuracy])
def test_prediction_loss_only_reports_the_loss_alone(tmp_path, own):
    trainer = make_trainer(tmp_path, eval_dataset=EVAL, prediction_loss_only=True, compute_metrics=own, **SHORT)
    trainer.train()
    assert trainer.predict(EVAL).predictions is None
    names = {name for line in trainer.state.log_history for name in line if name.startswith("eval_")}
    assert "eval_loss" in names and not any("top" in name or "accuracy" in name for name in names)
    assert run_results(trainer, data="noise")["accuracy"] is None


def test_own_predictions_for_own_metrics(tmp_path):
    def share_of_class_0(prediction):
        return {"class_0": float((prediction.predictions == 0).mean())}

    own = {
        "compute_metrics": share_of_class_0,
        "preprocess_logits_for_metrics": lambda logits, labels: logits.argmax(-1),
    }
    trainer = make_trainer(tmp_path, eval_dataset=EVAL, **own, **SHORT)
    # Nothing asks for the top-1 that these predictions cannot give.
    trainer.train()
    metrics = trainer.evaluate()
    assert 0 <= metrics["eval_class_0"] <= 1
    assert "eval_top1" not in metrics
    # Numbers of another length than the classes are no logits.
    own["preprocess_logits_for_metrics"] = lambda logits, labels: torch.cat([logits, logits], 1)
    assert "eval_top1" not in make_trainer(tmp_path, eval_dataset=EVAL, **own).evaluate()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"metric_for_best_model": "acuracy"}, "'acuracy'.*Did you mean 'eval_accuracy'"),
        ({"metric_for_best_model": "eval_a_top1"}, "eval_a_top1"),
        ({"metric_for_best_model": "top1", "prediction_loss_only": True, "save_strategy": "best"}, "Valid: eval_loss"),
        ({"metric_for_best_model": "accuracy", "eval_dataset": {"a": EVAL}}, "eval_a_accuracy"),
        ({"metric_for_best_model": "peer_2_top1", "method": "dml"}, "eval_peer_1_top1"),
    ],
)
def test_an_unknown_best_metric_is_refused_before_training(tmp_path, options, message):
    with pytest.raises(ValueError, match=f"Unknown metric_for_best_model .*{message}"):
        make_trainer(tmp_path / "run", **{"eval_dataset": EVAL, **SHORT, **options})
    assert not (tmp_path / "run").exists()


def test_an_unknown_best_metric_among_own_ones_is_refused_at_the_first_evaluation(tmp_path):
    own = {"compute_metrics": accuracy, "metric_for_best_model": "f1"}
    trainer = make_trainer(tmp_path, eval_dataset=EVAL, **own, **SHORT)
    with pytest.raises(ValueError, match="Unknown metric_for_best_model 'f1'.*eval_accuracy, .*eval_top1"):
        trainer.train()
    assert trainer.state.epoch == 1


def test_several_evaluation_sets_each_have_their_metrics(tmp_path):
    sets = datasets.DatasetDict({"clean": EVAL, "other": OTHER})
    best = {"save_strategy": "epoch", "load_best_model_at_end": True, "metric_for_best_model": "eval_other_top1"}
    trainer = make_trainer(tmp_path, PAPER, eval_dataset=sets, **SHORT, **best)
    trainer.train()
    metrics = trainer.evaluate()
    for name, dataset in sets.items():
        logits = trainer.predict(dataset).predictions
        assert metrics[f"eval_{name}_accuracy"] == np.mean(np.argmax(logits, -1) == np.array(dataset["label"]))
    assert trainer.evaluate("other")["eval_top1"] == metrics["eval_other_top1"]
    results = run_results(trainer, data="noise")
    # Evaluations of the best weights, after the training, are no results of it.
    log = [line for line in trainer.state.log_history if "no_result" not in line]
    clean, chosen = (
        [line[f"eval_{name}_top1"] for line in log if f"eval_{name}_top1" in line] for name in ("clean", "other")
    )
    assert trainer.state.best_metric == max(chosen)
    assert results["evaluation_set"] == "other"
    assert results["history"]["top1"][0] == chosen[0]
    assert results["accuracy"]["last"]["top1"] == results["evaluation_sets"]["other"]["last"]["top1"] == chosen[-1]
    assert results["evaluation_sets"]["clean"]["last"]["top1"] == clean[-1]
    # What people look at says which set it is about.
    assert "on other after the last epoch" in plot_curves(results).axes[0].get_title(loc="left")
    assert "% on other after" in describe_run(results, tmp_path)
    trainer.create_model_card()
    card = ModelCard.load(tmp_path / "README.md")
    assert "| accuracy on `other` |" in card.content
    assert {result.dataset_split for result in card.data.eval_results} == {"other"}
    with pytest.raises(ValueError, match="Unknown evaluation set 'othr'.*'other'"):
        trainer.evaluate("othr")


@pytest.mark.parametrize(
    ("options", "shown"),
    [
        ({"eval_dataset": EVAL}, ["  top-1 {eval_top1:6.2f} %"]),
        ({"eval_dataset": EVAL, "prediction_loss_only": True}, ["  loss {eval_loss:.3f}"]),
        ({"eval_dataset": EVAL, "method": "dml"}, ["  top-1 {eval_top1:6.2f} %"]),
        (
            {"eval_dataset": {"a": EVAL, "b_c": OTHER}},
            ["  top-1 a {eval_a_top1:6.2f} %", "  top-1 b_c {eval_b_c_top1:6.2f} %"],
        ),
    ],
)
def test_the_progress_of_a_run_shows_each_evaluation(tmp_path, capsys, options, shown):
    trainer = make_trainer(tmp_path, disable_tqdm=False, logging_strategy="epoch", **SHORT, **options)
    show_progress(trainer)
    capsys.readouterr()
    trainer.train()
    printed = capsys.readouterr().out
    measured = [line for line in trainer.state.log_history if any(name.startswith("eval_") for name in line)]
    found = {name: value for line in measured if line["epoch"] == 2 for name, value in line.items()}
    for text in shown:
        assert text.format(**found) in printed


def test_evaluation_sets_that_cannot_be_are_refused_by_name(tmp_path):
    for sets, message in (
        ({}, "at least one set"),
        ({1: EVAL}, r"\[1\]"),
        ({"a": [1]}, r"eval_dataset\['a'\]: .*list"),
    ):
        with pytest.raises((TypeError, ValueError), match=message):
            make_trainer(tmp_path / "run", eval_dataset=sets)
    assert not (tmp_path / "run").exists()


def test_an_evaluation_of_another_set_is_no_result_of_the_run(tmp_path):
    trainer = make_trainer(tmp_path, eval_dataset=EVAL, **SHORT)
    trainer.train()
    own = run_results(trainer, data="noise")
    other = trainer.evaluate(OTHER)
    assert other["eval_loss"] != own["history"]["eval_loss"][-1]
    again = run_results(trainer, data="noise")
    assert (again["accuracy"], again["history"]) == (own["accuracy"], own["history"])


def test_an_evaluation_of_the_best_weights_is_no_result_of_the_last_epoch(tmp_path):
    # The first epoch's weights count as the best, and are loaded.
    falling = iter((3, 2, 1))
    options = {"compute_metrics": lambda prediction: {"falling": next(falling)}, "metric_for_best_model": "falling"}
    options |= {"eval_dataset": EVAL, "save_strategy": "epoch", "load_best_model_at_end": True, **SHORT}
    trainer = make_trainer(tmp_path, **options)
    trainer.train()
    own = run_results(trainer, data="noise")
    measured = {line["epoch"]: line["eval_loss"] for line in trainer.state.log_history if "eval_loss" in line}
    assert own["accuracy"]["saved"]["epoch"] == 1 and trainer.evaluate()["eval_loss"] == pytest.approx(measured[1])
    again = run_results(trainer, data="noise")
    assert again["history"]["eval_loss"] == [measured[1], measured[2]]
    assert (again["accuracy"], again["history"]) == (own["accuracy"], own["history"])


def test_an_evaluation_of_another_set_before_a_checkpoint_is_no_result_of_the_resumed_run(tmp_path):
    class Measures(TrainerCallback):
        measuring = False

        def on_evaluate(self, args, state, control, **kwargs):
            if not self.measuring:
                self.measuring = True
                self.trainer.evaluate(OTHER)
                self.measuring = False

    measures = Measures()
    options = {"eval_dataset": EVAL, "save_strategy": "epoch", "save_total_limit": None, **SHORT}
    measures.trainer = make_trainer(tmp_path / "measured", callbacks=[measures], **options)
    measures.trainer.train()
    resumed = make_trainer(tmp_path / "measured", **options)
    resumed.train(resume_from_checkpoint=str(tmp_path / "measured" / "checkpoint-6"))
    plain = make_trainer(tmp_path / "plain", **options)
    plain.train()
    found, expected = (run_results(trainer, data="noise") for trainer in (resumed, plain))
    assert sum("eval_loss" in line for line in resumed.state.log_history) == 3
    assert (found["accuracy"], found["history"]) == (expected["accuracy"], expected["history"])


def test_an_evaluation_set_that_is_prepared_otherwise_is_named(tmp_path, capture_log):
    warning_once.cache_clear()
    make_trainer(tmp_path, eval_dataset=KnowledgeDataset(EVAL, replace(RECIPE, augmentation="none"), training=False))
    assert "evaluation set" not in capture_log.text
    other = KnowledgeDataset(EVAL, replace(RECIPE, mean=(0.1, 0.2, 0.3)), training=False)
    make_trainer(tmp_path, eval_dataset={"other": other})
    assert "prepared otherwise than the saved student says (mean (0.1, 0.2, 0.3) instead of (0.5, 0.45, 0.4))" in (
        capture_log.text
    )


def test_an_evaluation_set_of_later_is_used(tmp_path):
    trainer = make_trainer(tmp_path, eval_dataset=EVAL, dataloader_num_workers=1, dataloader_persistent_workers=True)
    first = trainer.evaluate()
    other = make_trainer(tmp_path, eval_dataset=OTHER).evaluate()
    assert trainer.evaluate(OTHER)["eval_loss"] == pytest.approx(other["eval_loss"]) != first["eval_loss"]
    plain = make_trainer(tmp_path)
    plain.eval_dataset = OTHER
    assert plain.evaluate()["eval_loss"] == other["eval_loss"]


def test_predictions_during_the_training_leave_no_trace(tmp_path):
    class Predicts(TrainerCallback):
        def on_step_end(self, args, state, control, **kwargs):
            self.trainer.predict(EVAL)

    predicts = Predicts()
    options = {"num_train_epochs": 2, "lr_decay_epochs": [1]}
    plain = make_trainer(tmp_path / "plain", PAPER, model=dropout_network(), **options)
    predicts.trainer = make_trainer(tmp_path / "predicts", PAPER, [predicts], model=dropout_network(), **options)
    for trainer in (plain, predicts.trainer):
        torch.manual_seed(0)
        trainer.train()
    assert_same_end(plain, predicts.trainer)


def test_metrics_and_state_are_written_as_transformers_scripts_do(tmp_path, capsys):
    trainer = make_trainer(tmp_path, eval_dataset=EVAL, **SHORT)
    output = trainer.train()
    trainer.log_metrics("train", output.metrics)
    trainer.save_metrics("eval", trainer.evaluate())
    trainer.save_state()
    assert "train_loss" in capsys.readouterr().out
    saved = json.loads((tmp_path / "eval_results.json").read_text())
    assert saved["eval_accuracy"] == pytest.approx(saved["eval_top1"] / 100)
    assert json.loads((tmp_path / "trainer_state.json").read_text())["global_step"] == output.global_step
