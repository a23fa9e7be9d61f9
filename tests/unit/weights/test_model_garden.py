"""Vision transformers of the Model Garden, translated to timm's names, compute the same.

By default this is shown for a stored checkpoint. The slow tests build the Model Garden's network,
whose import takes 20 seconds, and save it in every form in which it is found.
"""

import re

import numpy as np
import pytest
import tensorflow as tf

from ast_keras.errors import WeightsError
from ast_keras.weights.model_garden import is_model_garden, num_heads, to_timm
from ast_keras.weights.readers.tf_checkpoint import read_checkpoint
from tests.helpers.paths import GOLDENS

REASON = "tf-models-official holds the vision transformer that is translated"
WIDTH, HEADS, LAYERS, MLP, PATCH, CLASSES = 48, 3, 2, 96, 16, 5
SIZE = (32, 48)  # pixels: not square, so that swapped axes are noticed
NUM_BLOCK_TENSORS = 12 * LAYERS
PATCH_KERNEL = "layer_with_weights-0/kernel"


def vision_transformer(**kwargs):
    """Returns a small Model Garden backbone with random weights and biases."""
    pytest.importorskip("official", reason=REASON)
    import tf_keras
    from official.vision.modeling.backbones import vit

    model = vit.VisionTransformer(
        **{
            "mlp_dim": MLP,
            "num_heads": HEADS,
            "num_layers": LAYERS,
            "hidden_size": WIDTH,
            "patch_size": PATCH,
            "input_specs": tf_keras.layers.InputSpec(shape=[None, *SIZE, 3]),
        }
        | kwargs
    )
    rng = np.random.default_rng(0)
    for weight in model.weights:
        mean = 1.0 if "gamma" in weight.name else 0.0
        weight.assign(rng.normal(mean, 0.15, weight.shape))
    return model


def classifier(backbone):
    """Returns a Model Garden classification model on a backbone."""
    import tf_keras
    from official.vision.modeling import classification_model

    return classification_model.ClassificationModel(
        backbone,
        num_classes=CLASSES,
        input_specs=tf_keras.layers.InputSpec(shape=[None, *SIZE, 3]),
    )


@pytest.fixture(scope="module")
def backbone():
    return vision_transformer()


@pytest.fixture(scope="module")
def images():
    return np.random.default_rng(1).normal(size=(2, *SIZE, 3)).astype(np.float32)


def layer_norm(x, weight, bias):
    centred = x - x.mean(-1, keepdims=True)
    return centred / np.sqrt((centred**2).mean(-1, keepdims=True) + 1e-6) * weight + bias


def gelu_tanh(x):
    return 0.5 * x * (1 + np.tanh(np.sqrt(2 / np.pi) * (x + 0.044715 * x**3)))


