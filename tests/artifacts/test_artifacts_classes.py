"""Class names of two things that meet: equal, in another order, others, or none."""

import logging

import pytest

from hf_kcd.artifacts.classes import class_positions

ANIMALS = ["cat", "dog", "eel", "fox"]


@pytest.mark.parametrize(
    "wanted", [["fox", "cat", "eel", "dog"], ["dog", "eel", "fox", "cat"], ["eel", "fox", "cat", "dog"]]
)
def test_another_order_is_matched_by_name_in_both_directions(wanted):
    columns = class_positions(ANIMALS, wanted, "teacher", "training set")
    assert [ANIMALS[column] for column in columns] == wanted
    labels = class_positions(wanted, ANIMALS, "training set", "evaluation set")
    assert all(wanted[labels[label]] == name for label, name in enumerate(ANIMALS))


def test_the_order_of_folders_that_count_is_matched_too():
    # A file system lists 10 before 2.
    folders = sorted(map(str, range(12)))
    columns = class_positions(list(map(str, range(12))), folders, "teacher", "training set")
    assert columns == [0, 1, 10, 11, 2, 3, 4, 5, 6, 7, 8, 9]
    # So do class_encode_column, and a network of transformers counts.
    named = [f"LABEL_{number}" for number in range(12)]
    assert class_positions(named, folders, "teacher", "training set") == columns
    padded = [f"{number:02}" for number in range(12)]
    assert class_positions(padded, folders, "teacher", "training set") == columns
    assert class_positions(sorted(named), folders, "teacher", "training set") is None


def test_other_names_are_refused_with_both_lists_and_what_differs():
    with pytest.raises(
        ValueError, match=r"teacher 4 \(cat, dog, eel, fox\), training set 4 \(cat, dog, owl, fox\)"
    ) as error:
        class_positions(ANIMALS, ["cat", "dog", "owl", "fox"], "teacher", "training set")
    assert "Only the teacher has eel. Only the training set has owl." in str(error.value)
    # A long list is cut, and what differs is still shown.
    many = [f"class {number:03}" for number in range(500)]
    with pytest.raises(
        ValueError, match=r"teacher 500 \(.*class 007, …\).*Only the training set has zebra\."
    ) as error:
        class_positions(many, [*many[:499], "zebra"], "teacher", "training set")
    assert "class 400" not in str(error.value) and "Only the teacher has class 499." in str(error.value)
    for other in (ANIMALS[:3], ["cat", "cat", "dog", "fox"], ["0", "1", "2"]):
        with pytest.raises(ValueError, match="Classes differ"):
            class_positions(other, ANIMALS, "teacher", "training set")


@pytest.mark.parametrize("unnamed", [None, ["0", "1", "2", "3"], ["LABEL_0", "LABEL_1", "LABEL_2", "LABEL_3"]])
@pytest.mark.parametrize("turned", [False, True])
def test_without_names_the_order_is_assumed_in_one_line(unnamed, turned, caplog):
    sides = [(unnamed, "teacher"), (ANIMALS, "training set")]
    (one, who), (other, whose) = sides[::-1] if turned else sides
    with caplog.at_level(logging.WARNING):
        assert class_positions(one, other, who, whose) is None
    (line,) = caplog.messages
    assert line == (
        "The teacher has no class names: its classes are assumed to be in the order of the training set (cat, dog, eel, fox)."
    )


def test_equal_names_and_none_at_all_need_no_line(caplog):
    assert class_positions(ANIMALS, tuple(ANIMALS), "teacher", "training set") is None
    assert class_positions(None, None, "teacher", "training set") is None
    # Numbers out of their order say something.
    with pytest.raises(ValueError, match="Classes differ"):
        class_positions(["0", "1", "10", "2"], ANIMALS, "teacher", "training set")
    assert not caplog.messages
