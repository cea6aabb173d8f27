"""The recipes of the package by name: the list, the search, and a copy to edit."""

from pathlib import Path

import pytest

from hf_kcd.cli.recipe import read_recipe
from hf_kcd.cli.recipe_folder import recipe_files

RECIPES = Path(__file__).parents[2] / "recipes"


def rows(table: str) -> dict[str, list[str]]:
    """Cells of every recipe of a table, by name."""
    body = table.splitlines()[2 : table.splitlines().index("")]
    return {line.split()[0]: [cell.strip() for cell in line.split("  ") if cell.strip()] for line in body}


def test_every_recipe_is_listed_with_networks_method_data_and_cost(hf_kcd):
    found = rows(hf_kcd("recipes"))
    files = {path.relative_to(RECIPES).with_suffix("").as_posix() for path in RECIPES.rglob("*.yaml")}
    assert found.keys() == files and len(files) > 90
    # Eq. 16 as really trained: stages of 40 of 240 epochs keep 0.7^(c / 6) of 50,000 points after c selections, the first
    # after the first epoch.
    kept = [50_000] + [int(50_000 * 0.7 ** (-(-epoch // 40) / 6)) for epoch in range(1, 240)]
    cost = f"{sum(kept) / (240 * 50_000):.2%}"
    pair = "cifar100/crd/wrn_40_2_wrn_16_2"
    assert found[pair] == [pair, "wrn_40_2 → wrn_16_2", "crd", "cifar100", "240", cost]
    assert found["cifar100/teacher_vgg13"][1:] == ["vgg13", "ce", "cifar100", "240", "100.00%"]
    assert found["cifar100/takd/resnet110_resnet20_resnet8"][1] == "resnet110 → resnet20 → resnet8"
    assert found["imagenet/resnet34_resnet18"][1] == "resnet34.tv_in1k → resnet18"
    assert "any teacher → resnet8" in found["digits/resnet20_resnet8"]
    # The demo's schedule: 300 points, 24 epochs in stages of 4.
    kept = [300] + [int(300 * 0.7 ** (-(-epoch // 4) / 6)) for epoch in range(1, 24)]
    assert found["digits/resnet20_resnet8"][-1] == f"{sum(kept) / (24 * 300):.2%}"


def test_a_word_selects_and_an_unknown_one_has_near_names(hf_kcd, refused):
    found = rows(hf_kcd("recipes", "SSKD"))
    assert len(found) == 11 and all(cells[2] == "sskd" for cells in found.values())
    assert list(rows(hf_kcd("recipes", "digits/teacher_resnet20.yaml"))) == ["digits/teacher_resnet20"]
    assert "Did you mean cifar100/teacher_resnet110" in refused("recipes", "cifar100/teacher_resnet11O")
    assert "--copy needs a name" in refused("recipes", "--copy", "x")


def test_config_takes_a_name_with_or_without_suffix_and_a_file_wins(tmp_path, monkeypatch, refused):
    monkeypatch.chdir(tmp_path)

    def student(config: str) -> str:
        return read_recipe("distill", ["--config", config, "--output_dir", "x"]).config.student

    name = "cifar100/crd/wrn_40_2_wrn_16_2"
    for config in (name, f"{name}.yaml", f"recipes/{name}.yaml", str(RECIPES / f"{name}.yaml")):
        assert student(config) == "cifar_wrn_16_2"
    line = refused("distill", "--config", "cifar100/wrn_40_2_wrn_16_1", "--output_dir", "x")
    assert "no recipe of that name" in line and "cifar100/wrn_40_2_wrn_16_2" in line and "hf-kcd recipes" in line
    own = Path(f"{name}.yaml")
    own.parent.mkdir(parents=True)
    assert "is a folder" in refused("distill", "--config", "cifar100", "--output_dir", "x")
    own.write_text("student: cifar_vgg8", encoding="utf-8")
    assert student(name) == student(f"{name}.yaml") == "cifar_vgg8"
    assert student(f"recipes/{name}") == "cifar_wrn_16_2"


def test_a_copy_works_where_it_is_and_nothing_is_overwritten(tmp_path, monkeypatch, hf_kcd, refused):
    monkeypatch.chdir(tmp_path)
    name = "cifar100/crd/resnet56_resnet20"
    printed = hf_kcd("recipes", name, "--copy", "mine")
    copied = Path(f"mine/{name}.yaml")
    assert f"hf-kcd distill --config {copied}" in printed and "mine/cifar100/resnet56_resnet20.yaml" in printed
    before = read_recipe("distill", ["--config", name, "--output_dir", "x"])
    after = read_recipe("distill", ["--config", str(copied), "--output_dir", "x"])
    assert after.config == before.config and after.kcd == before.kcd and after.args.to_dict() == before.args.to_dict()
    # The base may be there already, as long as it is the same.
    hf_kcd("recipes", "cifar100/pkt/resnet56_resnet20", "--copy", "mine")
    base = Path("mine/cifar100/resnet56_resnet20.yaml")
    base.write_text(
        base.read_text(encoding="utf-8").replace("weight_decay: 0.0005", "weight_decay: 0.001"), encoding="utf-8"
    )
    assert read_recipe("distill", ["--config", str(copied), "--output_dir", "x"]).args.weight_decay == 0.001
    assert f"{base} exists" in refused("recipes", "cifar100/unix/resnet56_resnet20", "--copy", "mine")
    assert not Path("mine/cifar100/unix").exists() and "weight_decay: 0.001" in base.read_text(encoding="utf-8")
    assert "train-teacher --config" in hf_kcd("recipes", "cifar100/teacher_vgg13", "--copy", "mine")


@pytest.mark.parametrize("name", recipe_files())
def test_names_differ_by_more_than_case(name):
    # On some file systems Name and name are one file.
    assert [other for other in recipe_files() if other.lower() == name.lower()] == [name]