def attention(x, weight, bias, heads):
    """Computes the attention of timm before its output projection."""
    batch, tokens, width = x.shape
    qkv = (x @ weight.T + bias).reshape(batch, tokens, 3, heads, width // heads)
    q, k, v = qkv.transpose(2, 0, 3, 1, 4)  # each [B, H, T, D]
    scores = q @ k.transpose(0, 1, 3, 2) / np.sqrt(width // heads)
    scores = np.exp(scores - scores.max(-1, keepdims=True))
    mixed = scores / scores.sum(-1, keepdims=True) @ v
    return mixed.transpose(0, 2, 1, 3).reshape(batch, tokens, width)


def forward(weights, images, heads=HEADS):
    """Computes a vision transformer on timm's tensors in double precision: [B, T, E]."""
    weights = {name: value.astype(np.float64) for name, value in weights.items()}
    kernel = weights["patch_embed.proj.weight"]  # [E, C, kh, kw]
    width, _, high, wide = kernel.shape
    batch, rows, columns, _ = images.shape
    patches = images.reshape(batch, rows // high, high, columns // wide, wide, 3)
    x = np.einsum("byixjc,ecij->byxe", patches, kernel).reshape(batch, -1, width)
    x = x + weights["patch_embed.proj.bias"]
    if "cls_token" in weights:
        x = np.concatenate([np.repeat(weights["cls_token"], batch, 0), x], 1)
    x = x + weights["pos_embed"]
    for number in range(LAYERS):
        w = {
            name.removeprefix(f"blocks.{number}."): value
            for name, value in weights.items()
            if name.startswith(f"blocks.{number}.")
        }
        y = layer_norm(x, w["norm1.weight"], w["norm1.bias"])
        y = attention(y, w["attn.qkv.weight"], w["attn.qkv.bias"], heads)
        x = x + y @ w["attn.proj.weight"].T + w["attn.proj.bias"]
        y = layer_norm(x, w["norm2.weight"], w["norm2.bias"])
        y = gelu_tanh(y @ w["mlp.fc1.weight"].T + w["mlp.fc1.bias"])
        x = x + y @ w["mlp.fc2.weight"].T + w["mlp.fc2.bias"]
    return layer_norm(x, weights["norm.weight"], weights["norm.bias"])


def features(model, images):
    """Returns the pooled features of the Model Garden's network: [B, E]."""
    return model(images, training=False)["pre_logits"].numpy()[:, 0, 0]


def assert_close(actual, expected):
    # Features are about 1. Theirs are computed in single precision, seen to differ by 1.9e-6;
    # with the exact GELU in place of its tanh approximation, the difference is 7e-4.
    np.testing.assert_allclose(actual, expected, rtol=0, atol=1e-5)


def translated(prefix):
    return to_timm(read_checkpoint(prefix))


FORMS = ["backbone", "model", "weights", "classifier", "classifier weights", "trainer"]


def save(form, model, folder):
    """Saves a backbone in one of `FORMS`, and returns the prefix of the checkpoint."""
    prefix = str(folder / "ckpt")
    if form == "backbone":
        return tf.train.Checkpoint(backbone=model).write(prefix)
    if form == "model":
        return tf.train.Checkpoint(model=model).save(prefix)
    if form == "weights":
        model.save_weights(prefix, save_format="tf")
        return prefix
    whole = classifier(model)
    if form == "classifier":
        return tf.train.Checkpoint(model=whole).write(prefix)
    if form == "classifier weights":
        whole.save_weights(prefix, save_format="tf")
        return prefix
    return trainer(whole).save(prefix)


def trainer(whole):
    """Returns the checkpoint of the Model Garden's trainer: moving averages, slots, counters."""
    import tf_keras
    from official.modeling.optimization import ema_optimizer

    optimizer = ema_optimizer.ExponentialMovingAverage(
        tf_keras.optimizers.legacy.SGD(0.0, momentum=0.9)
    )
    optimizer.shadow_copy(whole)
    optimizer.apply_gradients([(tf.ones_like(v), v) for v in whole.trainable_variables])
    return tf.train.Checkpoint(
        model=whole,
        optimizer=optimizer,
        global_step=tf.Variable(1, dtype=tf.int64),
        **whole.checkpoint_items,
    )


@pytest.mark.slow
@pytest.mark.parametrize("form", FORMS)
def test_translation_computes_the_same_in_every_form(form, backbone, images, tmp_path):
    tensors = read_checkpoint(save(form, backbone, tmp_path))
    canonical, unused = to_timm(tensors)
    assert len(canonical) == NUM_BLOCK_TENSORS + 6
    assert_close(forward(canonical, images)[:, 0], features(backbone, images))
    head = {"classifier": 2, "classifier weights": 2, "trainer": 2}.get(form, 0)
    assert len(unused) == head
    assert all(reason.startswith("outside the backbone") for reason in unused.values())
    # Every tensor is used: three kernels and three biases of a block become one of each.
    assert len(tensors) == len(canonical) + 4 * LAYERS + len(unused)


@pytest.mark.slow
def test_translation_has_timm_names_and_layouts(backbone, tmp_path):
    canonical, _ = translated(save("backbone", backbone, tmp_path))
    block = {
        "norm1.weight": (WIDTH,),
        "norm1.bias": (WIDTH,),
        "attn.qkv.weight": (3 * WIDTH, WIDTH),
        "attn.qkv.bias": (3 * WIDTH,),
        "attn.proj.weight": (WIDTH, WIDTH),
        "attn.proj.bias": (WIDTH,),
        "norm2.weight": (WIDTH,),
        "norm2.bias": (WIDTH,),
        "mlp.fc1.weight": (MLP, WIDTH),
        "mlp.fc1.bias": (MLP,),
        "mlp.fc2.weight": (WIDTH, MLP),
        "mlp.fc2.bias": (WIDTH,),
    }
    patches = SIZE[0] // PATCH * (SIZE[1] // PATCH)
    assert {name: value.shape for name, value in canonical.items()} == {
        "patch_embed.proj.weight": (WIDTH, 3, PATCH, PATCH),
        "patch_embed.proj.bias": (WIDTH,),
        "cls_token": (1, 1, WIDTH),
        "pos_embed": (1, 1 + patches, WIDTH),
        "norm.weight": (WIDTH,),
        "norm.bias": (WIDTH,),
        **{f"blocks.{i}.{name}": shape for i in range(LAYERS) for name, shape in block.items()},
    }
    assert all(v.dtype == np.float32 and v.flags.c_contiguous for v in canonical.values())


@pytest.mark.slow
def test_layer_scale_is_folded(images, tmp_path):
    model = vision_transformer(layer_scale_init_value=0.1)
    assert sum("layerscale" in weight.name for weight in model.weights) == 2 * LAYERS
    canonical, unused = translated(save("backbone", model, tmp_path))
    assert not unused
    assert len(canonical) == NUM_BLOCK_TENSORS + 6
    assert_close(forward(canonical, images)[:, 0], features(model, images))


@pytest.mark.slow
def test_layer_after_the_features_is_unused(images, tmp_path):
    model = vision_transformer(representation_size=20)
    tensors = read_checkpoint(save("classifier", model, tmp_path))
    canonical, unused = to_timm(tensors)
    after = sorted(name for name, reason in unused.items() if "pre_logits" in reason)
    bias, kernel = after
    assert len(unused) == len(after) + 2
    pooled = forward(canonical, images)[:, 0]
    expected = np.tanh(pooled @ tensors[kernel] + tensors[bias])
    assert_close(expected, features(model, images))


@pytest.mark.slow
def test_backbone_without_class_token_gives_none(images, tmp_path):
    model = vision_transformer(pooler="gap")
    canonical, unused = translated(save("model", model, tmp_path))
    assert "cls_token" not in canonical
    assert not unused
    assert canonical["pos_embed"].shape == (1, 6, WIDTH)
    assert_close(forward(canonical, images).mean(1), features(model, images))


@pytest.mark.slow
def test_number_of_heads_is_read(backbone, tmp_path):
    assert num_heads(read_checkpoint(save("classifier", backbone, tmp_path))) == HEADS


def test_translation_of_the_stored_checkpoint_computes_the_same():
    with np.load(GOLDENS / "model_garden_vit.npz") as stored:
        values = dict(stored)
    prefix = "tensor:"
    tensors = {n.removeprefix(prefix): v for n, v in values.items() if n.startswith(prefix)}
    assert is_model_garden(tensors)
    assert num_heads(tensors) == HEADS
    canonical, unused = to_timm(tensors)
    assert len(canonical) == NUM_BLOCK_TENSORS + 6
    assert len(unused) == 2
    assert all(reason.startswith("outside the backbone") for reason in unused.values())
    # Every tensor is used: three kernels and three biases of a block become one of each.
    assert len(tensors) == len(canonical) + 4 * LAYERS + len(unused)
    assert_close(forward(canonical, values["images"])[:, 0], values["features"])


def named(prefix=""):
    """Returns zero tensors with the names of a checkpoint of one block."""
    encoder = f"{prefix}layer_with_weights-2"
    block = f"{encoder}/_encoder_layers/0"
    part = {"kernel": (4, 2, 2), "bias": (2, 2)}
    shapes = {
        f"{prefix}layer_with_weights-0/kernel": (2, 2, 3, 4),
        f"{prefix}layer_with_weights-0/bias": (4,),
        f"{prefix}layer_with_weights-1/cls": (1, 1, 4),
        f"{encoder}/_pos_embed/pos_embedding": (1, 5, 4),
        f"{encoder}/_norm/gamma": (4,),
        f"{encoder}/_norm/beta": (4,),
        f"{block}/_attention_layer/_output_dense/kernel": (2, 2, 4),
        f"{block}/_attention_layer/_output_dense/bias": (4,),
        f"{block}/_intermediate_dense/kernel": (4, 8),
        f"{block}/_intermediate_dense/bias": (8,),
        f"{block}/_output_dense/kernel": (8, 4),
        f"{block}/_output_dense/bias": (4,),
    }
    for norm in ("_attention_layer_norm", "_output_layer_norm"):
        shapes |= {f"{block}/{norm}/{name}": (4,) for name in ("gamma", "beta")}
    for name in ("query", "key", "value"):
        layer = f"{block}/_attention_layer/_{name}_dense"
        shapes |= {f"{layer}/{variable}": shape for variable, shape in part.items()}
    return {name: np.zeros(shape, np.float32) for name, shape in shapes.items()}


@pytest.mark.parametrize("prefix", ["", "backbone/", "model/layer_with_weights-0/"])
def test_every_tensor_of_the_backbone_is_needed(prefix):
    tensors = named(prefix)
    assert is_model_garden(tensors)
    assert len(to_timm(tensors)[0]) == 12 + 6
    for name in tensors:
        if name.endswith("/cls"):
            continue
        less = {other: value for other, value in tensors.items() if other != name}
        with pytest.raises(WeightsError, match=r"Missing|must have|must be"):
            to_timm(less)


def test_every_tensor_of_the_backbone_has_its_shape():
    tensors = named()
    for name, value in tensors.items():
        for wrong in (value[None], np.concatenate([value, value], -1), value.astype(np.int32)):
            if name == PATCH_KERNEL and wrong.ndim == 4 and wrong.dtype == np.float32:
                reason = "must hold floating-point numbers of shape"  # the width is the encoder's
            else:
                reason = "must (hold floating-point numbers of|have|be)"
            with pytest.raises(WeightsError, match=reason):
                to_timm(tensors | {name: wrong})


@pytest.mark.parametrize(
    ("name", "shape"),
    [
        ("backbone/layer_with_weights-2/_encoder_layers/0/_other/kernel", (4, 4)),
        ("backbone/layer_with_weights-3/gamma", (4,)),
        ("backbone/extra", (4,)),
        ("backbone/layer_with_weights-1/kernel", (1, 4, 4)),
    ],
)
def test_unknown_tensor_of_the_backbone_is_refused(name, shape):
    tensors = named("backbone/") | {name: np.zeros(shape, np.float32)}
    with pytest.raises(WeightsError, match=f"1 unknown, among them {re.escape(name)}"):
        to_timm(tensors)


def test_two_backbones_are_refused():
    with pytest.raises(WeightsError, match="encoders=a/layer_with_weights-2, b/layer_with"):
        to_timm(named("a/") | named("b/"))


def test_gap_in_the_blocks_is_refused():
    tensors = {
        name.replace("_encoder_layers/0", "_encoder_layers/1000000000"): value
        for name, value in named().items()
    }
    with pytest.raises(WeightsError, match="_encoder_layers/0/"):
        to_timm(tensors)
    with pytest.raises(WeightsError, match="numbered from zero without gaps"):
        to_timm(tensors | named())


def test_other_tensors_are_refused():
    names = ["blocks.0.attn.qkv.weight", "encoder/layer_with_weights-2/kernel", ""]
    assert not is_model_garden(names)
    for function in (to_timm, num_heads):
        with pytest.raises(WeightsError, match="encoders=none"):
            function({name: np.zeros(3) for name in names})
