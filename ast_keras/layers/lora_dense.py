"""`LoRADense`: a dense layer that can train a low-rank update of its kernel (LoRA)."""

import keras
from keras import ops


@keras.saving.register_keras_serializable(package="ast_keras")
class LoRADense(keras.layers.Dense):
    """A dense layer whose low-rank update (`enable_lora`) is saved and loaded without loss.

    `enable_lora(rank)` freezes the kernel and adds `lora_alpha / rank` times the product of two
    trained factors to it, `[size, rank]` and `[rank, units]`. The second one starts at zero, so
    that the layer first computes what it computed before. Saving merges the product into the
    kernel. In contrast to `keras.layers.Dense`, the merged kernel keeps its precision under a mixed
    dtype policy, and a layer whose kernel is loaded can still train its factors.

    Args:
        units: Size of the output.
        **kwargs: Other arguments of `keras.layers.Dense`.

    Call arguments:
        inputs: `[..., size]`.

    Output shape:
        `[..., units]`.

    Reference:
        Hu et al., "LoRA: Low-Rank Adaptation of Large Language Models", ICLR 2022.

    Example:

    >>> layer = LoRADense(6)
    >>> layer.build((None, 4))
    >>> layer.enable_lora(rank=2)
    >>> [weight.name for weight in layer.trainable_weights]
    ['bias', 'lora_kernel_a', 'lora_kernel_b']
    """

    def merged_kernel(self):
        """Returns the kernel with the low-rank update, in the dtype of the weight."""
        update = ops.matmul(self.lora_kernel_a, self.lora_kernel_b)
        return ops.add(self._kernel, (self.lora_alpha / self.lora_rank) * update)

    def reset_lora(self):
        """Sets the factors to new values whose product is zero."""
        initializer = keras.initializers.HeUniform()
        self.lora_kernel_a.assign(initializer(self.lora_kernel_a.shape, "float32"))
        self.lora_kernel_b.assign(ops.zeros_like(self.lora_kernel_b))

    def save_own_variables(self, store):
        if not self.lora_enabled:
            super().save_own_variables(store)
            return
        store["0"] = self.merged_kernel()  # Keras's would have the compute dtype
        if self.bias is not None:
            store["1"] = self.bias

    def load_own_variables(self, store):
        super().load_own_variables(store)
        if self.lora_enabled:
            self.reset_lora()  # Keras sets both factors to zero: neither would have a gradient


def lora_layers(model):
    """Returns the layers of a model that have low-rank factors, or could have them.

    Args:
        model: A built model or layer.

    Returns:
        A list of `LoRADense`.

    Example:

    >>> from ast_keras import ASTBackbone
    >>> len(lora_layers(ASTBackbone.from_preset("ast_test", num_frames=98)))  # 4 in each block
    8
    """
    return [layer for layer in model._flatten_layers() if isinstance(layer, LoRADense)]


def merged_kernels(model):
    """Returns the kernels of a model that have a low-rank update, with this update.

    Args:
        model: A built model or layer.

    Returns:
        The merged kernel by the `id` of its weight; empty without LoRA.
    """
    layers = [layer for layer in lora_layers(model) if layer.lora_enabled]
    return {id(layer._kernel): layer.merged_kernel() for layer in layers}


def merged_weights(model):
    """Returns the weights that a model of the same config has without LoRA.

    Args:
        model: A built model.

    Returns:
        A list of arrays, for `set_weights` of the other model.
    """
    kernels = merged_kernels(model)
    weights = [weight for weight in model.weights if not weight.name.startswith("lora_kernel")]
    return [ops.convert_to_numpy(kernels.get(id(weight), weight)) for weight in weights]
