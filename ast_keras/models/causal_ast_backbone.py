"""CausalASTBackbone: AST for streams, with attention to the current block and a fixed past."""

import dataclasses

import keras
from keras import ops

from ast_keras.errors import ArgumentError
from ast_keras.models.ast_backbone import ASTBackbone


@keras.saving.register_keras_serializable(package="ast_keras")
class CausalASTBackbone(ASTBackbone):
    """An AST whose tokens attend to their own block of time and to a fixed number of earlier ones.

    Time is divided into blocks of `block_columns` patches. Every block has its own special tokens.
    The classifier reads these, so that it gives a result for every block. Attention covers
    `num_frames` frames: the current block and the `past_blocks` blocks before it. The positions
    repeat with this period, so that any two blocks within it have different positions.

    `step` computes one block of a stream with a cache of keys and values. The result equals that of
    `call` for the whole clip, and the cost of a block does not grow with the length of the stream.

    The weights have the shapes of an `ASTBackbone` of the same sizes, but the model must be trained
    or fine-tuned before it is useful: see `ast_keras.to_causal`, or `model.block_columns` in a
    recipe. Only whole blocks of a clip are processed, at least one.

    Args:
        block_columns: Number of patches along time in a block; must divide `grid[1]`, the number in
            `num_frames`.
        **arguments: Arguments of `ASTBackbone`. `padding` is always "masked". The options that drop
            or merge tokens are refused, because every token must keep its place.

    Call arguments:
        spectrogram: Normalised log-mels `[batch, frames, num_mel_bins]`, at least `min_frames`.
        training: Whether dropout and stochastic depth are active.
        lengths: Optional int `[batch]`, the number of valid frames of each clip.
        num_tokens: Number of tokens to return, counted from the first; None for all.

    Output shape:
        `[batch, blocks * (special tokens + patches of a block), embed_dim]`, block by block.

    Raises:
        ArgumentError: If `num_frames` is not a whole number of blocks, or tokens would be dropped
            or merged.

    Example:

    >>> import numpy as np
    >>> backbone = CausalASTBackbone(
    ...     embed_dim=48, num_layers=2, num_heads=3, mlp_dim=96, num_frames=126, block_columns=4
    ... )
    >>> backbone.past_blocks, backbone(np.zeros((1, 500, 128), "float32")).shape
    (2, TensorShape([1, 600, 48]))
    """

    def __init__(self, *, block_columns, **arguments):
        super().__init__(**{**arguments, "padding": "masked"})
        self._require_every_token()
        columns = self.grid[1]
        if block_columns < 1 or columns % block_columns:
            blocks = max(1, round(columns / max(1, block_columns)))
            fitting = _count_frames(
                blocks * max(1, block_columns), self.strides[1], self.patch_size[1]
            )
            raise ArgumentError(
                "num_frames must hold a whole number of blocks: set it to "
                f"{fitting}, for {blocks} blocks. Received: block_columns={block_columns}, "
                f"num_frames={self.num_frames}, which holds {columns} patches along time"
            )
        self.block_columns = block_columns

    @classmethod
    def from_backbone(cls, backbone, block_columns, past_blocks):
        """Makes a causal backbone with the sizes of another one.

        Its weights are new. `ast_keras.to_causal` makes a causal classifier and copies the weights.

        Args:
            backbone: An `ASTBackbone`.
            block_columns: Number of patches along time in a block. With strides of 10 frames of
                10 ms, 10 are one second.
            past_blocks: Number of earlier blocks that a token attends to.

        Raises:
            ArgumentError: If a number is out of its range.

        Example:

        >>> plain = ASTBackbone(embed_dim=48, num_layers=1, num_heads=3, mlp_dim=96)
        >>> CausalASTBackbone.from_backbone(plain, block_columns=10, past_blocks=4).num_frames
        506
        """
        if block_columns < 1 or past_blocks < 0:
            raise ArgumentError(
                "block_columns must be at least 1 and past_blocks at least 0. "
                f"Received: block_columns={block_columns}, past_blocks={past_blocks}"
            )
        columns = (past_blocks + 1) * block_columns
        num_frames = _count_frames(columns, backbone.strides[1], backbone.patch_size[1])
        changes = {"num_frames": num_frames, "block_columns": block_columns}
        return cls.from_config({**backbone.get_config(), **changes})

    def _require_every_token(self):
        for name, value in dataclasses.asdict(self.token_options).items():
            if name != "padding" and value:
                raise ArgumentError(
                    "A causal backbone needs every token in its place: leave "
                    f"{name} out. Received: {name}={value}"
                )

    @property
    def past_blocks(self):
        """Number of earlier blocks that a token attends to."""
        return self.grid[1] // self.block_columns - 1

    @property
    def min_frames(self):
        """Smallest number of frames of an input: the length of one block."""
        return _count_frames(self.block_columns, self.strides[1], self.patch_size[1])

    @property
    def block_tokens(self):
        """Number of tokens in a block, special tokens included."""
        return self.num_special_tokens + self.grid[0] * self.block_columns

    @property
    def num_pooled_tokens(self):
        # All tokens: the special tokens of each block lie between the patches.
        return None

    def describe_positions(self, columns):
        return f", in {self.count_blocks(columns)} whole blocks of {self.block_columns} patches"

    def count_tokens(self, num_frames):
        return self.block_tokens * self.count_blocks(self.count_columns(num_frames))

    def count_blocks(self, columns):
        """Returns the number of whole blocks in `columns` patches along time, at least one.

        Args:
            columns: An int or an int tensor.
        """
        blocks = columns // self.block_columns
        return max(blocks, 1) if isinstance(blocks, int) else ops.maximum(blocks, 1)

    def embed_tokens(self, patches, columns=None):
        # `columns` is not needed: no block attends to a later one, and `pool` ignores the padding.
        mel, size = self.grid[0], self.block_columns
        width = ops.shape(patches)[1] // mel
        blocks = width // size
        if isinstance(blocks, int) and blocks < 1:
            raise ArgumentError(
                f"The input must fill a block, {self.min_frames} frames: pad it. Received: "
                f"{width} patches along time, of {size} in a block"
            )
        grid = ops.reshape(patches, (-1, mel, width, self.embed_dim))[:, :, : blocks * size]
        grid = ops.reshape(grid, (-1, mel, blocks, size, self.embed_dim))
        grid = ops.transpose(grid, (0, 2, 1, 3, 4))  # [batch, block, mel, column, embed]
        by_block = ops.reshape(grid, (-1, mel * size, self.embed_dim))
        tokens = self.get_layer("special_tokens")(by_block)
        tokens = ops.reshape(tokens, (-1, blocks, self.block_tokens, self.embed_dim))
        block_index = ops.arange(blocks)
        tokens = tokens + ops.cast(self._block_positions(block_index), tokens.dtype)
        tokens = ops.reshape(tokens, (-1, blocks * self.block_tokens, self.embed_dim))
        block_index = ops.repeat(block_index, self.block_tokens)  # block of each token
        age = block_index[:, None] - block_index[None, :]  # blocks between query and key
        return tokens, ((age >= 0) & (age <= self.past_blocks))[None]

    def _block_positions(self, block_index):
        """Returns the positions of blocks, `[blocks, tokens of a block, embed_dim]`."""
        mel, columns = self.grid
        embedding = ops.convert_to_tensor(self.get_layer("positions").embedding)
        special = embedding[: self.num_special_tokens]
        grid = ops.reshape(
            embedding[self.num_special_tokens :],
            (mel, columns // self.block_columns, self.block_columns, self.embed_dim),
        )
        grid = ops.transpose(grid, (1, 0, 2, 3))  # [block of the period, mel, column, embed]
        patches = ops.reshape(grid, (-1, mel * self.block_columns, self.embed_dim))
        special = ops.broadcast_to(
            special[None], (ops.shape(patches)[0], self.num_special_tokens, self.embed_dim)
        )
        table = ops.concatenate([special, patches], axis=1)
        return ops.take(table, block_index % (self.past_blocks + 1), axis=0)

    def pool(self, tokens, lengths=None):
        """Returns the mean of the special tokens of all valid blocks, `[batch, embed_dim]`.

        Args:
            tokens: The backbone's output.
            lengths: Number of valid frames of each clip, int `[batch]`; None if all are valid.
        """
        special = self.pool_blocks(tokens)
        if lengths is None:
            return ops.mean(special, axis=1)
        blocks = self.count_blocks(self.count_columns(lengths))
        valid = ops.arange(ops.shape(special)[1])[None, :] < ops.cast(blocks, "int32")[:, None]
        weights = ops.cast(valid, special.dtype) / ops.cast(blocks, special.dtype)[:, None]
        return ops.sum(special * weights[..., None], axis=1)

    def pool_blocks(self, tokens):
        """Returns the mean of each block's special tokens, `[batch, blocks, embed_dim]`.

        Args:
            tokens: The backbone's output, or that of `step`.
        """
        blocks = ops.shape(tokens)[1] // self.block_tokens
        tokens = ops.reshape(tokens, (-1, blocks, self.block_tokens, self.embed_dim))
        return ops.mean(tokens[:, :, : self.num_special_tokens], axis=2)

    # --- Streaming ---

    def initial_cache(self, batch_size=1):
        """Returns the cache for the first `step`: zeros, which are not attended to.

        Args:
            batch_size: Number of streams.

        Returns:
            A list with a pair of keys and values for each transformer block, each
            `[batch, heads, past tokens, head_dim]`.
        """
        heads, size = self.num_heads, self.embed_dim // self.num_heads
        shape = (batch_size, heads, self.past_blocks * self.block_tokens, size)
        dtype = self.policy.compute_dtype
        return [(ops.zeros(shape, dtype), ops.zeros(shape, dtype)) for _ in self.blocks]

    def step(self, patches, block_index, cache):
        """Computes one block of a stream.

        Args:
            patches: Output of the layer "patches" for the block,
                `[batch, patches of a block, embed_dim]`, mel-major.
            block_index: Number of blocks before this one, an int or an int tensor.
            cache: The cache that the previous step returned, or `initial_cache()`.

        Returns:
            The block's tokens `[batch, tokens of a block, embed_dim]`, and the new cache.
        """
        tokens = self.get_layer("special_tokens")(patches)
        block_index = ops.reshape(ops.cast(block_index, "int32"), (1,))
        tokens = tokens + ops.cast(self._block_positions(block_index), tokens.dtype)
        # The cache starts with zeros: blocks before the first one are not attended to.
        age = self.past_blocks - ops.arange(self.past_blocks + 1)
        attention_mask = ops.repeat(age <= block_index, self.block_tokens)[None, None, :]
        new_cache = []
        for block, past in zip(self.blocks, cache, strict=True):
            tokens, (keys, values) = block.step(tokens, past, attention_mask)
            # The next block does not attend to the oldest one, whose tokens are removed.
            oldest = self.block_tokens
            new_cache.append((keys[:, :, oldest:], values[:, :, oldest:]))
        return self.get_layer("norm")(tokens), new_cache

    def get_config(self):
        return {**super().get_config(), "block_columns": self.block_columns}


def _count_frames(columns, stride, patch):
    """Returns the number of frames that hold `columns` patches along time."""
    return (columns - 1) * stride + patch
