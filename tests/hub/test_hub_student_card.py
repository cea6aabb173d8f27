"""What the card of a student says, worked out by hand: numbers, links and claims, for runs of every kind."""

import re
from pathlib import Path

import pytest
import yaml
from huggingface_hub import ModelCard

from hf_kcd.artifacts.run_folder import read_run
from hf_kcd.hub.privacy import without_folders
from hf_kcd.reporting import student_card

REPOSITORY = Path(__file__).parents[2]
CARDS = sorted(path.parent for path in REPOSITORY.glob("model_cards/*/*/*/results.json"))


@pytest.mark.parametrize("folder", CARDS, ids=lambda folder: folder.name)
def test_the_cards_of_our_own_runs_are_what_the_command_writes(folder):
    results, recipe = read_run(folder)
    assert (folder / "README.md").read_text() == student_card(results, recipe)


def results_of(**changes) -> dict:
    accuracy = {"top1": 61.5, "top5": 90.25, "epoch": 4.0}
    return {
        "student": "cifar_resnet8",
        "teacher": "cifar_resnet20",
        "data": "cifar100",
        "method": "kd",
        "condensation": {"final_ratio": 0.7, "value": "entropy"},
        "accuracy": {"last": accuracy, "best": accuracy},
        "num_points": 100,
        "num_epochs": 4,
        "cost": {"planned": 0.8, "paid": 0.81, "points": 324},
        "seconds": {
            "training": 33.0,
            "per_stage": [
                {"stage": 0, "epochs": 2, "num_kept": 100, "seconds": 20.0},
                {"stage": 1, "epochs": 2, "num_kept": 70, "seconds": 13.0},
            ],
        },
        "seed": 0,
        "history": {"epoch": [1, 2, 3, 4]},
        **changes,
    }


def test_seconds_saved_are_those_of_the_points_that_were_left_out():
    card = ModelCard(student_card(results_of()))
    # 76 of 400 points, at 33 s for the other 324.
    assert {r.metric_type: r.metric_value for r in card.data.eval_results}["seconds_saved"] == 7.7407
    assert "about 7.7 s" in card.text
    assert card.data.datasets == ["uoft-cs/cifar100"]
    one_stage = results_of(condensation=None, seconds={"training": 40.0, "per_stage": []})
    assert "seconds_saved" not in student_card(one_stage) and "Saved" not in student_card(one_stage)


def test_a_random_selection_is_not_called_condensation():
    card = ModelCard(student_card(results_of(condensation={"final_ratio": 0.7, "value": "random"})))
    assert (
        "kcd" not in card.data.tags and "drawn at random" in card.text and "condensed the knowledge" not in card.text
    )


def test_a_mask_that_was_trained_on_is_data_of_the_student():
    mask = {"num_kept": 70, "num_mixed": 30, "stage": 6, "provenance": {}}
    card = ModelCard(student_card(results_of(condensation=None, mask=mask), mask_repo="me/m"))
    assert card.data.datasets == ["uoft-cs/cifar100", "me/m"]
    assert "70 points, 30 of them mixed" in card.text and "li2022kcd" in card.text


def test_a_run_that_was_never_evaluated_states_no_accuracy():
    card = ModelCard(student_card(results_of(accuracy=None)))
    assert card.data.eval_results is None and "was not evaluated" in card.text


def test_a_student_that_began_with_weights_of_the_hub_names_them():
    card = ModelCard(student_card(results_of(), {"student": "hf_hub:me/older@v1", "teacher": "hf_hub:you/teacher"}))
    assert card.data.base_model == "me/older" and card.data["teacher"] == "you/teacher"


def recipe_in(card: str) -> dict:
    return yaml.safe_load(card.partition("```yaml\n")[2].partition("```")[0])


