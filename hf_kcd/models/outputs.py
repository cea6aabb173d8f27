"""What a network hands out to a distillation method, and what is known of it before it is run."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import timm.data
from torch import Tensor, nn

from ..names import unknown_name

READS = ("logits", "embedding", "features", "preactivations")


@dataclass
class ModelOutputs:
    """What one forward pass of a network handed out; None for what was not read.

    Args:
        logits: [B, num_classes].
        embedding: What the classifier sees, [B, embedding_dim].
        features: Feature maps from shallow to deep, each [B, C, H, W]; of the CIFAR networks f0 (stem), f1, f2, f3.
        preactivations: The stages before their last ReLU: one for each of `features[1:]`, of the same shape.
    """

    logits: Tensor | None = None
    embedding: Tensor | None = None
    features: list[Tensor] | None = None
    preactivations: list[Tensor] | None = None


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
    """

    name: str
    num_classes: int
    embedding_dim: int
    feature_channels: tuple[int, ...]
    feature_reductions: tuple[int, ...]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    input_size: tuple[int, int, int]

    @classmethod
    def of(cls, model: nn.Module) -> "ModelSpec":
        """Read the spec off a timm network.

        Args:
            model: A network made by `timm.create_model` or `load_model`.

        Raises:
            ValueError: When it is none, with its class.
        """
        name = network_name(model)
        # Networks without feature maps (plain MLPs) have an empty list or none.
        feature_info = getattr(model, "feature_info", None) or []
        data_config = timm.data.resolve_model_data_config(model)
        # What the network was built with goes before what its published weights were trained with.
        channels = getattr(model, "in_chans", data_config["input_size"][0])
        size = getattr(getattr(model, "patch_embed", None), "img_size", None) or data_config["input_size"][1:]
        return cls(
            name=name,
            num_classes=model.num_classes,
            embedding_dim=model.head_hidden_size,
            feature_channels=tuple(info["num_chs"] for info in feature_info),
            feature_reductions=tuple(info["reduction"] for info in feature_info),
            mean=_per_channel(data_config["mean"], channels),
            std=_per_channel(data_config["std"], channels),
            input_size=(channels, *size),
        )


def network_name(model: nn.Module) -> str:
    """Return the name of a network in timm.

    Raises:
        ValueError: When it does not come from timm, with its class.
    """
    config = getattr(model, "pretrained_cfg", None)
    if not config or not config.get("architecture"):
        raise ValueError(
            f"{type(model).__name__} is no timm network: it has no pretrained_cfg. Make it with timm.create_model or "
            "hf_kcd.load_model; a network of your own is registered with timm.models.register_model."
        )
    return config["architecture"]


def read_outputs(model: nn.Module, images: Tensor, reads: frozenset[str]) -> ModelOutputs:
    """Run a network once and hand out what is asked for.

    Args:
        model: A timm network.
        images: Normalised images [B, C, H, W].
        reads: Which of "logits", "embedding", "features", "preactivations".

    Returns:
        The outputs asked for; the others are None.

    Raises:
        ValueError: For another name, and for what this network cannot hand out, naming it.
    """
    if reads == {"logits"}:
        return ModelOutputs(logits=model(images))
    for read in reads:
        if read not in READS:
            raise unknown_name("network output", read, READS)

    outputs = ModelOutputs()
    if "preactivations" in reads:
        final, features, outputs.preactivations = _tap(model, "forward_taps", "preactivations")(images)
    elif "features" in reads:
        final, features = _tap(model, "forward_intermediates", "features")(images)
    else:
        final = _tap(model, "forward_features", "embedding")(images)
    if "features" in reads:
        outputs.features = features
    if "embedding" in reads:
        outputs.embedding = model.forward_head(final, pre_logits=True)
        if "logits" in reads:
            outputs.logits = _classify(model, outputs.embedding)
    elif "logits" in reads:
        outputs.logits = model.forward_head(final)
    return outputs


def _per_channel(values: Sequence[float], channels: int) -> tuple[float, ...]:
    # timm's rule for a network of other channels than its configuration's: their mean for each.
    return tuple(values) if len(values) == channels else (sum(values) / len(values),) * channels


def _tap(model: nn.Module, function: str, read: str) -> Callable[..., tuple]:
    if not hasattr(model, function):
        raise ValueError(
            f"{network_name(model)} does not hand out {read}: it has no {function}. Choose another method, or a "
            "network that has it (hf_kcd's own cifar_* networks have every output)."
        )
    return getattr(model, function)


def _classify(model: nn.Module, embedding: Tensor) -> Tensor:
    # The head is not run a second time: its dropout and its normalisation would differ from the embedding's.
    classifier = model.get_classifier()
    if not isinstance(classifier, nn.Linear | nn.Identity) or embedding.ndim != 2:
        raise ValueError(
            f"{network_name(model)} does not hand out embedding and logits in one pass: its classifier is a "
            f"{type(classifier).__name__} over [{', '.join(map(str, embedding.shape))}]. Choose another."
        )
    return classifier(embedding)
