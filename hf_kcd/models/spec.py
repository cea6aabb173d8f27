"""What is known of a network before training: `ModelSpec`."""

from collections.abc import Collection
from dataclasses import dataclass, field

from torch import nn

from .configuration import image_config, network_name
from .outputs import READS
from .probe import Layers, NetworkProbe, Norm, probe_network


@dataclass(frozen=True)
class ModelSpec:
    """What a method needs to know of a network to build its adapters, and a trainer to feed it.

    Args:
        name: The network's name in timm.
        num_classes: Number of logits.
        embedding_dim: Channels of the embedding.
        feature_channels: Channels of each feature map, from shallow to deep, the stem included.
        feature_reductions: How many times smaller than the image each feature map is.
        mean, std: Normalization of its images, per channel of an image in [0, 1].
        input_size: Channels, height and width of its images.
        feature_sizes: Height and width of each feature map, at `input_size`.
        preactivation_channels: Channels of each pre-activation: one for each feature but the stem, of the same size.
        preactivation_norms: For each pre-activation the weight and bias of its batch normalization (the network's own
            tensors); None without a batch normalization, or without an activation behind it.
        layers: Positions of the features among the network's maps; None for all of them.
        reads: What the network provides: any of "logits", "embedding", "features", "preactivations".
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
        """Describe a timm network, running it once on one image without leaving a trace.

        Args:
            model: A network from `timm.create_model` or `load_model`.
            layers: Which of its maps are its features (see `Layers`).
            reads: Outputs that it must provide; None for whatever it does. For the logits alone it is not run.

        Raises:
            ValueError: When it is not a timm network, or lacks those layers or outputs.
        """
        images = image_config(model)
        known = {"name": network_name(model), "num_classes": model.num_classes, "input_size": images.input_size}
        known |= {"mean": images.mean, "std": images.std}
        if reads is not None and set(reads) <= {"logits"}:
            known |= {"embedding_dim": model.head_hidden_size, "feature_channels": (), "feature_reductions": ()}
            return cls(**known, reads=frozenset({"logits"}))
        probe = probe_network(model, layers)
        probe.require(frozenset(reads or ()))
        channels = {position: shape[0] for position, shape in zip(probe.layers, probe.feature_shapes, strict=True)}
        return cls(
            **known,
            embedding_dim=probe.embedding_dim,
            feature_channels=tuple(channels.values()),
            feature_reductions=_reductions(model, probe, images.input_size[1]),
            feature_sizes=tuple(shape[1:] for shape in probe.feature_shapes),
            preactivation_channels=tuple(channels[position] for position in probe.preactivated),
            preactivation_norms=probe.norms,
            layers=probe.layers,
            reads=frozenset(READS) - probe.refusals.keys(),
        )


def _reductions(model: nn.Module, probe: NetworkProbe, image_height: int) -> tuple[int, ...]:
    """The network's declared strides; where the measured height differs by a pixel or more, the measured ones."""
    declared = [info["reduction"] for info in getattr(model, "feature_info", None) or []]
    found = []
    for position, (_, height, _) in zip(probe.layers, probe.feature_shapes, strict=True):
        agrees = position < len(declared) and abs(image_height / declared[position] - height) < 1
        found.append(declared[position] if agrees else round(image_height / height))
    return tuple(found)
