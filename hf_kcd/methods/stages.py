"""Network stages: which maps of the student are compared with which of the teacher's, and the base of methods that do so."""

import warnings
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import ClassVar

from torch import Tensor

from ..models import ModelOutputs, ModelSpec
from .term import TermMethod


@dataclass(frozen=True)
class FeatureMap:
    """A map that a network returns: its place in the returned list and among all maps, its channels, height and width."""

    position: int
    layer: int
    channels: int
    size: tuple[int, int]

    def __str__(self) -> str:
        return f"f{self.layer} ({self.channels} x {self.size[0]} x {self.size[1]})"


# A map of the student and one of the teacher.
Pair = tuple[FeatureMap, FeatureMap]


class StageMethod(TermMethod):
    """A `TermMethod` whose term compares network stages, in pairs that `pair_stages` makes: `self.pairs`.

    It compares pre-activations of a network if it reads them, and features otherwise.
    """

    reads = ("logits", "features")
    # Whether the term compares positions within a map, so that maps of one position would tell nothing.
    compares_positions: ClassVar[bool] = False

    def __init__(self, student: ModelSpec, teacher: ModelSpec, num_points: int, **options) -> None:
        super().__init__(student, teacher, num_points, **options)
        self.pairs = pair_stages(student, teacher, _maps_of(self.student_reads), _maps_of(self.teacher_reads))
        if self.compares_positions:
            require_positions(student, teacher, self.pairs)

    def stages(self, student: ModelOutputs, teacher: ModelOutputs) -> tuple[list[Tensor], list[Tensor]]:
        """Return the paired maps of the student and of the teacher, from shallow to deep."""
        ours = getattr(student, _maps_of(self.student_reads))
        theirs = getattr(teacher, _maps_of(self.teacher_reads))
        return [ours[one.position] for one, _ in self.pairs], [theirs[other.position] for _, other in self.pairs]


def feature_maps(spec: ModelSpec) -> list[FeatureMap]:
    """List the features of a network, from shallow to deep."""
    layers = range(len(spec.feature_channels)) if spec.layers is None else spec.layers
    numbered = enumerate(zip(layers, spec.feature_channels, spec.feature_sizes, strict=True))
    return [FeatureMap(position, *shape) for position, shape in numbered]


def stage_maps(spec: ModelSpec, maps: str = "features") -> list[FeatureMap]:
    """List the "features" or "preactivations" of the network stages: all maps except the stem, the network's first map."""
    features = feature_maps(spec)
    stages = [one for one in features if one.layer > 0]
    if not stages:
        raise ValueError(f"The layers of {spec.name} are {list(spec.layers)}, its stem alone: choose deeper layers.")
    skipped = len(features) - len(stages) if maps == "preactivations" else 0
    return [replace(one, position=one.position - skipped) for one in stages]


def pair_stages(
    student: ModelSpec, teacher: ModelSpec, student_maps: str = "features", teacher_maps: str = "features"
) -> list[Pair]:
    """Pair the stages of two networks, from shallow to deep.

    Equal stage counts, as in the published tables, are paired in order, whatever the sizes. Otherwise only the deepest map of
    each size counts; if the counts still differ, shallow maps are left out. A warning then lists the pairs.
    """
    ours, theirs = stage_maps(student, student_maps), stage_maps(teacher, teacher_maps)
    if len(ours) == len(theirs):
        return list(zip(ours, theirs, strict=True))
    ours, theirs = _deepest_of_each_size(ours), _deepest_of_each_size(theirs)
    number = min(len(ours), len(theirs))
    pairs = list(zip(ours[-number:], theirs[-number:], strict=True))
    warnings.warn(
        f"{student.name} and {teacher.name} have different numbers of stages. Only these are compared: {_listed(pairs)}. "
        "Choose equally many of both with student_layers and teacher_layers.",
        stacklevel=2,
    )
    return pairs


def require_positions(student: ModelSpec, teacher: ModelSpec, pairs: Sequence[Pair]) -> None:
    """Refuse pairs of single-position maps: a loss that compares positions would always be 0."""
    if all(min(one.size[axis], other.size[axis]) == 1 for one, other in pairs for axis in (0, 1)):
        raise ValueError(
            f"The method compares positions, but maps of {student.name} and {teacher.name} have a single one: {_listed(pairs)}. "
            "Choose shallower layers with student_layers and teacher_layers, or another method."
        )


def _maps_of(reads: frozenset[str]) -> str:
    return "preactivations" if "preactivations" in reads else "features"


def _listed(pairs: Sequence[Pair]) -> str:
    return ", ".join(f"{one} with {other}" for one, other in pairs)


def _deepest_of_each_size(maps: list[FeatureMap]) -> list[FeatureMap]:
    return sorted({one.size: one for one in maps}.values(), key=lambda one: one.position)
