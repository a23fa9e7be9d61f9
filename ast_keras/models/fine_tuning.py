"""`FineTuning`: which parts of a classifier train, how fast, and with LoRA."""

from ast_keras.errors import ArgumentError
from ast_keras.layers.lora_dense import lora_layers

_EMBEDDINGS = ("patches", "special_tokens", "positions")


class FineTuning:
    """Methods of `AudioClassifier` for fine-tuning. Call them before `compile`.

    A model that is saved keeps what `freeze` froze. The result of LoRA is saved as ordinary
    weights: the loaded model has no factors, and all that `freeze` did not freeze trains.
    """

    def freeze(self, part=None):
        """Freezes the backbone, or its first blocks, and lets all the rest of it train.

        Dropout, stochastic depth and patchout of frozen layers stay active in training, as Keras
        does it.

        Args:
            part: "backbone" for the whole backbone; a number N for the patch embedding, special
                tokens, positions and the first N transformer blocks; None for nothing.

        Raises:
            ArgumentError: If `part` is something else, or the backbone has fewer blocks.

        Example:

        >>> from ast_keras import from_preset
        >>> model = from_preset("ast_test", num_classes=2, num_frames=98)
        >>> model.freeze("backbone")
        >>> [weight.path for weight in model.trainable_weights]
        ['head_norm/gamma', 'head_norm/beta', 'head/kernel', 'head/bias']
        """
        layers = self._frozen_by(part)
        backbone = self.backbone
        # Keras ignores an assignment of the value that is set already.
        backbone.trainable = False
        backbone.trainable = True
        _freeze_all_but_factors(backbone)
        for layer in layers:
            layer.trainable = False

    def _frozen_by(self, part):
        if part is None:
            return []
        if part == "backbone":
            return [self.backbone]
        if type(part) is not int or part < 0:
            raise ArgumentError(
                'freeze takes "backbone", a number of blocks, or None for nothing. '
                f"Received: part={part!r}"
            )
        blocks = self._blocks()
        if part > len(blocks):
            raise ArgumentError(
                f"The backbone has {len(blocks)} transformer blocks: freeze at most as many, or "
                f'"backbone". Received: part={part}'
            )
        return [*map(self.backbone.get_layer, _EMBEDDINGS), *blocks[:part]]

    def enable_lora(self, rank, alpha=None):
        """Adds low-rank factors to all dense layers of the transformer blocks (LoRA).

        These are the projections of attention and both layers of the perceptron. From then on the
        factors and the head train; the backbone's other weights, biases and normalisation included,
        are frozen. The model first computes what it computed before. A step takes about as long as
        without LoRA; the optimizer needs memory for the factors only. Whatever saves or exports
        the model merges the factors into the kernels.

        Args:
            rank: Rank of the update of a kernel, a positive int.
            alpha: The update is multiplied by `alpha / rank`. None for `rank`.

        Raises:
            ArgumentError: If the rank is not a positive int, `alpha` is not positive, the model has
                LoRA already, or the backbone has no such layers.

        Example:

        >>> from ast_keras import from_preset
        >>> model = from_preset("ast_test", num_classes=2, num_frames=98)
        >>> model.enable_lora(rank=4)
        >>> sum(weight.shape.num_elements() for weight in model.trainable_weights)
        4802
        """
        if type(rank) is not int or rank < 1:
            raise ArgumentError(f"rank must be a positive int. Received: rank={rank!r}")
        if alpha is not None and not alpha > 0:
            raise ArgumentError(f"alpha must be positive. Received: alpha={alpha!r}")
        backbone, layers = self.backbone, lora_layers(self.backbone)
        if not layers:
            raise ArgumentError(
                "enable_lora needs a backbone of TransformerBlock layers. "
                f"Received: {type(backbone).__name__}"
            )
        if getattr(backbone, "lora_rank", None):
            raise ArgumentError(
                "The model has LoRA already: save and load it first, which merges the factors. "
                f"Received: rank={rank}, its own is {backbone.lora_rank}"
            )
        for layer in layers:
            layer.enable_lora(rank, lora_alpha=alpha)
        backbone.lora_rank = rank
        _freeze_all_but_factors(backbone)

    def learning_rate_factors(self, layer_decay=1.0, head_factor=1.0):
        """Returns factors of the learning rate, the argument of `AdamL2` and `AdamW`.

        Args:
            layer_decay: Layer-wise decay, in (0, 1]. The last transformer block has the factor
                `layer_decay`, each block before it that of the next one times `layer_decay`, and
                patch embedding, special tokens and positions that of the first block times
                `layer_decay`. The last LayerNorm of the backbone has 1.
            head_factor: Factor of the head and of its LayerNorm.

        Returns:
            A dictionary from names of layers to factors, without those that are 1.

        Raises:
            ArgumentError: If a value is out of its range.

        Reference:
            Bao et al., "BEiT: BERT Pre-Training of Image Transformers", ICLR 2022, for the decay;
            Gong et al., "Contrastive Audio-Visual Masked Autoencoder", ICLR 2023, for the head.

        Example:

        >>> from ast_keras import from_preset
        >>> model = from_preset("ast_test", num_classes=2, num_frames=98)
        >>> factors = model.learning_rate_factors(layer_decay=0.5, head_factor=10)
        >>> [factors[name] for name in ("positions", "block_0", "block_1", "head")]
        [0.125, 0.25, 0.5, 10]
        """
        if not 0 < layer_decay <= 1:
            raise ArgumentError(
                f"layer_decay must be above 0 and at most 1. Received: layer_decay={layer_decay}"
            )
        if not head_factor > 0:
            raise ArgumentError(f"head_factor must be positive. Received: {head_factor=}")
        factors = {}
        if layer_decay != 1:
            names = [block.name for block in self._blocks()]
            factors = {name: layer_decay ** (len(names) - i) for i, name in enumerate(names)}
            factors |= dict.fromkeys(_EMBEDDINGS, layer_decay ** (len(names) + 1))
        if head_factor != 1:
            factors |= dict.fromkeys((self.head_norm.name, self.head.name), head_factor)
        return factors

    def _blocks(self):
        blocks = getattr(self.backbone, "blocks", None)
        if blocks is None:
            raise ArgumentError(
                "Only a backbone with transformer blocks (ASTBackbone) can be treated block by "
                f"block. Received: {type(self.backbone).__name__}"
            )
        return blocks


def _freeze_all_but_factors(backbone):
    """Freezes the weights that LoRA does not train; does nothing without LoRA."""
    if not getattr(backbone, "lora_rank", None):
        return
    for weight in backbone.weights:
        weight.trainable = False
    for layer in lora_layers(backbone):
        layer.lora_kernel_a.trainable = layer.lora_kernel_b.trainable = layer.trainable
