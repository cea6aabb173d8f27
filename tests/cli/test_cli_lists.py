"""`hf-kcd models` and `hf-kcd methods`: their tables, order and files, and what they say of unknown names."""

import json

import timm

from hf_kcd.cli.main import main


def rows(table: str) -> dict[str, list[str]]:
    """Cells of every network of a plain table, by name; taps are one cell."""
    lines = table.splitlines()
    body = lines[2 : lines.index("")]
    return {line.split()[0]: [cell.strip() for cell in line.split("  ") if cell.strip()] for line in body}


def test_every_cifar_network_is_listed_within_a_screen(hf_kcd):
    table = hf_kcd("models")
    found = rows(table)
    assert list(found) == timm.list_models("cifar_*")
    # Counted by instantiating RepDistiller's network, published by its authors, by SSKD's and in SLKD's Table 2.
    cells = "16,32 / 32,32 / 64,16 / 128,8 / 128|2,255,156|327.6|yes|75.61|76.46|75.61"
    assert found["cifar_wrn_40_2"] == ["cifar_wrn_40_2", *cells.split("|")]
    assert found["cifar_resnet8"][-3:] == ["–", "–", "59.98"]
    assert max(map(len, table.splitlines())) <= 120
    # Every column has its source.
    assert "RepDistiller" in table and "SSKD  " in table and "SLKD  " in table and "ImageNet" not in table


def test_order_is_as_given_or_sorted(hf_kcd):
    given = ["cifar_wrn_40_1", "cifar_resnet8x4", "cifar_resnet8", "cifar_wrn_16_2"]
    by_name = ["cifar_resnet8", "cifar_resnet8x4", "cifar_wrn_16_2", "cifar_wrn_40_1"]
    # Parameters 83,892; 569,780; 703,284; 1,233,540. MMACs 12.5; 83.3; 101.1; 177.1.
    by_size = ["cifar_resnet8", "cifar_wrn_40_1", "cifar_wrn_16_2", "cifar_resnet8x4"]
    assert list(rows(hf_kcd("models", *given))) == given
    for order, expected in (("name", by_name), ("parameters", by_size), ("macs", by_size)):
        assert list(rows(hf_kcd("models", *given, "--sort", order))) == expected


def test_json_and_markdown_say_what_the_table_says(tmp_path, hf_kcd):
    table = hf_kcd("models", "cifar_resnet20", "resnet18", "--markdown", "--json", tmp_path / "networks.json")
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


def test_equal_taps_are_counted(hf_kcd):
    table = hf_kcd("models", "vit_tiny_patch16_224")
    assert "192,14 x12 / 192" in table
    # Nobody published it with the papers' recipes: no column and no line for a source.
    assert "Published" not in table


def test_an_unknown_name_is_refused_and_a_network_without_classifier_left_out(refused, capsys):
    assert "cifar_resnet20" in refused("models", "cifar_resnet21")
    assert "'crd'" in refused("methods", "crdd")
    refused("models", "mobilenetv5_300m_enc")
    main(["models", "mobilenetv5_300m_enc", "cifar_resnet8"])
    captured = capsys.readouterr()
    assert list(rows(captured.out)) == ["cifar_resnet8"]
    assert captured.err.startswith("Not listed: mobilenetv5_300m_enc: ") and len(captured.err.splitlines()) == 1


def test_a_row_says_what_a_method_reads_and_trains(hf_kcd, tmp_path):
    file = tmp_path / "methods.json"
    header, _, kd, crd, *_ = hf_kcd("methods", "kd", "crd", "--num_points", 1000, "--json", file).splitlines()
    assert " ".join(header.split()) == "method paper reads of the student of the teacher phase trains memory"
    assert kd.startswith("kd ") and "Hinton et al., 2015" in kd
    assert "logits, embedding" in crd
    figures = {one["name"]: one for one in json.loads(file.read_text())["methods"]}
    assert figures["kd"]["num_parameters"] == figures["kd"]["memory_bytes"] == 0
    # Two linear layers from 64 to 128 channels with bias, and two memories of 128 float32 a point.
    assert figures["crd"]["num_parameters"] == 2 * (64 * 128 + 128)
    assert 2 * 1000 * 128 * 4 <= figures["crd"]["memory_bytes"] < 2 * 1000 * 128 * 4 + 20_000


def test_measured_steps_are_compared_with_kd(hf_kcd, tmp_path):
    words = ["ce", "--measure", "--batch_size", 4, "--rounds", 1, "--steps", 2, "--json", tmp_path / "methods.json"]
    lines = hf_kcd("methods", *words).splitlines()
    milliseconds = json.loads((tmp_path / "methods.json").read_text())["milliseconds"]
    # kd is measured though not listed.
    assert milliseconds.keys() == {"kd", "ce"} and min(milliseconds.values()) > 0
    assert lines[2].split()[-1] == f"{milliseconds['ce'] / milliseconds['kd']:.2f}"
    assert not any(line.startswith("kd ") for line in lines)
