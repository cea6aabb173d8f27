"""What is known of a network before it is run: `ModelSpec`."""

from collections.abc import Collection
from dataclasses import dataclass, field

from torch import nn

from .anatomy import Anatomy, Layers, Norm, examine
from .configuration import image_config, network_name
from .outputs import READS


@dataclass(frozen=True)
class ModelSpec:
    """What a method needs to know of a network to build its adapters, and a trainer to feed it.

    Args:
        name: The network's name in timm.
        num_classes: Number of logits.
        embedding_dim: Channels of the embedding.
        feature_channels: Channels of each feature map, from shallow to deep, the stem included.
        feature_reductions: How many times smaller than the image each feature map is.
        mean, std: What its images are normalised with, per channel of an image in [0, 1].
        input_size: Channels, height and width of its images.
        feature_sizes: Height and width of each feature map, at `input_size`.
        preactivation_channels: Channels of each pre-activation. They belong to the last of the features, one for each but
            the stem (position 0 of the network's maps), and have their sizes.
        preactivation_norms: For each pre-activation weight and bias of the batch normalisation that it comes out of (the
            network's own tensors); None where it comes out of none, or where no activation follows.
        layers: Positions of the features among the network's maps; None for all of them.
        reads: What the network can hand out: of "logits", "embedding", "features", "preactivations".
    """

    name: str
    num_classes: int
    embedding_dim: int
    feature_channels: tuple[int, ...]
    feature_reductions: tuple[int, ...]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    input_size: tuple[int, int, int]
    feature_sizes: tuple[tuple[int, int], ...] = ()
    preactivation_channels: tuple[int, ...] = ()
    preactivation_norms: tuple[Norm | None, ...] = field(default=(), compare=False, repr=False)
    layers: tuple[int, ...] | None = None
    reads: frozenset[str] = frozenset(READS)

    @classmethod
    def of(cls, model: nn.Module, layers: Layers = None, reads: Collection[str] | None = None) -> "ModelSpec":
        """Read the spec off a timm network, which is run on one image for it, without a trace.

        Args:
            model: A network made by `timm.create_model` or `load_model`.
            layers: Which of its maps are its features: None for all, "stages" for the deepest of each size, or positions
                from shallow to deep, negative ones from the end.
            reads: What will be read, each of which must be there. Where that is the logits alone the network is not run,
                and nothing is said of its features. None for whatever it has.

        Raises:
            ValueError: When it is no timm network, does not have those layers, or does not hand out what will be read.
        """
        name = network_name(model)
        images = image_config(model)
        known = {
            "name": name,
            "num_classes": model.num_classes,
            "mean": images.mean,
            "std": images.std,
            "input_size": images.input_size,
        }
        if reads is not None and set(reads) <= {"logits"}:
            return cls(
                **known,
                embedding_dim=model.head_hidden_size,
                feature_channels=(),
                feature_reductions=(),
                reads=frozenset({"logits"}),
            )
        anatomy = examine(model, layers)
        anatomy.require(frozenset(reads or ()))
        channels = {position: shape[0] for position, shape in zip(anatomy.layers, anatomy.feature_shapes, strict=True)}
        return cls(
            **known,
            embedding_dim=anatomy.embedding_dim,
            feature_channels=tuple(channels.values()),
            feature_reductions=_reductions(model, anatomy, images.input_size[1]),
            feature_sizes=tuple(shape[1:] for shape in anatomy.feature_shapes),
            preactivation_channels=tuple(channels[position] for position in anatomy.preactivated),
            preactivation_norms=anatomy.norms,
            layers=anatomy.layers,
            reads=frozenset(READS) - anatomy.refusals.keys(),
        )


def _reductions(model: nn.Module, anatomy: Anatomy, image_height: int) -> tuple[int, ...]:
    """The strides that the network declares; where the measured height is off by a pixel or more, what it says."""
    declared = [info["reduction"] for info in getattr(model, "feature_info", None) or []]
    found = []
    for position, (_, height, _) in zip(anatomy.layers, anatomy.feature_shapes, strict=True):
        agrees = position < len(declared) and abs(image_height / declared[position] - height) < 1
        found.append(declared[position] if agrees else round(image_height / height))
    return tuple(found)
