"""AST: the backbone from spectrogram to tokens, and the classifier from waveform to logits."""

import keras
import tensorflow as tf
from keras import ops

from ast_keras.errors import ArgumentError
from ast_keras.layers.log_mel_filterbank import LogMelFilterbank  # noqa: F401
from ast_keras.layers.patch_embedding import (
    PatchEmbedding,
    PositionEmbedding,
    SpecialTokens,
    patch_grid,
)

# Imported so that a saved model finds these parts: Keras knows a class once its module is loaded.
from ast_keras.layers.spectrogram_augment import SpectrogramAugment  # noqa: F401
from ast_keras.layers.token_normalization import TokenNormalization
from ast_keras.layers.token_reduction import Patchout
from ast_keras.layers.transformer_block import TransformerBlock

_PADDINGS = ("original", "masked")


@keras.saving.register_keras_serializable(package="ast_keras")
class ASTBackbone(keras.Model):
    """The Audio Spectrogram Transformer without its head: spectrogram to tokens.

    A vision transformer (DeiT) over overlapping patches of a normalised log-mel spectrogram. The
    size is the caller's: any patch size, stride, number of frames and mel bins. The weights start
    random; `ast_keras.from_preset` knows the published sizes.

    With `padding="masked"` it takes any number of frames, more than `num_frames` too, and clips of
    different lengths in one batch: what follows a clip is not attended to, so that each comes out
    as it does alone. Only whole patches count, at least one.

    Args:
      embed_dim: Size of every token.
      num_layers: Number of transformer blocks.
      num_heads: Attention heads per block.
      mlp_dim: Hidden width of each block's perceptron.
      num_mel_bins: Height of the spectrogram, in mel bins.
      num_frames: Length of the spectrogram, in frames.
      patch_size: Patch extent `(mel, time)`.
      strides: Step between patches `(mel, time)`.
      use_distillation_token: Whether a distillation token follows the class token.
      dropout: Rate after the position embedding and in the blocks.
      attention_dropout: Rate on attention weights.
      drop_path: Stochastic depth of the last block; it grows linearly from zero at the first.
      layer_norm_epsilon: Of every LayerNorm in the backbone; 1e-6 in the authors' code.
      padding: "original" for `num_frames` frames, all of them attended to, padding included, as
        the authors do; "masked" for any length.
      patchout: Share of the patches that each example leaves out while training (see `Patchout`).
      patchout_mel: Share of the rows of patches, likewise.
      patchout_time: Share of the columns of patches, likewise.
      merge_tokens: How many tokens each block but the last merges with similar ones where only
        special tokens are asked for, as a classifier does, and not while training; 0 for exact
        results.
      attention_window: How many columns of patches before and after its own a patch attends to;
        None for all. Special tokens attend to all, and all attend to them.
      gradient_checkpointing: Whether blocks are computed again for the gradient: less memory and
        a third more time. There can be no dropout then.
      dtype: dtype policy of all layers.

    Input: `[batch, num_frames, num_mel_bins]`; with `padding="masked"` any number of frames, at
      least a patch, and optionally `lengths`, int `[batch]`, the frames of each clip. Optionally
      `num_tokens`, how many tokens are asked for, from the first on: the last block computes no
      others.
    Output: `[batch, special tokens + patches, embed_dim]`, normalised; the class token first, then
      the distillation token, then the patches, mel-major.

    Raises:
      ValueError: If the spectrogram is smaller than a patch or the heads do not divide the size.

    Reference:
      Gong, Chung, Glass, "AST: Audio Spectrogram Transformer", Interspeech 2021.

    Example:

    >>> import numpy as np
    >>> backbone = ASTBackbone(48, num_layers=2, num_heads=3, mlp_dim=192, num_frames=128)
    >>> backbone(np.zeros((1, 128, 128), "float32")).shape
    TensorShape([1, 146, 48])
    """

    def __init__(
        self,
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
        attention_window=None,
        gradient_checkpointing=False,
        dtype=None,
        name=None,
        trainable=True,
    ):  # no **kwargs: a functional model would ignore a misspelt argument
        if padding not in _PADDINGS:
            raise ArgumentError(
                f"padding must be one of {', '.join(_PADDINGS)}. Received: padding={padding!r}"
            )
        thinned = patchout > 0 or patchout_mel > 0 or patchout_time > 0
        _check_dials(merge_tokens, attention_window, thinned, attention_dropout)
        if gradient_checkpointing and (dropout or attention_dropout or drop_path):
            raise ArgumentError(
                "gradient_checkpointing computes blocks twice, and what is dropped would differ: "
                "set dropout, attention_dropout and drop_path to 0. Received: "
                f"dropout={dropout}, attention_dropout={attention_dropout}, drop_path={drop_path}"
            )
        # --- Layers ---
        grid = patch_grid(num_mel_bins, num_frames, patch_size, strides)
        policy = keras.dtype_policies.get(dtype or keras.config.dtype_policy())
        patches = PatchEmbedding(embed_dim, patch_size, strides, dtype=policy, name="patches")
        specials = SpecialTokens(use_distillation_token, dtype=policy, name="special_tokens")
        positions = PositionEmbedding(grid, dtype=policy, name="positions")
        position_dropout = keras.layers.Dropout(dropout, dtype=policy, name="position_dropout")
        left_out = (patchout, patchout_mel, patchout_time)
        leave_out = Patchout(grid, *left_out, specials.num_tokens, dtype=policy, name="patchout")
        blocks = [
            TransformerBlock(
                num_heads,
                mlp_dim,
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

        # --- Functional Model --- (of `num_frames` frames: so Keras knows every weight's shape)
        spectrogram = keras.Input((num_frames, num_mel_bins), name="spectrogram")
        tokens = leave_out(position_dropout(positions(specials(patches(spectrogram)))))
        for block in blocks:
            tokens = block(tokens)
        super().__init__(inputs=spectrogram, outputs=norm(tokens), name=name, trainable=trainable)

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
        self.padding = padding
        self.patchout = patchout
        self.patchout_mel = patchout_mel
        self.patchout_time = patchout_time
        self.merge_tokens = merge_tokens
        self.attention_window = attention_window
        self.gradient_checkpointing = gradient_checkpointing
        self.policy = policy

    @property
    def num_special_tokens(self):
        """Number of tokens before the patches: class token and, if any, distillation token."""
        return 2 if self.use_distillation_token else 1

    @property
    def grid(self):
        """Number of patches `(mel, time)`."""
        return patch_grid(self.num_mel_bins, self.num_frames, self.patch_size, self.strides)

    @property
    def blocks(self):
        """The transformer blocks, first to last."""
        return [self.get_layer(f"block_{index}") for index in range(self.num_layers)]

    @property
    def input_spec(self):
        frames = self.num_frames if self.padding == "original" else None
        return keras.layers.InputSpec(shape=(None, frames, self.num_mel_bins))

    def call(self, spectrogram, training=None, lengths=None, num_tokens=None):
        if lengths is not None and self.padding == "original":
            raise ArgumentError(
                'Clips of other lengths need padding="masked": with "original" all frames are '
                "attended to. Received: lengths"
            )
        columns = None if lengths is None else self.count_columns(lengths)
        return self.encode(self.get_layer("patches")(spectrogram), columns, training, num_tokens)

    def compute_output_shape(self, spectrogram_shape, lengths_shape=None, num_tokens=None):
        batch, frames, _ = spectrogram_shape
        tokens = None if frames is None else self.count_tokens(frames)
        return (batch, num_tokens or tokens, self.embed_dim)

    def compute_output_spec(self, spectrogram, training=None, lengths=None, num_tokens=None):
        shape = self.compute_output_shape(spectrogram.shape, num_tokens=num_tokens)
        return keras.KerasTensor(shape, self.policy.compute_dtype)

    def count_tokens(self, num_frames):
        """Returns how many tokens there are for so many frames, a number."""
        return self.num_special_tokens + self.grid[0] * self.count_columns(num_frames)

    def encode(self, patches, columns=None, training=None, num_tokens=None):
        """Returns the tokens, as the backbone does, for embedded patches.

        Args:
          patches: `[batch, patches, embed_dim]`, mel-major, as the layer "patches" gives them.
          columns: With `padding="masked"`, int `[batch]`: how many patches along time are each
            clip's own; None for all.
          training: Whether dropout and the like are active.
          num_tokens: How many tokens, from the first on, are asked for; None for all.
        """
        tokens, attention_mask = self.embed_tokens(patches, columns)
        tokens = self.get_layer("position_dropout")(tokens, training=training)
        leave_out = self.get_layer("patchout")
        if attention_mask is None:
            tokens = leave_out(tokens, training=training)
        else:
            tokens, attention_mask = leave_out(
                tokens, training=training, attention_mask=attention_mask
            )
        options = {"training": training, "attention_mask": attention_mask}
        if self.attention_window is not None:
            tokens = self._windowed(tokens, num_tokens, **options)
        elif self.merge_tokens and num_tokens is not None and not training:
            tokens = self._merging(tokens, num_tokens, **options)
        else:
            tokens = self._through_blocks(tokens, num_tokens, **options)
        return self.get_layer("norm")(tokens, training=training)

    def _through_blocks(self, tokens, num_tokens, **options):
        *blocks, last = self.blocks
        for block in blocks:
            tokens = self._computed(block, tokens, **options)
        return self._computed(last, tokens, num_queries=num_tokens, **options)

    def _computed(self, block, tokens, **options):
        """Returns `block(tokens, **options)`, which is computed again for the gradient if asked."""
        if not (self.gradient_checkpointing and options["training"]):
            return block(tokens, **options)
        return tf.recompute_grad(lambda tokens: block(tokens, **options))(tokens)

    def _windowed(self, tokens, num_tokens, attention_mask, **options):
        rows = self.grid[0]
        columns = (ops.shape(tokens)[1] - self.num_special_tokens) // rows
        options["window"] = (self.attention_window, rows, self.num_special_tokens)
        tokens = self._turned(tokens, rows, columns)
        if attention_mask is not None:
            attention_mask = self._turned(attention_mask[:, 0, :, None], rows, columns)[
                :, None, :, 0
            ]
        tokens = self._through_blocks(tokens, num_tokens, attention_mask=attention_mask, **options)
        return tokens if num_tokens is not None else self._turned(tokens, columns, rows)

    def _turned(self, tokens, rows, columns):
        """Returns tokens whose patches stand column by column, not row by row."""
        special, size = self.num_special_tokens, tokens.shape[-1]
        patches = ops.reshape(tokens[:, special:], (-1, rows, columns, size))
        patches = ops.reshape(ops.transpose(patches, (0, 2, 1, 3)), (-1, rows * columns, size))
        return ops.concatenate([tokens[:, :special], patches], axis=1)

    def _merging(self, tokens, num_tokens, attention_mask, **options):
        if attention_mask is not None:
            raise ArgumentError(
                "Clips of different lengths in one batch would merge with their padding: set "
                "merge_tokens to 0, or give clips of one length without lengths. Received: "
                f"merge_tokens={self.merge_tokens} and lengths"
            )
        *blocks, last = self.blocks
        sizes = None
        for block in blocks:
            merge = (self.merge_tokens, self.num_special_tokens)
            tokens, sizes = block(tokens, sizes=sizes, merge=merge, **options)
        return last(tokens, sizes=sizes, num_queries=num_tokens, **options)

    def embed_tokens(self, patches, columns=None):
        """Returns the first block's tokens and `attention_mask`; arguments as of `encode`."""
        tokens = self.get_layer("special_tokens")(patches)
        if self.padding == "original":
            return self.get_layer("positions")(tokens), None
        width = ops.shape(patches)[1] // self.grid[0]
        if columns is None:
            return self.get_layer("positions")(tokens, columns=ops.reshape(width, (1,))), None
        # Counted from the first patch; mel-major, so that the column is what is left.
        place = ops.arange(ops.shape(tokens)[1]) - self.num_special_tokens
        heard = (place < 0) | (place % width < ops.cast(columns, "int32")[:, None])
        return self.get_layer("positions")(tokens, columns=columns), heard[:, None, :]

    def count_columns(self, num_frames):
        """Returns how many patches along time lie in so many frames, at least one.

        Args:
          num_frames: A number or an int tensor.
        """
        whole = (num_frames - self.patch_size[1]) // self.strides[1] + 1
        return max(whole, 1) if isinstance(whole, int) else ops.maximum(whole, 1)

    def attention_weights(self, spectrogram, lengths=None):
        """Returns the attention of every block, each `[batch, heads, query, key]`.

        Args:
          spectrogram: `[batch, num_frames, num_mel_bins]`, normalised.
          lengths: As of the call.

        Raises:
          ValueError: With `attention_window`, where attention is no matrix.
        """
        if self.attention_window is not None:
            raise ArgumentError(
                "With attention_window attention is no matrix over all tokens: load the model with "
                f"attention_window=None. Received: attention_window={self.attention_window}"
            )
        columns = None if lengths is None else self.count_columns(lengths)
        tokens, attention_mask = self.embed_tokens(self.get_layer("patches")(spectrogram), columns)
        maps = []
        for block in self.blocks:
            maps.append(block.attention_weights(tokens, attention_mask))
            tokens = block(tokens, attention_mask=attention_mask)
        return maps

    def describe_positions(self, columns):
        """Returns the end of a sentence on the positions of so many patches along time."""
        known = self.grid[1]
        if columns <= known:
            return f", with the first {columns} of {known} positions"
        return f"; the positions of {known} patches along time are stretched over {columns}"

    @property
    def num_pooled_tokens(self):
        """How many tokens, from the first on, `pool` reads; None for all."""
        return self.num_special_tokens

    @property
    def min_frames(self):
        """The least number of frames that there is something to see in: those of a patch."""
        return self.patch_size[1]

    def pool(self, tokens, lengths=None):
        """Returns the mean of the special tokens, `[batch, embed_dim]`.

        Args:
          tokens: The backbone's output, at least the first `num_pooled_tokens`.
          lengths: As of the call; makes no difference where special tokens belong to no time.
        """
        return ops.mean(tokens[:, : self.num_special_tokens], axis=1)

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
            "padding": self.padding,
            "patchout": self.patchout,
            "patchout_mel": self.patchout_mel,
            "patchout_time": self.patchout_time,
            "merge_tokens": self.merge_tokens,
            "attention_window": self.attention_window,
            "gradient_checkpointing": self.gradient_checkpointing,
            "dtype": keras.saving.serialize_keras_object(self.policy),
            "name": self.name,
            "trainable": self.trainable,
        }

    @classmethod
    def from_config(cls, config, custom_objects=None):
        config = dict(config)
        if isinstance(config.get("dtype"), dict):
            config["dtype"] = keras.saving.deserialize_keras_object(config["dtype"])
        return cls(**config)


def _check_dials(merge_tokens, attention_window, patchout, attention_dropout):
    if merge_tokens < 0 or (attention_window is not None and attention_window < 1):
        raise ArgumentError(
            "merge_tokens is a number of tokens, 0 for none, and attention_window one of columns, "
            f"at least 1. Received: merge_tokens={merge_tokens}, "
            f"attention_window={attention_window}"
        )
    if attention_window is not None and (merge_tokens or patchout):
        raise ArgumentError(
            "attention_window needs all patches in their places: set merge_tokens and patchout, "
            f"patchout_mel and patchout_time to 0. Received: attention_window={attention_window}"
        )
    if attention_window is not None and attention_dropout:
        raise ArgumentError(
            "Within a window no attention is dropped: set attention_dropout to 0. Received: "
            f"attention_window={attention_window}, attention_dropout={attention_dropout}"
        )
