"""What a network hands out to a distillation method, from one forward pass."""

from collections.abc import Collection
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from ..errors import unknown_name
from .anatomy import Layers, examine

READS = ("logits", "embedding", "features", "preactivations")


@dataclass
class ModelOutputs:
    """What one forward pass of a network handed out; None for what was not read.

    Args:
        logits: [B, num_classes].
        embedding: What the classifier sees, [B, embedding_dim].
        features: Feature maps from shallow to deep, each [B, C, H, W]; of the CIFAR networks f0 (stem), f1, f2, ...
        preactivations: The features before their last activation: one for each but the stem, of the same shape.
    """

    logits: Tensor | None = None
    embedding: Tensor | None = None
    features: list[Tensor] | None = None
    preactivations: list[Tensor] | None = None


class OutputReader:
    """Reads one network's outputs; what it cannot hand out is refused when the reader is made, before any step.

    Token grids of transformers come as maps. The stem, position 0 of a network's maps, has no pre-activation: these belong
    to the last of the features, to all of them where the stem is not chosen. Of timm's networks they are what goes into
    the activation whose output is the feature; such an activation is made to work out of place, for good.

    Args:
        model: A timm network.
        reads: Which of "logits", "embedding", "features", "preactivations".
        layers: Which maps of the network are its features: None for all, "stages" for the deepest of each size, or
            positions from shallow to deep, negative ones from the end.

    Raises:
        ValueError: For another name in `reads`, for layers that do not exist, and for what this network cannot hand out.
    """

    def __init__(self, model: nn.Module, reads: Collection[str], layers: Layers = None) -> None:
        for read in reads:
            if read not in READS:
                raise unknown_name("network output", read, READS)
        self.model = model
        self.reads = frozenset(reads)
        if self.reads <= {"logits"}:
            return
        anatomy = examine(model, layers)
        anatomy.require(self.reads)
        self._name = anatomy.name
        self._layers = list(anatomy.layers)
        self._preactivated = anatomy.preactivated
        self._taps: list[tuple[ActivationTap, int]] = []
        if "preactivations" in self.reads:
            self._taps = [(ActivationTap.on(module), call) for module, call in anatomy.activations]
        self._classifier_dims = anatomy.classifier_dims
        # A head of several layers is run twice, up to the embedding and whole, which must be twice the same.
        runs_twice = {"logits", "embedding"} <= self.reads and anatomy.classifier_dims is None
        self._only_evaluates = runs_twice and anatomy.head_is_random
        self._check_mode()

    def __call__(self, images: Tensor) -> ModelOutputs:
        """Run the network once and hand out what is read.

        Args:
            images: Normalised images [B, C, H, W].

        Returns:
            The outputs that are read; the others are None.
        """
        if self.reads == {"logits"}:
            return ModelOutputs(logits=self.model(images))
        self._check_mode()
        outputs = ModelOutputs()
        final = self._run_body(images, outputs)
        if "embedding" in self.reads:
            outputs.embedding = self.model.forward_head(final, pre_logits=True).flatten(1)
        if "logits" in self.reads:
            outputs.logits = self._classify(final, outputs.embedding)
        return outputs

    def _run_body(self, images: Tensor, outputs: ModelOutputs) -> Any:
        """Run up to the head, fill in features and pre-activations, and return what the head is given."""
        if not self.reads & {"features", "preactivations"}:
            return self.model.forward_features(images)
        if "preactivations" in self.reads and not self._taps:
            final, features, preactivations = self.model.forward_taps(images)
            features = [features[position] for position in self._layers]
            outputs.preactivations = [preactivations[position - 1] for position in self._preactivated]
        else:
            for tap, _ in self._taps:
                tap.inputs = []
            try:
                final, features = self._run_intermediates(images)
                if self._taps:
                    outputs.preactivations = [tap.inputs[call] for tap, call in self._taps]
            finally:
                for tap, _ in self._taps:
                    tap.inputs = None
        if "features" in self.reads:
            outputs.features = features
        return final

    def _run_intermediates(self, images: Tensor) -> tuple[Any, list[Tensor]]:
        if self.reads & {"logits", "embedding"}:
            return self.model.forward_intermediates(images, indices=self._layers, output_fmt="NCHW")
        # What lies behind the deepest feature is not computed.
        features = self.model.forward_intermediates(
            images, indices=self._layers, stop_early=True, output_fmt="NCHW", intermediates_only=True
        )
        return None, features

    def _classify(self, final: Any, embedding: Tensor | None) -> Tensor:
        if embedding is None or self._classifier_dims is None:
            return self.model.forward_head(final)
        # The head is not run a second time: its dropout and its normalisation would differ from the embedding's.
        if self._classifier_dims == 4:
            embedding = embedding[:, :, None, None]
        return self.model.get_classifier()(embedding).flatten(1)

    def _check_mode(self) -> None:
        if self._only_evaluates and self.model.training:
            raise ValueError(
                f"{self._name} does not hand out embedding and logits in one training pass: its head is more than one "
                "layer, and its dropout or batch normalisation would be drawn twice. Create it with drop_rate=0."
            )


class ActivationTap:
    """Keeps what an activation is given while somebody reads, as a hook of that module.

    Args:
        module: The activation; made to work out of place, since otherwise what it is given becomes what it returns. Its
            values stay the same.
    """

    def __init__(self, module: nn.Module) -> None:
        self.inputs: list[Tensor] | None = None
        if getattr(module, "inplace", False):
            module.inplace = False
        module.register_forward_pre_hook(self)

    @classmethod
    def on(cls, module: nn.Module) -> "ActivationTap":
        """Return the tap of a module, which has one however many read it."""
        known = (hook for hook in module._forward_pre_hooks.values() if isinstance(hook, cls))
        return next(known, None) or cls(module)

    def __call__(self, module: nn.Module, args: tuple[Tensor, ...]) -> None:
        if self.inputs is not None:
            self.inputs.append(args[0])


def read_outputs(model: nn.Module, images: Tensor, reads: Collection[str], layers: Layers = None) -> ModelOutputs:
    """Run a network once and hand out what is asked for: an `OutputReader` made for one reading.

    Args:
        model: A timm network.
        images: Normalised images [B, C, H, W].
        reads, layers: As in `OutputReader`.
    """
    return OutputReader(model, reads, layers)(images)
