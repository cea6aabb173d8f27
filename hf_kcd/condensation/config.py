"""`KCDConfig`: how knowledge is condensed, every switch of the paper's Table 4 a field."""

import math
from dataclasses import asdict, dataclass, field, fields
from typing import Any

from ..errors import unknown_name, whole_number
from .schedule import FIRST_SELECTIONS, SHAPES, CondensationSchedule
from .summary import AUGMENTATIONS, PARTNERS
from .value import RANDOM, available_values


def option(default: Any, help: str) -> Any:
    """Return a dataclass field with its text for `--help`."""
    return field(default=default, metadata={"help": help})


@dataclass(frozen=True)
class KCDConfig:
    """How knowledge is condensed (Algorithm 1).

    `KCDConfig()` is the paper; `KCDConfig.released_code()` is what the authors' program does.

    Raises:
        ValueError: When a field is out of its range, with its value and what to do.
    """

    final_ratio: float = option(0.7, "rho: share of the points kept at the end, in (0, 1].")
    epochs_per_stage: int = option(40, "T: epochs between two selections.")
    shape: str = option("exponential", "How the kept share falls over stages: 'exponential' or 'linear'.")
    first_selection: str = option("after_first_epoch", "First selection: 'after_first_epoch' or 'after_first_stage'.")
    value: str = option("entropy", "The value of a point: one of the registered values, or 'random'.")
    online_recording: bool = option(
        True, "Value a point by its mean over epochs (Eq. 12), not by its last epoch alone."
    )
    cost_exponent: float = option(0.03, "alpha of the cost-aware ranking (Eq. 13); 0 turns it off.")
    augmentation: str = option("adaptive", "Mixing of borderline points: 'adaptive' (Eq. 15), 'fixed' or 'none'.")
    max_perturbation: float = option(0.3, "epsilon_m: the largest share of a partner, in [0, 1].")
    partners: str = option("discarded", "Partners: all 'discarded' points, or the 'newly_discarded' ones.")
    cumulative_mixing: bool = option(
        False, "Mix into the 8-bit images for good, stage after stage, as the released code does."
    )
    min_per_class: int = option(
        0, "Most valuable points of each class that every stage keeps; the number of kept points stays the same."
    )

    def __post_init__(self) -> None:
        # The schedule checks epochs and points once their numbers are known.
        if not isinstance(self.final_ratio, (int, float)) or not 0 < self.final_ratio <= 1:
            raise ValueError(f"final_ratio is {self.final_ratio}: give a share of the points, above 0 and up to 1.")
        object.__setattr__(self, "min_per_class", whole_number("min_per_class", self.min_per_class, at_least=0))
        names = {"value": available_values(), "shape": SHAPES, "first_selection": FIRST_SELECTIONS}
        for name, valid in {**names, "augmentation": AUGMENTATIONS, "partners": PARTNERS}.items():
            if getattr(self, name) not in valid:
                raise unknown_name(name, getattr(self, name), valid)
        if not 0 <= self.max_perturbation <= 1:
            raise ValueError(f"max_perturbation is {self.max_perturbation}: give a share from 0 to 1, such as 0.3.")
        if not math.isfinite(self.cost_exponent):
            raise ValueError(f"cost_exponent is {self.cost_exponent}: give a finite number; the paper uses 0.03.")
        self._check_effect()

    def _check_effect(self) -> None:
        """Refuse switches that nothing reads."""
        switches: dict[str, tuple[Any, str, str]] = {
            "cost_exponent": (0.03, "value", RANDOM),
            "online_recording": (True, "value", RANDOM),
            "max_perturbation": (0.3, "augmentation", "none"),
        }
        # Recipes of the released code without mixing hold both.
        if (self.partners, self.cumulative_mixing) != ("newly_discarded", True):
            switches |= {"partners": ("discarded", "augmentation", "none")}
            switches |= {"cumulative_mixing": (False, "augmentation", "none")}
        for name, (default, switch, setting) in switches.items():
            if getattr(self, switch) == setting and getattr(self, name) != default:
                raise ValueError(
                    f"{name} is {getattr(self, name)}, but has no effect with {switch}={setting!r}: leave it out."
                )

    @classmethod
    def paper(cls, **overrides: Any) -> "KCDConfig":
        """Return the paper's configuration, which is the default, with some fields overridden."""
        return cls(**overrides)

    @classmethod
    def released_code(cls, **overrides: Any) -> "KCDConfig":
        """Return the configuration of the authors' program, with some fields overridden."""
        preset = {"shape": "linear", "first_selection": "after_first_stage", "partners": "newly_discarded"}
        return cls(**{**preset, "cumulative_mixing": True, **overrides})

    def schedule(self, num_points: int, num_epochs: int) -> CondensationSchedule:
        """Return the schedule of a run.

        Args:
            num_points: Number of points of the whole training set, N.
            num_epochs: Number of epochs, I.
        """
        return CondensationSchedule(
            num_points, num_epochs, self.epochs_per_stage, self.final_ratio, self.shape, self.first_selection
        )

    def to_dict(self) -> dict[str, Any]:
        """Return the fields as plain JSON values."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> "KCDConfig":
        """Build a configuration from a mapping of fields; an unknown one is a ValueError."""
        names = [f.name for f in fields(cls)]
        for name in values:
            if name not in names:
                raise unknown_name("field of KCDConfig", name, names)
        return cls(**values)
