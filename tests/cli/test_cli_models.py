"""`hf-kcd models` as a user meets it: its table, its order, its files, and what it says of names it does not know."""

import json

import pytest
import timm

from hf_kcd.cli.main import main


def models(capsys, *words: object) -> str:
    main(["models", *map(str, words)])
    return capsys.readouterr().out


def rows(table: str) -> dict[str, list[str]]:
    """Cells of every network of a plain table, by name; taps are one cell."""
    lines = table.splitlines()
    body = lines[2 : lines.index("")]
    return {line.split()[0]: [cell.strip() for cell in line.split("  ") if cell.strip()] for line in body}


def test_every_cifar_network_is_listed_within_a_screen(capsys):
    table = models(capsys)
    found = rows(table)
    assert list(found) == timm.list_models("cifar_*")
    # Counted by instantiating RepDistiller's network, published by its authors, by SSKD's and in SLKD's Table 2.
    assert found["cifar_wrn_40_2"] == [
        "cifar_wrn_40_2",
        "16,32 / 32,32 / 64,16 / 128,8 / 128",
        "2,255,156",
        "327.6",
        "yes",
        "75.61",
        "76.46",
        "75.61",
    ]
    assert found["cifar_resnet8"][-3:] == ["–", "–", "59.98"]
    assert max(map(len, table.splitlines())) <= 120
    # Every column's source is said.
    assert "RepDistiller" in table and "SSKD  " in table and "SLKD  " in table and "ImageNet" not in table


@pytest.mark.parametrize(
    ("order", "expected"),
    [
        (None, ["cifar_wrn_40_1", "cifar_resnet8x4", "cifar_resnet8", "cifar_wrn_16_2"]),
        ("name", ["cifar_resnet8", "cifar_resnet8x4", "cifar_wrn_16_2", "cifar_wrn_40_1"]),
        # 83,892; 569,780; 703,284; 1,233,540.
        ("parameters", ["cifar_resnet8", "cifar_wrn_40_1", "cifar_wrn_16_2", "cifar_resnet8x4"]),
        # 12.5; 83.3; 101.1; 177.1.
        ("macs", ["cifar_resnet8", "cifar_wrn_40_1", "cifar_wrn_16_2", "cifar_resnet8x4"]),
    ],
)
def test_order_is_what_was_asked_for(order, expected, capsys):
    given = ["cifar_wrn_40_1", "cifar_resnet8x4", "cifar_resnet8", "cifar_wrn_16_2"]
    sort = [] if order is None else ["--sort", order]
    assert list(rows(models(capsys, *given, *sort))) == expected


def test_json_and_markdown_say_what_the_table_says(tmp_path, capsys):
    table = models(capsys, "cifar_resnet20", "resnet18", "--markdown", "--json", tmp_path / "networks.json")
    header, rule, *body = table.splitlines()[:4]
    assert header == "| network | taps | image | parameters | MMACs | pre | CRD | SSKD | KCD |"
    assert rule == "| --- | --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: |"
    assert body[0] == (
        "| cifar_resnet20 | 16,32 / 16,32 / 32,16 / 64,8 / 64 | 3x32x32 | 278,324 | 40.8 | yes | 69.06 | 69.63 | – |"
    )
    # The paper prints an error of 30.25 %; torchvision's network has 11,689,512 parameters.
    assert "| 3x224x224 | 11,689,512 |" in body[1] and body[1].endswith("| – | – | 69.75 |")
    first, second = json.loads((tmp_path / "networks.json").read_text())
    assert first["num_parameters"] == 278_324 and first["taps"][2] == [32, 16, 16] and first["embedding_dim"] == 64
    assert first["published_top1"] == {"CRD": 69.06, "SSKD": 69.63}
    assert second["name"] == "resnet18" and second["input_size"] == [3, 224, 224]


def test_taps_that_repeat_are_counted(capsys):
    table = models(capsys, "vit_tiny_patch16_224")
    assert "192,14 x12 / 192" in table
    # Nobody published it with the papers' recipes: no column and no line for a source.
    assert "Published" not in table


def test_network_that_classifies_nothing_does_not_stand_in_the_way_of_others(capsys):
    main(["models", "mobilenetv5_300m_enc", "cifar_resnet8"])
    captured = capsys.readouterr()
    assert list(rows(captured.out)) == ["cifar_resnet8"]
    assert captured.err.startswith("Not listed: mobilenetv5_300m_enc: ") and len(captured.err.splitlines()) == 1
    with pytest.raises(SystemExit) as exit_:
        main(["models", "mobilenetv5_300m_enc"])
    assert exit_.value.code == 2


def test_name_that_is_not_known_ends_in_one_line(capsys):
    with pytest.raises(SystemExit) as exit_:
        main(["models", "cifar_resnet21"])
    assert exit_.value.code == 2
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 1 and "cifar_resnet20" in lines[0]
