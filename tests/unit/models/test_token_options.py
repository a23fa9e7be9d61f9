"""TokenOptions: ranges of the options, and where they are accepted."""

import pytest

from ast_keras.errors import ArgumentError
from ast_keras.models.ast_backbone import ASTBackbone
from ast_keras.models.causal_ast_backbone import CausalASTBackbone
from ast_keras.models.token_options import TokenOptions

SIZES = {"embed_dim": 12, "num_layers": 1, "num_heads": 3, "mlp_dim": 20, "num_frames": 46}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"padding": "zero"}, "padding must be one of original, masked.*'zero'"),
        ({"merge_tokens": -1}, "set it to 0 to disable merging.*merge_tokens=-1"),
        ({"patchout": 1.5}, r"patchout must lie in \[0, 1\).*patchout=1.5"),
        ({"patchout_mel": -0.1}, r"patchout_mel must lie in \[0, 1\)"),
        ({"patchout_time": 1.0}, r"patchout_time must lie in \[0, 1\)"),
    ],
)
def test_backbone_rejects_an_option_out_of_range(options, message):
    with pytest.raises(ArgumentError, match=message):
        ASTBackbone(**SIZES, **options)


@pytest.mark.parametrize("name", TokenOptions.names()[1:])
def test_causal_backbone_rejects_options_that_move_tokens(name):
    value = 3 if name == "merge_tokens" else 0.3
    with pytest.raises(ArgumentError, match=f"leave {name} out.*{name}={value}"):
        CausalASTBackbone(**SIZES, block_columns=2, **{name: value})
