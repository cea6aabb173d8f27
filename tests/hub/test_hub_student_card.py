"""What the card of a student says: numbers worked out by hand, links and claims, for runs of every kind."""

import re
from pathlib import Path

import pytest
import yaml
from huggingface_hub import ModelCard

from hf_kcd.artifacts.run_folder import read_run
from hf_kcd.reporting import student_card

CARDS = sorted(path.parent for path in Path(__file__).parents[2].glob("model_cards/*/*/*/results.json"))
MASK = {"num_kept": 70, "num_mixed": 30, "stage": 6, "provenance": {}}


@pytest.mark.parametrize("folder", CARDS, ids=lambda folder: folder.name)
def test_the_cards_of_our_own_runs_are_what_the_command_writes(folder):
    results, recipe = read_run(folder)
    card = (folder / "README.md").read_text(encoding="utf-8")
    assert card == student_card(results, recipe)
    for figure in (results["accuracy"]["last"]["top1"], results["accuracy"]["last"]["top5"]):
        assert f"{figure:.2f} %" in card


def card_of(recipe=None, pictures=(), options=None, **changes) -> ModelCard:
    """The card of a run whose results have these changes."""
    accuracy = {which: {"top1": 61.5, "top5": 90.25, "epoch": 4.0} for which in ("last", "best")}
    results = {"student": "cifar_resnet8", "teacher": "cifar_resnet20", "data": "cifar100", "method": "kd", "seed": 0}
    results |= {"condensation": {"final_ratio": 0.7, "value": "entropy"}, "num_points": 100, "num_epochs": 4}
    results |= {"accuracy": accuracy, "cost": {"planned": 0.8, "paid": 0.81, "points": 324}}
    results |= {"seconds": {"training": 33.0}, "history": {"epoch": [1, 2, 3, 4]}, **changes}
    return ModelCard(student_card(results, recipe, pictures, **options or {}))


def recipe_in(card: ModelCard) -> dict:
    return yaml.safe_load(card.text.partition("```yaml\n")[2].partition("```")[0])


def test_the_numbers_are_those_of_the_results():
    card = card_of(options={"repo_id": "me/x"})
    values = {result.metric_type: result.metric_value for result in card.data.eval_results}
    # Skipped: 76 of 400 points; the other 324 took 33 s.
    assert values == {"accuracy": 0.615, "top_5_accuracy": 0.9025, "relative_cost": 0.81, "seconds_saved": 7.7407}
    assert "about 7.7 s" in card.text and card.data.datasets == ["uoft-cs/cifar100"]
    # Paid is what was drawn; it differs from the plan, as after max_steps.
    assert "| Cost C paid | 81.00% of the points of a whole training (324 points; planned 80.00%) |" in card.text
    longer = card_of(cost={"planned": 0.8, "paid": 0.81, "points": 324, "step": 1.5}).text
    assert "| Computation | 121.50% of that of a whole training with KD; a step costs 1.50 of a step of KD |" in longer


def test_a_network_that_timm_does_not_have_is_imported_first_in_every_block():
    text = card_of(options={"repo_id": "me/x"}).text
    blocks = re.findall(r"```python\n(.*?)```", text, re.S)
    loading = [block for block in blocks if "me/x" in block]
    assert len(loading) == 3
    assert all(block.splitlines()[0].startswith(("import hf_kcd", "from hf_kcd")) for block in loading)
    # It is said before anything else, with the errors that a reader sees without it.
    first = text[text.index("# KC-KD") :].split("\n\n")[1]
    assert "import hf_kcd" in first and "Unknown model" in first and "upgrade timm" in first
    assert "import hf_kcd" not in card_of(student="resnet18", options={"repo_id": "me/x"}).text


def test_a_run_without_accuracy_or_condensation_claims_neither():

    card = card_of(condensation=None, accuracy=None)
    assert "Saved" not in card.text and card.data.eval_results is None and "was not evaluated" in card.text
    assert "License of the weights: not stated" in card.text


def test_kinds_of_runs_are_told_apart():
    card = card_of(condensation={"final_ratio": 0.7, "value": "random"})
    assert "kcd" not in card.data.tags
    assert "drawn at random" in card.text and "condensed the knowledge" not in card.text
    peers = {"networks": {"peer_1": {"last": {"top1": 60.0}}}, "method_options": {"peers": None, "weight": 1.0}}
    card = card_of(teacher=None, method="dml", **peers)
    assert "trained along with `peer_1` with hf_kcd" in card.text and "trained alone" not in card.text
    assert "dml (Zhang et al., 2018), weight 1.0 |" in card.text
    # A mask that the student was trained on is data.
    card = card_of(condensation=None, mask=MASK, options={"mask_repo": "me/m"})
    assert card.data.datasets == ["uoft-cs/cifar100", "me/m"]
    assert "70 points, 30 of them mixed" in card.text and "li2022kcd" in card.text


def test_repositories_that_the_recipe_names_are_linked_and_keep_their_revisions():
    recipe = {"teacher": "hf_hub:you/teacher@v1", "mask": "you/mask@v2", "student": "hf_hub:me/older@v1"}
    card = card_of(recipe, condensation=None, mask=MASK)
    assert (card.data["teacher"], card.data["knowledge_mask"]) == ("you/teacher", "you/mask")
    assert card.data.base_model == "me/older" and recipe_in(card) == recipe
    card = card_of(recipe, options={"teacher_repo": "me/other", "mask_repo": "me/other-mask"})
    assert recipe_in(card) == recipe | {"teacher": "hf_hub:me/other", "mask": "me/other-mask"}
    # A recipe may name a teacher that its method does not read.
    assert "teacher" not in card_of(recipe, teacher=None).data.to_dict()
    # Nothing about the author's own accounts.
    card = card_of({"method": "kd", "trackio_space_id": "me/logs", "hub_model_id": "me/x"})
    assert recipe_in(card) == {"method": "kd"}


@pytest.mark.parametrize(
    ("options", "line"),
    [
        ({}, 'mask.select(load_dataset("uoft-cs/cifar100", split="train"))'),
        ({"train_split": "all"}, 'mask.select(load_dataset("uoft-cs/cifar100", split="all"))'),
        ({"train_points": 500}, "mask.select(training_set)  # of cifar100"),
    ],
)
def test_the_card_selects_from_the_points_that_the_mask_is_about(options, line):
    text = card_of({"data": "cifar100", **options}, options={"mask_repo": "me/m"}).text
    assert line in text and text.count("from datasets import") == text.count("load_dataset(")


def test_a_strangers_name_for_the_teacher_opens_nothing_in_the_card():
    text = card_of(teacher="net`\n# Headline\n| a").text
    assert "| Teacher | `net' # Headline \\| a` |" in text and not re.search("^# Headline", text, re.MULTILINE)