def test_revisions_that_the_recipe_names_stay_in_it():
    mask = {"num_kept": 70, "num_mixed": 0, "stage": 6, "provenance": {}}
    recipe = {"teacher": "hf_hub:you/teacher@v1", "mask": "you/mask@v2"}
    card = ModelCard(student_card(results_of(condensation=None, mask=mask), recipe))
    assert (card.data["teacher"], card.data["knowledge_mask"]) == ("you/teacher", "you/mask")
    assert recipe_in(card.text) == recipe
    card = student_card(results_of(), recipe, teacher_repo="me/other", mask_repo="me/other-mask")
    assert recipe_in(card) == {"teacher": "hf_hub:me/other", "mask": "me/other-mask"}


@pytest.mark.parametrize(
    ("options", "line"),
    [
        ({}, 'mask.select(load_dataset("uoft-cs/cifar100", split="train"))'),
        ({"train_split": "all"}, 'mask.select(load_dataset("uoft-cs/cifar100", split="all"))'),
        ({"train_points": 500}, "mask.select(training_set)  # of cifar100"),
    ],
)
def test_the_card_selects_from_the_points_that_the_mask_is_about(options, line):
    card = student_card(results_of(), {"data": "cifar100", **options}, mask_repo="me/m")
    assert line in card and card.count("from datasets import") == card.count("load_dataset(")


def test_what_goes_to_the_authors_own_accounts_is_not_in_the_published_recipe():
    card = student_card(results_of(), {"method": "kd", "trackio_space_id": "me/logs", "hub_model_id": "me/x"})
    assert recipe_in(card) == {"method": "kd"}


def test_a_strangers_name_for_the_teacher_opens_nothing_in_the_card():
    card = ModelCard(student_card(results_of(teacher="net`\n# Headline\n| a")))
    assert "| Teacher | `net' # Headline \\| a` |" in card.text
    assert not re.search("^# Headline", card.text, re.MULTILINE)


def test_a_student_that_learned_with_peers_was_not_trained_alone():
    networks = {"peer_1": {"last": {"top1": 60.0}}}
    options = {"peers": None, "weight": 1.0}
    text = student_card(results_of(teacher=None, method="dml", networks=networks, method_options=options))
    assert "trained along with `peer_1` with hf_kcd" in text and "trained alone" not in text
    assert "dml (Zhang et al., 2018), weight 1.0 |" in text


def test_a_mask_of_the_hub_that_the_recipe_names_is_linked():
    mask = {"num_kept": 70, "num_mixed": 0, "stage": 6, "provenance": {}}
    card = ModelCard(student_card(results_of(condensation=None, mask=mask), {"mask": "you/mask"}))
    assert card.data["knowledge_mask"] == "you/mask" and "mask: you/mask" in card.text


@pytest.mark.parametrize(
    ("value", "published"),
    [
        ("/home/me/runs/first", "first"),
        ("/home/me/runs/first/", "first"),
        ("../shared/data/cifar100", "cifar100"),
        ("./x.pth", "x.pth"),
        ("~/x.pth", "x.pth"),
        ("C:\\Users\\me\\x.pth", "x.pth"),
        ("local-dir:/srv/teacher", "teacher"),
        ("runs/../../me/x", "x"),
        ("/", "."),
        ("recipes/cifar100/kd.yaml", "recipes/cifar100/kd.yaml"),
        ("hf_hub:me/x", "hf_hub:me/x"),
        ("resnet34.a1_in1k", "resnet34.a1_in1k"),
        (0.5, 0.5),
        (["/a/b", {"mask": "/c/d"}], ["b", {"mask": "d"}]),
        (
            {"command": "/opt/bin/torchrun x.py --output_dir=/me/run --teacher '/my runs/t' --seed 0"},
            {"command": "torchrun x.py --output_dir=run --teacher t --seed 0"},
        ),
        ({"command": "cut 'short"}, {"command": None}),
        ("me@host:/home/me/x and /raid/me/y", "me@host:x and y"),
        ("by C:\\Users\\me\\x.pth", "by x.pth"),
        ("of /m/01g317 and/or, https://example.org/home/x", "of /m/01g317 and/or, https://example.org/home/x"),
        (
            {"command": """x '--method_options={"a": "/home/me/b"}'"""},
            {"command": """x '--method_options={"a": "b"}'"""},
        ),
    ],
)
def test_of_a_path_its_last_part_is_published(value, published):
    assert without_folders(value) == published
