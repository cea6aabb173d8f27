"""The pages are right: their Python runs as printed, their tables come from the commands, their commands and links exist."""

import re
import shlex
from pathlib import Path

import datasets
import numpy as np
import pytest
import torch

from hf_kcd import DistillationConfig, DistillationTrainer, KCDConfig, KCDTrainerCallback, KnowledgeDataset, load_model
from hf_kcd.cli.main import main
from hf_kcd.cli.methods import methods_table
from hf_kcd.data import load_image_data
from hf_kcd.methods import available_methods
from hf_kcd.methods.facts import describe_method
from hf_kcd.methods.registry import get_method

ROOT = Path(__file__).parents[1]
PAGES = {
    str(path.relative_to(ROOT)): path.read_text()
    for path in (*ROOT.glob("*.md"), *ROOT.glob("docs/*.md"), ROOT / "model_cards" / "README.md")
}
QUICK = {"logging_strategy": "epoch", "save_strategy": "no", "disable_tqdm": True, "report_to": "none"}


def python_of(page: str, marker: str) -> str:
    (block,) = [code for code in re.findall(r"```python\n(.*?)```", PAGES[page], re.S) if marker in code]
    return block


def test_the_api_of_the_readme_runs_as_printed(tmp_path, monkeypatch):
    features = datasets.Features({"img": datasets.Image(), "label": datasets.ClassLabel(100)})
    pixels = np.random.default_rng(0).integers(0, 256, (32, 32, 32, 3), dtype=np.uint8)
    split = datasets.Dataset.from_dict({"img": list(pixels), "label": list(range(32))}, features)
    monkeypatch.setattr(datasets, "load_dataset", lambda name: {"train": split, "test": split})
    monkeypatch.chdir(tmp_path)
    torch.save(load_model("cifar_resnet20", 100).state_dict(), "resnet20_vanilla.pth")
    block = python_of("README.md", "DistillationTrainer(")
    # Only the length is not as printed.
    for printed, shorter in {
        'method="kd"': f'method="kd", num_train_epochs=2, **{QUICK}',
        "epochs_per_stage=40": "epochs_per_stage=1",
    }.items():
        assert block.count(printed) == 1
        block = block.replace(printed, shorter)
    exec(compile(block, "README.md", "exec"), {})
    assert load_model("runs/first", 100).num_classes == 100
    assert (tmp_path / "runs" / "first" / "mask" / "mask.safetensors").is_file()


def test_the_method_that_the_readme_shows_trains_as_printed(tmp_path):
    exec(compile(python_of("README.md", "register_method("), "README.md", "exec"), {})
    data = load_image_data("digits")
    dataset = KnowledgeDataset(data.train.select(range(128)), data.preprocessing)
    torch.manual_seed(1)
    teacher = load_model("cifar_wrn_16_2", 10)
    teacher.pretrained_cfg["input_size"] = (3, 8, 8)
    options = {"method": "cosine", "method_options": {"kd_weight": 0.9}, "num_train_epochs": 2, **QUICK}
    callbacks = [KCDTrainerCallback(KCDConfig(final_ratio=0.5, epochs_per_stage=1))]
    args = DistillationConfig(str(tmp_path), **options)
    trainer = DistillationTrainer(load_model("cifar_resnet8", 10), teacher, args, dataset, callbacks=callbacks)
    before = trainer.method.adapter.weight.detach().clone()
    trainer.train()
    assert trainer.method.adapter.weight.shape == (128, 64) and not torch.equal(trainer.method.adapter.weight, before)
    lines = [line for line in trainer.state.log_history if "loss_cosine" in line]
    # The weight is 2 and the distance at most 2.
    assert len(lines) == 2 and all(0 < line["loss_cosine"] < 4 and line["loss_kd"] > 0 for line in lines)


def test_the_methods_table_is_what_the_command_prints():
    # Other tests register methods of their own.
    names = [name for name in available_methods() if get_method(name).__module__.startswith("hf_kcd.")]
    facts = [describe_method(name, "cifar_resnet8", "cifar_resnet20", 50_000) for name in names]
    for row in methods_table(facts, markdown=True).splitlines()[2:]:
        # Milliseconds of one machine follow.
        assert row.removesuffix(" |") in PAGES["docs/methods.md"]


def test_the_networks_table_is_what_the_command_prints(capsys):
    main(["models", "cifar_resnet20", "cifar_shufflenetv1", "--markdown"])
    rows = [line for line in capsys.readouterr().out.splitlines() if line.startswith("| cifar_")]
    assert len(rows) == 2
    for row in rows:
        # Columns of published accuracies follow; their number depends on the networks listed.
        assert " | ".join(row.split(" | ")[:5]) in PAGES["docs/networks.md"]


def commands() -> dict[str, set[str]]:
    """Options by command, of every `hf-kcd` line in the pages' shell blocks."""
    found: dict[str, set[str]] = {}
    for text in PAGES.values():
        for block in re.findall(r"```bash\n(.*?)```", text, re.S):
            for line in block.replace("\\\n", " ").splitlines():
                words = shlex.split(line, comments=True)
                if words[:1] == ["hf-kcd"]:
                    options = {word.partition("=")[0] for word in words if word.startswith("--")}
                    found.setdefault(words[1], set()).update(options)
    return found


@pytest.mark.parametrize("command", sorted(commands()))
def test_commands_in_the_pages_exist(command, capsys):
    with pytest.raises(SystemExit, match="0"):
        main([command, "--help"])
    known = set(re.findall(r"--[\w-]+", capsys.readouterr().out))
    unknown = commands()[command] - known
    assert not unknown, f"hf-kcd {command} has no {unknown}"


def anchors(text: str) -> set[str]:
    """Anchors that GitHub gives the headings of a page."""
    titles = re.findall(r"^#+ (.*)", re.sub(r"```.*?```", "", text, flags=re.S), re.M)
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}


@pytest.mark.parametrize("page", sorted(PAGES))
def test_links_and_paths_in_the_pages_resolve(page):
    for link in re.findall(r"\]\(([^)]+)\)", PAGES[page]):
        if link.startswith("https://"):
            continue
        target, _, anchor = link.partition("#")
        path = (ROOT / page).parent / target if target else ROOT / page
        assert path.exists(), link
        assert not anchor or anchor in anchors(path.read_text()), link
    for path in re.findall(r"\b((?:recipes|benchmarks|examples|tests|model_cards)/[\w./*-]*\w)", PAGES[page]):
        assert list(ROOT.glob(path)), path
