"""What one forward pass of a network gives to a distillation method."""

from collections.abc import Collection, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from ..errors import unknown_name
from .probe import Layers, probe_network

READS = ("logits", "embedding", "features", "preactivations")


@dataclass
class ModelOutputs:
    """The outputs of one forward pass; None for what was not read.

    Args:
        logits: [B, num_classes].
        embedding: Input of the classifier, [B, embedding_dim].
        features: Feature maps from shallow to deep, each [B, C, H, W]; for CIFAR networks f0 (stem), f1, f2, ...
        preactivations: The features before their last activation: one for each but the stem, of the same shape.
    """

    logits: Tensor | None = None
    embedding: Tensor | None = None
    features: list[Tensor] | None = None
    preactivations: list[Tensor] | None = None


class OutputReader:
    """Reads one network's outputs; refuses what the network does not provide when it is made, before any step.

    Token grids of transformers become maps. Position 0 of a network's maps is the stem, which has no pre-activation. In
    timm's networks a pre-activation is the input of the activation that returns the feature; such an activation works
    out of place while it is read.

    Args:
        model: A timm network.
        reads: Any of "logits", "embedding", "features", "preactivations".
        layers: Which maps of the network are its features (see `Layers`).

    Raises:
        ValueError: For an unknown name in `reads`, layers that do not exist, and outputs that the network does not provide.
    """

    def __init__(self, model: nn.Module, reads: Collection[str], layers: Layers = None) -> None:
        for read in reads:
            if read not in READS:
                raise unknown_name("network output", read, READS)
        self.model = model
        self.reads = frozenset(reads)
        if self.reads <= {"logits"}:
            return
        probe = probe_network(model, layers)
        probe.require(self.reads)
        self._name, self._layers, self._preactivated = probe.name, list(probe.layers), probe.preactivated
        self._classifier_dims = probe.classifier_dims
        self._taps: list[tuple[_ActivationTap, int]] = []
        self._attached = False
        if "preactivations" in self.reads:
            taps = {module: _ActivationTap(module) for module, _ in probe.activations}
            self._taps = [(taps[module], call) for module, call in probe.activations]
        # A head of several layers runs twice, up to the embedding and whole, and must give the same both times.
        runs_twice = {"logits", "embedding"} <= self.reads and probe.classifier_dims is None
        self._only_evaluates = runs_twice and probe.head_is_random
        self._check_mode()

    def __call__(self, images: Tensor) -> ModelOutputs:
        """Run the network once on normalized images [B, C, H, W] and return what is read."""
        if self.reads == {"logits"}:
            return ModelOutputs(logits=self.model(images))
        if self._taps and not self._attached:
            with self.attached():
                return self(images)
        self._check_mode()
        outputs = ModelOutputs()
        final = self._run_body(images, outputs)
        if "embedding" in self.reads:
            outputs.embedding = self.model.forward_head(final, pre_logits=True).flatten(1)
        if "logits" in self.reads:
            outputs.logits = self._classify(final, outputs.embedding)
        return outputs

    @contextmanager
    def attached(self) -> Iterator[None]:
        """Keep the hooks between many calls, which else come and go with each call; a backward pass may need them too."""
        if self.reads <= {"logits"} or self._attached:
            yield
            return
        with ExitStack() as stack:
            for tap in dict(self._taps):
                stack.enter_context(tap.attached())
            self._attached = True
            try:
                yield
            finally:
                self._attached = False

    def _run_body(self, images: Tensor, outputs: ModelOutputs) -> Any:
        """Run up to the head, fill in features and pre-activations, and return the head's input."""
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
        # Nothing behind the deepest feature is computed.
        options = {"stop_early": True, "intermediates_only": True, "output_fmt": "NCHW"}
        return None, self.model.forward_intermediates(images, indices=self._layers, **options)

    def _classify(self, final: Any, embedding: Tensor | None) -> Tensor:
        if embedding is None or self._classifier_dims is None:
            return self.model.forward_head(final)
        # A second run of the head would draw another dropout than the embedding's.
        if self._classifier_dims == 4:
            embedding = embedding[:, :, None, None]
        return self.model.get_classifier()(embedding).flatten(1)

    def _check_mode(self) -> None:
        if self._only_evaluates and self.model.training:
            raise ValueError(
                f"{self._name} cannot give embedding and logits in one training pass: its head of several layers would "
                "draw its dropout or batch normalization twice. Create it with drop_rate=0."
            )


class _ActivationTap:
    """Keeps an activation's inputs while somebody reads."""

    def __init__(self, module: nn.Module) -> None:
        self.module = module
        self.inputs: list[Tensor] | None = None

    @contextmanager
    def attached(self) -> Iterator[None]:
        """Listen to the activation, which works out of place meanwhile."""
        works_in_place = getattr(self.module, "inplace", False)
        if works_in_place:
            self.module.inplace = False
        handle = self.module.register_forward_pre_hook(self._note)
        try:
            yield
        finally:
            handle.remove()
            if works_in_place:
                self.module.inplace = True

    def _note(self, module: nn.Module, args: tuple[Tensor, ...]) -> None:
        if self.inputs is not None:
            self.inputs.append(args[0])


def read_outputs(model: nn.Module, images: Tensor, reads: Collection[str], layers: Layers = None) -> ModelOutputs:
    """Run a network once and return what is asked for; the arguments are those of `OutputReader`."""
    return OutputReader(model, reads, layers)(images)
