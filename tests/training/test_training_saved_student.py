"""What is written: a student that timm and `load_model` load, a method beside it, no secret, and no pickle of ours."""

import pytest
import timm
import torch
from tiny_runs import EVAL, PAPER, RECIPE, TRAIN, make_trainer, network, run_training

from hf_kcd import KnowledgeDataset, load_model


def logits_of(model: torch.nn.Module, images: torch.Tensor) -> torch.Tensor:
    with torch.no_grad():
        return model.eval()(images)


def test_a_checkpoint_is_the_student_for_timm_and_for_load_model(tmp_path, monkeypatch):
    monkeypatch.setenv("HF_TOKEN", "hf_secretsecretsecret")
    options = {"save_strategy": "epoch", "num_train_epochs": 3, "lr_decay_epochs": [1], "bf16": True}
    # In one memory format, in which convolutions add up in one order.
    trainer = run_training(tmp_path, PAPER, channels_last=False, **options)
    folder = tmp_path / "checkpoint-14"
    images = torch.randn(5, 3, 8, 8)
    expected = logits_of(trainer.student, images)
    assert torch.equal(logits_of(load_model(folder), images), expected)
    from_timm = timm.create_model(f"local-dir:{folder}", pretrained=True)
    assert torch.equal(logits_of(from_timm, images), expected)
    assert from_timm.pretrained_cfg["mean"] == pytest.approx(RECIPE.mean)
    assert from_timm.pretrained_cfg["input_size"] == (3, 8, 8)
    assert from_timm.pretrained_cfg["label_names"] == ["c0", "c1", "c2", "c3"]
    # Mixed precision saves full weights.
    assert {tensor.dtype for tensor in from_timm.state_dict().values()} == {torch.float32, torch.int64}

    written = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert not [path.name for path in written if path.suffix in (".bin", ".pkl", ".npy", ".npz")]
    # The Trainer's own state; none of it leaves with the student.
    pickled = {path.name for path in written if path.suffix in (".pt", ".pth")}
    assert pickled == {"optimizer.pt", "scheduler.pt", "rng_state.pth"}
    assert not [path.name for path in written if b"hf_secretsecretsecret" in path.read_bytes()]
    assert not list(tmp_path.rglob("method.safetensors"))
    assert {path.name for path in written if path.name.startswith(".")} <= {".lock"}


def test_accuracy_is_that_of_the_saved_student_by_hand(tmp_path):
    # A plain data set, and names of networks, are enough.
    torch.manual_seed(1)
    names = {"model": "cifar_resnet8", "teacher": "cifar_resnet20", "train_dataset": TRAIN}
    named = make_trainer(tmp_path, **names)
    assert isinstance(named.train_dataset, KnowledgeDataset)
    assert named.student.num_classes == named.teacher.num_classes == 4
    assert named.student.pretrained_cfg["architecture"] == network().pretrained_cfg["architecture"]

    trainer = run_training(tmp_path / "run", eval_dataset=EVAL, num_train_epochs=2, lr_decay_epochs=[1])
    trainer.save_model(str(tmp_path / "student"))
    assert {path.name for path in (tmp_path / "student").iterdir()} == {"model.safetensors", "config.json"}
    model = load_model(tmp_path / "student").eval().double()
    hits, losses = [], []
    for row in EVAL:
        pixels = torch.tensor(list(row["image"].tobytes()), dtype=torch.float64).view(8, 8, 3).permute(2, 0, 1) / 255
        pixels = (pixels - torch.tensor(RECIPE.mean).view(3, 1, 1)) / torch.tensor(RECIPE.std).view(3, 1, 1)
        logits = logits_of(model, pixels[None])[0]
        hits.append(int(logits.argmax()) == row["label"])
        losses.append(float(logits.logsumexp(0) - logits[row["label"]]))
    metrics = trainer.evaluate()
    assert metrics["eval_top1"] == pytest.approx(100 * sum(hits) / 40)
    assert metrics["eval_top5"] == 100
    assert metrics["eval_loss"] == pytest.approx(sum(losses) / 40, rel=1e-4)
    # A plain data set given later is read as the one of the constructor.
    assert trainer.evaluate(EVAL)["eval_top1"] == metrics["eval_top1"]
    assert trainer.predict(EVAL).metrics["test_top1"] == metrics["eval_top1"]
