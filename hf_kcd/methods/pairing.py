"""Which maps of the student are compared with which of the teacher's."""

import warnings
from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor

from ..models import ModelSpec


@dataclass(frozen=True)
class FeatureMap:
    """One of the maps that a network hands out.

    Args:
        position: Its place in the list that is handed out.
        layer: Its position among all maps of the network.
        channels: Its channels.
        size: Its height and width, at the input size of its network.
    """

    position: int
    layer: int
    channels: int
    size: tuple[int, int]

    def __str__(self) -> str:
        return f"f{self.layer} ({self.channels} x {self.size[0]} x {self.size[1]})"


Pair = tuple[FeatureMap, FeatureMap]
"""A map of the student and one of the teacher."""


def feature_maps(spec: ModelSpec) -> list[FeatureMap]:
    """List the features of a network, from shallow to deep."""
    layers = range(len(spec.feature_channels)) if spec.layers is None else spec.layers
    numbered = enumerate(zip(layers, spec.feature_channels, spec.feature_sizes, strict=True))
    return [FeatureMap(position, *shape) for position, shape in numbered]


def stage_maps(spec: ModelSpec, read: str = "features") -> list[FeatureMap]:
    """List the features, or pre-activations, of the stages: of all maps but the first of the network, its stem.

    Args:
        spec: What is known of the network.
        read: "features" or "preactivations", whose list the positions belong to.

    Raises:
        ValueError: When the stem is all there is.
    """
    features = feature_maps(spec)
    stages = [one for one in features if one.layer > 0]
    if not stages:
        raise ValueError(
            f"Of {spec.name} the layers are {list(spec.layers)}, its stem alone, but stages are compared: choose deeper ones."
        )
    skipped = len(features) - len(stages) if read == "preactivations" else 0
    return [FeatureMap(one.position - skipped, one.layer, one.channels, one.size) for one in stages]


def pair_stages(
    student: ModelSpec, teacher: ModelSpec, student_read: str = "features", teacher_read: str = "features"
) -> list[Pair]:
    """Pair the stages of two networks, from shallow to deep.

    As many of one as of the other are paired in their order, whatever their sizes: so it is behind the published tables,
    all pairs of which have equally many. Otherwise only the deepest map of each size counts, and if there are still more
    of one, its shallow ones are left out; a warning then says what is compared with what.

    Args:
        student, teacher: What is known of either network.
        student_read, teacher_read: "features" or "preactivations".

    Raises:
        ValueError: When a network hands out its stem alone.
    """
    ours, theirs = stage_maps(student, student_read), stage_maps(teacher, teacher_read)
    if len(ours) == len(theirs):
        return list(zip(ours, theirs, strict=True))
    ours, theirs = _deepest_of_each_size(ours), _deepest_of_each_size(theirs)
    number = min(len(ours), len(theirs))
    pairs = list(zip(ours[-number:], theirs[-number:], strict=True))
    warnings.warn(
        f"{student.name} and {teacher.name} have different numbers of stages. Compared are "
        + ", ".join(f"{one} with {other}" for one, other in pairs)
        + " and no others; student_layers and teacher_layers choose as many of either.",
        stacklevel=2,
    )
    return pairs


def require_positions(student: ModelSpec, teacher: ModelSpec, pairs: Sequence[Pair]) -> None:
    """Refuse pairs for a method that compares positions within a map, when none of them has more than one position.

    Raises:
        ValueError: Naming the networks and their maps; the loss would always be 0.
    """
    if all(min(one.size[axis], other.size[axis]) == 1 for one, other in pairs for axis in (0, 1)):
        listed = ", ".join(f"{one} with {other}" for one, other in pairs)
        raise ValueError(
            f"Positions within maps are compared, but of {student.name} and {teacher.name} the maps come to a single one: {listed}. "
            "Choose shallower layers with student_layers and teacher_layers, or another method."
        )


def select_maps(
    pairs: Sequence[Pair], student_maps: Sequence[Tensor], teacher_maps: Sequence[Tensor]
) -> tuple[list[Tensor], list[Tensor]]:
    """Pick the maps of the pairs out of what the networks handed out.

    Args:
        pairs: What `pair_stages` returned.
        student_maps, teacher_maps: The lists that its positions belong to.

    Returns:
        The student's maps and the teacher's, as many of either.
    """
    return [student_maps[one.position] for one, _ in pairs], [teacher_maps[other.position] for _, other in pairs]


def _deepest_of_each_size(maps: list[FeatureMap]) -> list[FeatureMap]:
    deepest = {one.size: one for one in maps}
    return sorted(deepest.values(), key=lambda one: one.position)
