"""What people bring from transformers' Trainer works as there, or is refused by name."""

import numpy as np
import pytest
import torch
from tiny_runs import EVAL, make_trainer, network
from transformers import TrainerCallback


def accuracy(prediction):
    return {"accuracy": (np.argmax(prediction.predictions, -1) == prediction.label_ids).mean()}


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


def test_own_predictions_for_own_metrics(tmp_path):
    def share_of_class_0(prediction):
        return {"class_0": float((prediction.predictions == 0).mean())}

    trainer = make_trainer(
        tmp_path,
        None,
        eval_dataset=EVAL,
        compute_metrics=share_of_class_0,
        preprocess_logits_for_metrics=lambda logits, labels: logits.argmax(-1),
    )
    metrics = trainer.evaluate()
    assert 0 <= metrics["eval_class_0"] <= 1
    assert "eval_top1" not in metrics


@pytest.mark.parametrize("name", ["data_collator", "compute_loss_func", "model_init", "preprocess_logits_for_metrics"])
def test_arguments_that_cannot_work_are_refused_by_name(tmp_path, name):
    with pytest.raises(ValueError, match=f"{name} is not taken: "):
        make_trainer(tmp_path / "run", None, **{name: lambda *args: None})
    assert not (tmp_path / "run").exists()


def test_networks_and_optimizers_that_would_train_nothing_are_refused(tmp_path):
    frozen = network().requires_grad_(False)
    with pytest.raises(ValueError, match="no trainable weights"):
        make_trainer(tmp_path, None, model=frozen)
    student = network()
    own = {"optimizers": (torch.optim.SGD(student.parameters(), lr=0.1), None), "model": student}
    with pytest.raises(ValueError, match=r"the method trains \(.*optimizer_cls_and_kwargs"):
        make_trainer(tmp_path, None, method="crd", **own)
    assert make_trainer(tmp_path, None, **own).optimizer is own["optimizers"][0]


def test_a_student_put_in_eval_mode_by_a_callback_trains_on(tmp_path):
    class Evaluated(TrainerCallback):
        def on_step_end(self, args, state, control, model, **kwargs):
            model.student.eval()

    trainer = make_trainer(tmp_path, None, [Evaluated()], num_train_epochs=2, lr_decay_epochs=[1])
    trainer.train()
    assert int(trainer.student.bn1.num_batches_tracked) == trainer.state.global_step
