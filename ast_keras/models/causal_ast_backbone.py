"""AST for endless streams: attention over the current block of time and a fixed past, cached."""

import keras
from keras import ops

from ast_keras.errors import ArgumentError
from ast_keras.models.ast_backbone import ASTBackbone


@keras.saving.register_keras_serializable(package="ast_keras")
class CausalASTBackbone(ASTBackbone):
    """An AST whose tokens attend to their own block of time and to a fixed number of earlier ones.

    Time is cut into blocks of `block_columns` patches. Each block has special tokens of its own,
    which the classifier reads, so that there is a result for every block. `num_frames` is how far
    attention reaches, the current block included; positions repeat with that period, which tells
    any two blocks that see each other apart. Computed block by block with the keys and values of
    the past kept (`step`), the result is that of the whole sound, at a cost that does not grow.

    It takes weights of an `ASTBackbone` of the same sizes, but is to be trained or fine-tuned
    before it is of use: `ast_keras.weights.build.to_causal`, or `model.block_columns` in a
    recipe. A sound of any length is heard as whole blocks, at least one; what is left is not.

    Args:
      block_columns: Patches along time in a block; must divide those of `num_frames`.
      **arguments: As of `ASTBackbone`; `padding` is always "masked".

    Input: As of `ASTBackbone`, with at least `min_frames` frames.
    Output: `[batch, blocks * (special tokens + patches of a block), embed_dim]`, block by block.

    Raises:
      ValueError: If `num_frames` does not hold a whole number of blocks.

    Example:

    >>> import numpy as np
    >>> backbone = CausalASTBackbone(
    ...     embed_dim=48, num_layers=2, num_heads=3, mlp_dim=96, num_frames=126, block_columns=4
    ... )
    >>> backbone.past_blocks, backbone(np.zeros((1, 500, 128), "float32")).shape
    (2, TensorShape([1, 600, 48]))
    """

    def __init__(self, *args, block_columns, **arguments):
        arguments = {**arguments, "padding": "masked"}
        super().__init__(*args, **arguments)
        self._refuse_dials()
        columns = self.grid[1]
        if block_columns < 1 or columns % block_columns:
            step, patch = self.strides[1], self.patch_size[1]
            blocks = max(1, round(columns / max(1, block_columns)))
            fitting = (blocks * max(1, block_columns) - 1) * step + patch
            raise ArgumentError(
                "num_frames must hold a whole number of blocks: set it to "
                f"{fitting}, for {blocks} blocks. Received: block_columns={block_columns}, "
                f"num_frames={self.num_frames}, which holds {columns} patches along time"
            )
        self.block_columns = block_columns

    def _refuse_dials(self):
        names = ("patchout", "patchout_mel", "patchout_time", "merge_tokens", "attention_window")
        for name in names:
            if getattr(self, name):
                raise ArgumentError(
                    "A causal backbone needs all of its tokens in their places, and has blocks "
                    f"for windows: leave {name} out. Received: {name}={getattr(self, name)}"
                )

    @property
    def past_blocks(self):
        """How many earlier blocks a token attends to."""
        return self.grid[1] // self.block_columns - 1

    @property
    def min_frames(self):
        """Frames of one block."""
        return (self.block_columns - 1) * self.strides[1] + self.patch_size[1]

    @property
    def block_tokens(self):
        """Tokens of one block, special tokens included."""
        return self.num_special_tokens + self.grid[0] * self.block_columns

    def describe_positions(self, columns):
        return f", in {self.count_blocks(columns)} whole blocks of {self.block_columns} patches"

    def count_tokens(self, num_frames):
        return self.block_tokens * self.count_blocks(self.count_columns(num_frames))

    def count_blocks(self, columns):
        """Returns how many whole blocks lie in so many patches along time, at least one."""
        blocks = columns // self.block_columns
        return max(blocks, 1) if isinstance(blocks, int) else ops.maximum(blocks, 1)

    def embed_tokens(self, patches, columns=None):
        # Of the columns nothing is needed: no block sees a later one, `pool` leaves padding out.
        mel, size = self.grid[0], self.block_columns
        width = ops.shape(patches)[1] // mel
        blocks = width // size
        if isinstance(blocks, int) and blocks < 1:
            raise ArgumentError(
                f"A sound must fill a block, {self.min_frames} frames: pad it. Received: "
                f"{width} patches along time, of {size} in a block"
            )
        grid = ops.reshape(patches, (-1, mel, width, self.embed_dim))[:, :, : blocks * size]
        grid = ops.reshape(grid, (-1, mel, blocks, size, self.embed_dim))
        grid = ops.transpose(grid, (0, 2, 1, 3, 4))  # [batch, block, mel, column, embed]
        by_block = ops.reshape(grid, (-1, mel * size, self.embed_dim))
        tokens = self.get_layer("special_tokens")(by_block)
        tokens = ops.reshape(tokens, (-1, blocks, self.block_tokens, self.embed_dim))
        number = ops.arange(blocks)
        tokens = tokens + ops.cast(self._positions(number), tokens.dtype)
        tokens = ops.reshape(tokens, (-1, blocks * self.block_tokens, self.embed_dim))
        number = ops.repeat(number, self.block_tokens)
        ago = number[:, None] - number[None, :]
        return tokens, ((ago >= 0) & (ago <= self.past_blocks))[None]

    def _positions(self, number):
        """Returns the positions of blocks by number, `[blocks, tokens of a block, embed_dim]`."""
        mel, columns = self.grid
        embedding = ops.convert_to_tensor(self.get_layer("positions").embedding)
        special = embedding[: self.num_special_tokens]
        grid = ops.reshape(
            embedding[self.num_special_tokens :],
            (mel, columns // self.block_columns, self.block_columns, self.embed_dim),
        )
        grid = ops.transpose(grid, (1, 0, 2, 3))  # [phase, mel, column, embed]
        patches = ops.reshape(grid, (-1, mel * self.block_columns, self.embed_dim))
        special = ops.broadcast_to(
            special[None], (ops.shape(patches)[0], self.num_special_tokens, self.embed_dim)
        )
        table = ops.concatenate([special, patches], axis=1)
        return ops.take(table, number % (self.past_blocks + 1), axis=0)

    @property
    def num_pooled_tokens(self):
        return None  # every block of the sound has special tokens of its own, among the others

    def pool(self, tokens, lengths=None):
        special = self.pool_blocks(tokens)
        if lengths is None:
            return ops.mean(special, axis=1)
        blocks = self.count_blocks(self.count_columns(lengths))
        heard = ops.arange(ops.shape(special)[1])[None, :] < ops.cast(blocks, "int32")[:, None]
        share = ops.cast(heard, special.dtype) / ops.cast(blocks, special.dtype)[:, None]
        return ops.sum(special * share[..., None], axis=1)

    def pool_blocks(self, tokens):
        """Returns the mean of each block's special tokens, `[batch, blocks, embed_dim]`."""
        blocks = ops.shape(tokens)[1] // self.block_tokens
        tokens = ops.reshape(tokens, (-1, blocks, self.block_tokens, self.embed_dim))
        return ops.mean(tokens[:, :, : self.num_special_tokens], axis=2)

    def initial_cache(self, batch_size=1):
        """Returns the keys and values of no past, for `step`: zeros, which are not attended to.

        A list of pairs, one for each transformer block, each
        `[batch, heads, past tokens, head_dim]`.
        """
        heads, size = self.num_heads, self.embed_dim // self.num_heads
        shape = (batch_size, heads, self.past_blocks * self.block_tokens, size)
        dtype = self.policy.compute_dtype
        return [(ops.zeros(shape, dtype), ops.zeros(shape, dtype)) for _ in self.blocks]

    def step(self, patches, number, cache):
        """Returns the tokens of one block, `[batch, tokens of a block, embed_dim]`, and the cache.

        Args:
          patches: The block's embedded patches `[batch, patches of a block, embed_dim]`, mel-major,
            as the layer "patches" gives them.
          number: How many blocks came before, an int tensor or a number.
          cache: Of the block before, or `initial_cache`.
        """
        tokens = self.get_layer("special_tokens")(patches)
        number = ops.reshape(ops.cast(number, "int32"), (1,))
        tokens = tokens + ops.cast(self._positions(number), tokens.dtype)
        ago = self.past_blocks - ops.arange(self.past_blocks + 1)  # of each block in sight
        seen = ops.repeat(ago <= number, self.block_tokens)[None, None, :]
        kept = []
        for block, past in zip(self.blocks, cache, strict=True):
            tokens, (keys, values) = block(tokens, attention_mask=seen, past=past)
            kept.append((keys[:, :, self.block_tokens :], values[:, :, self.block_tokens :]))
        return self.get_layer("norm")(tokens), kept

    def get_config(self):
        return {**super().get_config(), "block_columns": self.block_columns}
