"""ASTBackbone: the Audio Spectrogram Transformer from spectrogram to tokens."""

import dataclasses

import keras
import tensorflow as tf
from keras import ops

from ast_keras.errors import ArgumentError
from ast_keras.layers.patch_embedding import PatchEmbedding, patch_grid
from ast_keras.layers.position_embedding import PositionEmbedding
from ast_keras.layers.special_tokens import SpecialTokens
from ast_keras.layers.token_normalization import TokenNormalization
from ast_keras.layers.token_reduction import Patchout
from ast_keras.layers.transformer_block import TransformerBlock
from ast_keras.models.token_options import TokenOptions
from ast_keras.models.trainable_parts import trainable_config, with_trainable_parts


@keras.saving.register_keras_serializable(package="ast_keras")
class ASTBackbone(keras.Model):
    """The Audio Spectrogram Transformer without its head: spectrogram to tokens.

    A vision transformer (DeiT) over overlapping patches of a normalised log-mel spectrogram. Any
    patch size, stride, number of frames and number of mel bins are possible. The weights are
    random; `ASTBackbone.from_preset` loads released or saved ones.

    The layers are applied in this order, by three methods:

    1. `call` projects overlapping patches of the spectrogram ("patches") and calls `encode`.
    2. `encode` first calls `embed_tokens`, which puts the class token and the distillation token
       before the patches ("special_tokens") and adds the position embedding ("positions").
    3. `encode` then applies "position_dropout" and "patchout", which drops patches in training.
    4. It applies the transformer blocks ("block_0", "block_1", ...) and a LayerNorm ("norm").

    A subclass with another order of tokens, as `CausalASTBackbone`, overrides `embed_tokens`,
    `pool`, `num_pooled_tokens`, `min_frames`, `count_tokens` and `describe_positions`.

    With `padding="masked"` the model takes any number of frames, also more than `num_frames`, and
    clips of different lengths in one batch. Padding is not attended to, so that the result of a
    clip does not depend on the batch. Only whole patches are used, at least one per clip.

    Keras sees a functional model: `summary()`, `get_layer(...).output` and `plot_model` show the
    graph for clips of `num_frames` frames. `call` computes the same for such clips; masks,
    interpolated positions, token merging and the mask of `CausalASTBackbone` are not part of that
    graph. For the output of a single block, use `blocks` and `embed_tokens`.

    Args:
        embed_dim: Size of every token.
        num_layers: Number of transformer blocks.
        num_heads: Number of attention heads in each block; must divide `embed_dim`.
        mlp_dim: Width of the hidden layer of each block's perceptron.
        num_mel_bins: Height of the spectrogram, in mel bins.
        num_frames: Length of the spectrogram, in frames.
        patch_size: Size of a patch `(mel, time)`, in bins and frames.
        strides: Distance between neighbouring patches `(mel, time)`, in bins and frames.
        use_distillation_token: Whether a distillation token follows the class token, as in DeiT.
        dropout: Dropout rate after the position embedding and in the blocks.
        attention_dropout: Dropout rate of the attention weights. A non-zero rate stores the full
            attention matrix for the backward pass.
        drop_path: Stochastic depth rate of the last block; the rates of the blocks grow linearly
            from zero at the first one.
        layer_norm_epsilon: Epsilon of every LayerNorm; 1e-6 in the authors' code.
        padding: "original" for clips of exactly `num_frames` frames, all of which are attended to,
            padding included, as in the authors' code. "masked" for clips of any length.
        patchout: Fraction of single patches dropped from each training example, in [0, 1).
        patchout_mel: Fraction of the rows of patches dropped in training, in [0, 1).
        patchout_time: Fraction of the columns of patches dropped in training, in [0, 1).
        merge_tokens: Number of tokens merged in every block except the last, at inference. 0
            disables merging. Calls without `num_tokens` merge nothing, because merged tokens
            cannot be returned; `ASTClassifier` passes it.
        gradient_checkpointing: Whether blocks are computed a second time for the gradient, which
            takes less memory and about a quarter more time. All dropout rates must be 0.
        dtype: Dtype policy of all layers, a name or a `keras.DTypePolicy`; None for the global one.

    Call arguments:
        spectrogram: Normalised log-mels `[batch, num_frames, num_mel_bins]`; any number of frames
            with `padding="masked"`, at least `min_frames`.
        training: Whether dropout, stochastic depth and Patchout are active.
        lengths: Optional int `[batch]`, the number of valid frames of each clip. Needs
            `padding="masked"`.
        num_tokens: Number of tokens to return, counted from the first; None for all. The last
            block computes only these.

    Output shape:
        `[batch, num_tokens or special tokens + patches, embed_dim]`, normalised: the class token,
        the distillation token, then the patches in mel-major order.

    Raises:
        ArgumentError: If the spectrogram is smaller than a patch, `num_heads` does not divide
            `embed_dim`, or an option is out of its range.

    Reference:
        Gong, Chung, Glass, "AST: Audio Spectrogram Transformer", Interspeech 2021.

    Example:

    >>> import numpy as np
    >>> backbone = ASTBackbone(
    ...     embed_dim=48, num_layers=2, num_heads=3, mlp_dim=192, num_frames=128
    ... )
    >>> backbone(np.zeros((1, 128, 128), "float32")).shape
    TensorShape([1, 146, 48])
    """

    def __init__(
        self,
        *,
        embed_dim,
        num_layers,
        num_heads,
        mlp_dim,
        num_mel_bins=128,
        num_frames=1024,
        patch_size=(16, 16),
        strides=(10, 10),
        use_distillation_token=True,
        dropout=0.0,
        attention_dropout=0.0,
        drop_path=0.0,
        layer_norm_epsilon=1e-6,
        padding="original",
        patchout=0.0,
        patchout_mel=0.0,
        patchout_time=0.0,
        merge_tokens=0,
        gradient_checkpointing=False,
        dtype=None,
        name=None,
        trainable=True,
    ):  # no **kwargs: a functional model would ignore a misspelt argument
        token_options = TokenOptions(padding, patchout, patchout_mel, patchout_time, merge_tokens)
        token_options.validate()
        if gradient_checkpointing and (dropout or attention_dropout or drop_path):
            raise ArgumentError(
                "gradient_checkpointing computes blocks twice, and dropout would draw differently "
                "the second time: set dropout, attention_dropout and drop_path to 0. Received: "
                f"dropout={dropout}, attention_dropout={attention_dropout}, drop_path={drop_path}"
            )
        # --- Layers ---
        grid = patch_grid(num_mel_bins, num_frames, patch_size, strides)
        policy = keras.dtype_policies.get(dtype or keras.config.dtype_policy())
        patches = PatchEmbedding(
            embed_dim=embed_dim,
            patch_size=patch_size,
            strides=strides,
            dtype=policy,
            name="patches",
        )
        special_tokens = SpecialTokens(
            use_distillation_token=use_distillation_token, dtype=policy, name="special_tokens"
        )
        positions = PositionEmbedding(grid=grid, dtype=policy, name="positions")
        position_dropout = keras.layers.Dropout(dropout, dtype=policy, name="position_dropout")
        patchout_layer = Patchout(
            grid=grid,
            patch_rate=patchout,
            mel_rate=patchout_mel,
            time_rate=patchout_time,
            num_special_tokens=special_tokens.num_tokens,
            dtype=policy,
            name="patchout",
        )
        blocks = [
            TransformerBlock(
                num_heads=num_heads,
                mlp_dim=mlp_dim,
                dropout=dropout,
                attention_dropout=attention_dropout,
                drop_path=drop_path * index / max(num_layers - 1, 1),
                layer_norm_epsilon=layer_norm_epsilon,
                dtype=policy,
                name=f"block_{index}",
            )
            for index in range(num_layers)
        ]
        norm = TokenNormalization(epsilon=layer_norm_epsilon, dtype=policy, name="norm")

        # --- Functional model ---
        # Creates the weights and the graph that Keras shows. The forward pass that runs is `call`.
        spectrogram = keras.Input((num_frames, num_mel_bins), name="spectrogram")
        tokens = positions(special_tokens(patches(spectrogram)))
        tokens = patchout_layer(position_dropout(tokens))
        for block in blocks:
            tokens = block(tokens)
        super().__init__(inputs=spectrogram, outputs=norm(tokens), name=name)
        self.trainable = trainable  # as an argument it would not reach the layers (Keras 3.15)

        # --- Config ---
        self.embed_dim = embed_dim
        self.num_layers = num_layers
        self.num_heads = num_heads
        self.mlp_dim = mlp_dim
        self.num_mel_bins = num_mel_bins
        self.num_frames = num_frames
        self.patch_size = tuple(patch_size)
        self.strides = tuple(strides)
        self.use_distillation_token = use_distillation_token
        self.dropout = dropout
        self.attention_dropout = attention_dropout
        self.drop_path = drop_path
        self.layer_norm_epsilon = layer_norm_epsilon
        self.gradient_checkpointing = gradient_checkpointing
        self.policy = policy
        self.token_options = token_options
        for option, value in dataclasses.asdict(token_options).items():
            setattr(self, option, value)

    @classmethod
    def from_preset(cls, preset, **overrides):
        """Loads the backbone of a released or saved model, or makes one of a named size.

        Args:
            preset: A name or a path, see `ast_keras.from_preset`.
            **overrides: Arguments of `ASTBackbone` that keep the architecture, such as `padding`,
                `num_frames` and `dtype`.

        Example:

        >>> ASTBackbone.from_preset("ast_test", num_frames=128).grid
        (12, 12)
        """
        from ast_keras.presets.loading import backbone_from_preset  # late: presets import models

        return backbone_from_preset(preset, kind=cls, **overrides)

    @property
    def num_special_tokens(self):
        """Number of tokens before the patches: the class token and, if used, the distillation."""
        return 2 if self.use_distillation_token else 1

    @property
    def grid(self):
        """Number of patches `(mel, time)` in `num_frames` frames."""
        return patch_grid(self.num_mel_bins, self.num_frames, self.patch_size, self.strides)

    @property
    def blocks(self):
        """The transformer blocks, from first to last."""
        return [self.get_layer(f"block_{index}") for index in range(self.num_layers)]

    @property
    def input_spec(self):
        frames = self.num_frames if self.padding == "original" else None
        return keras.layers.InputSpec(shape=(None, frames, self.num_mel_bins))

    @property
    def num_pooled_tokens(self):
        """Number of tokens at the start of the output that `pool` reads; None if it reads all."""
        return self.num_special_tokens

    @property
    def min_frames(self):
        """Smallest number of frames of an input: the length of one patch."""
        return self.patch_size[1]

    # --- Forward pass ---

    def call(self, spectrogram, training=None, lengths=None, num_tokens=None):
        if lengths is not None and self.padding == "original":
            raise ArgumentError(
                'lengths needs padding="masked": with "original" all frames are attended to. '
                "Received: lengths"
            )
        columns = None if lengths is None else self.count_columns(lengths)
        return self.encode(self.get_layer("patches")(spectrogram), columns, training, num_tokens)

    def encode(self, patches, columns=None, training=None, num_tokens=None):
        """Computes the backbone's output for patches that are already embedded.

        Args:
            patches: Output of the layer "patches", `[batch, patches, embed_dim]`, mel-major.
            columns: Number of valid columns of patches (along time) of each clip, int `[batch]`;
                None if all are valid. Needs `padding="masked"`.
            training: Whether dropout, stochastic depth and Patchout are active.
            num_tokens: Number of tokens to return, counted from the first; None for all.

        Returns:
            `[batch, num_tokens or tokens, embed_dim]`, normalised.
        """
        tokens, attention_mask = self.embed_tokens(patches, columns)
        tokens = self.get_layer("position_dropout")(tokens, training=training)
        patchout = self.get_layer("patchout")
        if attention_mask is None:
            tokens = patchout(tokens, training=training)
        else:
            tokens, attention_mask = patchout(
                tokens, training=training, attention_mask=attention_mask
            )
        # Merged tokens cannot be returned, so nothing is merged if all tokens are requested.
        if self.merge_tokens and num_tokens is not None and not training:
            tokens = self._run_merging(tokens, attention_mask, num_tokens)
        else:
            tokens = self._run_blocks(tokens, attention_mask, training, num_tokens)
        return self.get_layer("norm")(tokens, training=training)

    def embed_tokens(self, patches, columns=None):
        """Adds special tokens and positions to embedded patches.

        Args:
            patches: Output of the layer "patches", `[batch, patches, embed_dim]`, mel-major.
            columns: Number of valid columns of patches (along time) of each clip, int `[batch]`;
                None if all are valid.

        Returns:
            The input of the first block `[batch, tokens, embed_dim]`, and the attention mask, bool
            `[batch, 1, tokens]`, or None if all tokens are attended to.
        """
        tokens = self.get_layer("special_tokens")(patches)
        positions = self.get_layer("positions")
        if self.padding == "original":
            return positions(tokens), None
        width = ops.shape(patches)[1] // self.grid[0]  # columns of patches, valid or not
        if columns is None:  # all are valid: one number for all clips, `[1]`
            return positions(tokens, columns=ops.reshape(width, (1,))), None
        # Index of each token among the patches, negative for special tokens. In mel-major order
        # the remainder by the width is the column.
        index = ops.arange(ops.shape(tokens)[1]) - self.num_special_tokens
        valid = (index < 0) | (index % width < ops.cast(columns, "int32")[:, None])
        return positions(tokens, columns=columns), valid[:, None, :]

    def _run_blocks(self, tokens, attention_mask, training, num_tokens):
        *blocks, last = self.blocks
        for block in blocks:
            tokens = self._call_block(block, tokens, attention_mask, training)
        return self._call_block(last, tokens, attention_mask, training, num_tokens)

    def _call_block(self, block, tokens, attention_mask, training, num_tokens=None):
        def run(tokens):
            return block(
                tokens, attention_mask=attention_mask, training=training, num_queries=num_tokens
            )

        if self.gradient_checkpointing and training:
            # `keras.RematScope` also calls `tf.recompute_grad`, but passes it keyword arguments,
            # which fail inside a graph (Keras 3.15).
            return tf.recompute_grad(run)(tokens)
        return run(tokens)

    def _run_merging(self, tokens, attention_mask, num_tokens):
        if attention_mask is not None:
            raise ArgumentError(
                "Token merging would mix clips of different lengths with their padding: set "
                "merge_tokens to 0, or pass clips of one length without lengths. Received: "
                f"merge_tokens={self.merge_tokens} and lengths"
            )
        *blocks, last = self.blocks
        token_counts = None
        for block in blocks:
            tokens, token_counts = block.call_and_merge(
                tokens, token_counts, self.merge_tokens, self.num_special_tokens
            )
        tokens, _ = last.call_and_merge(tokens, token_counts, num_queries=num_tokens)
        return tokens

    # --- Sizes ---

    def count_columns(self, num_frames):
        """Returns the number of patches along time in `num_frames` frames, at least one.

        Args:
            num_frames: An int or an int tensor.
        """
        whole = (num_frames - self.patch_size[1]) // self.strides[1] + 1
        return max(whole, 1) if isinstance(whole, int) else ops.maximum(whole, 1)

    def count_tokens(self, num_frames):
        """Returns the number of tokens in `num_frames` frames, special tokens included."""
        return self.num_special_tokens + self.grid[0] * self.count_columns(num_frames)

    def compute_output_shape(self, spectrogram_shape, lengths_shape=None, num_tokens=None):
        batch, frames, _ = spectrogram_shape
        tokens = None if frames is None else self.count_tokens(frames)
        return (batch, num_tokens or tokens, self.embed_dim)

    def compute_output_spec(self, spectrogram, training=None, lengths=None, num_tokens=None):
        shape = self.compute_output_shape(spectrogram.shape, num_tokens=num_tokens)
        return keras.KerasTensor(shape, self.policy.compute_dtype)

    # --- Reading the result ---

    def pool(self, tokens, lengths=None):
        """Returns the mean of the special tokens, `[batch, embed_dim]`.

        Args:
            tokens: The backbone's output, at least its first `num_pooled_tokens` tokens.
            lengths: Number of valid frames of each clip, int `[batch]`, or None. Not used here,
                because the special tokens belong to the whole clip.
        """
        return ops.mean(tokens[:, : self.num_special_tokens], axis=1)

    def attention_weights(self, spectrogram, lengths=None):
        """Returns the attention weights of every block, each `[batch, heads, query, key]`.

        Args:
            spectrogram: Normalised log-mels `[batch, num_frames, num_mel_bins]`.
            lengths: Number of valid frames of each clip, int `[batch]`; None if all are valid.
        """
        columns = None if lengths is None else self.count_columns(lengths)
        tokens, attention_mask = self.embed_tokens(self.get_layer("patches")(spectrogram), columns)
        maps = []
        for block in self.blocks:
            maps.append(block.attention_weights(tokens, attention_mask))
            tokens = block(tokens, attention_mask=attention_mask)
        return maps

    def describe_positions(self, columns):
        """Returns the end of a sentence, for example ", with the first 50 of 101 positions"."""
        known = self.grid[1]
        if columns <= known:
            return f", with the first {columns} of {known} positions"
        return f"; the positions of {known} patches along time are stretched over {columns}"

    # --- Saving ---

    def get_config(self):
        return {
            "embed_dim": self.embed_dim,
            "num_layers": self.num_layers,
            "num_heads": self.num_heads,
            "mlp_dim": self.mlp_dim,
            "num_mel_bins": self.num_mel_bins,
            "num_frames": self.num_frames,
            "patch_size": self.patch_size,
            "strides": self.strides,
            "use_distillation_token": self.use_distillation_token,
            "dropout": self.dropout,
            "attention_dropout": self.attention_dropout,
            "drop_path": self.drop_path,
            "layer_norm_epsilon": self.layer_norm_epsilon,
            **dataclasses.asdict(self.token_options),
            "gradient_checkpointing": self.gradient_checkpointing,
            "dtype": keras.saving.serialize_keras_object(self.policy),
            "name": self.name,
            **trainable_config(self),
        }

    @classmethod
    def from_config(cls, config, custom_objects=None):
        config = dict(config)
        parts = config.pop("trainable_parts", {})
        # Models that earlier versions saved have this option; its value was always None.
        if config.pop("attention_window", None) is not None:
            raise ArgumentError(
                "attention_window is no longer supported: save the model without it, or use an "
                "earlier version. Received: attention_window in the config"
            )
        if isinstance(config.get("dtype"), dict):
            config["dtype"] = keras.saving.deserialize_keras_object(config["dtype"])
        return with_trainable_parts(cls(**config), parts)
