"""What the README prints is so: the method it shows trains as printed, and its tables are those of the commands."""

import re
from pathlib import Path

import pytest
import torch

from hf_kcd import DistillationConfig, DistillationTrainer, KCDConfig, KCDTrainerCallback, KnowledgeDataset, load_model
from hf_kcd.cli.main import main
from hf_kcd.cli.methods import methods_table
from hf_kcd.data import load_image_data
from hf_kcd.methods import available_methods
from hf_kcd.methods.facts import describe_method
from hf_kcd.methods.registry import get_method

README = (Path(__file__).parents[1] / "README.md").read_text()


def test_the_method_that_the_readme_shows_trains_as_printed(tmp_path):
    (block,) = [code for code in re.findall(r"```python\n(.*?)```", README, re.S) if "register_method(" in code]
    exec(compile(block, "README.md", "exec"), {})
    data = load_image_data("digits")
    dataset = KnowledgeDataset(data.train.select(range(128)), data.preprocessing)
    torch.manual_seed(1)
    teacher = load_model("cifar_wrn_16_2", 10)
    teacher.pretrained_cfg["input_size"] = (3, 8, 8)
    args = DistillationConfig(
        str(tmp_path),
        method="cosine",
        method_options={"kd_weight": 0.9},
        num_train_epochs=2,
        logging_strategy="epoch",
        save_strategy="no",
        disable_tqdm=True,
        report_to="none",
    )
    callbacks = [KCDTrainerCallback(KCDConfig(final_ratio=0.5, epochs_per_stage=1))]
    trainer = DistillationTrainer(load_model("cifar_resnet8", 10), teacher, args, dataset, callbacks=callbacks)
    before = trainer.method.adapter.weight.detach().clone()
    trainer.train()
    assert trainer.method.adapter.weight.shape == (128, 64) and not torch.equal(trainer.method.adapter.weight, before)
    lines = [line for line in trainer.state.log_history if "loss_cosine" in line]
    # The weight of 2 times at most 2.
    assert len(lines) == 2 and all(0 < line["loss_cosine"] < 4 and line["loss_kd"] > 0 for line in lines)


def test_the_methods_table_is_that_of_the_command():
    # Other tests register methods of their own.
    names = [name for name in available_methods() if get_method(name).__module__.startswith("hf_kcd.")]
    facts = [describe_method(name, "cifar_resnet8", "cifar_resnet20", 50_000) for name in names]
    for row in methods_table(facts, markdown=True).splitlines()[2:]:
        # Behind it stand the milliseconds of one machine.
        assert row.removesuffix(" |") in README


@pytest.mark.parametrize("name", ["cifar_resnet20", "cifar_shufflenetv1"])
def test_the_networks_table_is_that_of_the_command(name, capsys):
    main(["models", name, "--markdown"])
    row = next(line for line in capsys.readouterr().out.splitlines() if line.startswith(f"| {name} "))
    start = " | ".join(row.split(" | ")[:5])
    assert start in README
