"""What is known of processors and GPUs, and what a recipe makes of it."""

import pytest
import tensorflow as tf

from ast_keras.recipe import load_recipe, override
from ast_keras.training import build, precision
from ast_keras.training.resolve import resolve


@pytest.mark.parametrize(
    ("text", "able"),
    [
        ("processor\t: 0\nflags\t\t: fpu avx2 avx512_bf16 amx_tile amx_bf16\n", True),
        ("Features\t: fp asimd bf16\n", True),
        ("processor\t: 0\nflags\t\t: fpu avx2 avx512f\nbugs\t\t: amx_bf16\n", False),
        ("", False),
    ],
)
def test_linux_says_what_a_processor_has(tmp_path, text, able):
    (tmp_path / "cpuinfo").write_text(text)
    assert precision.processor_has_bfloat16(tmp_path / "cpuinfo") is able
    assert not precision.processor_has_bfloat16(tmp_path / "absent")


@pytest.mark.parametrize(
    ("capabilities", "expected"),
    [([(8, 0), (9, 0)], "mixed_bfloat16"), ([(9, 0), (7, 5)], "float32")],
)
def test_all_gpus_must_have_it(monkeypatch, capabilities, expected):
    monkeypatch.setattr(tf.config, "list_physical_devices", lambda _: range(len(capabilities)))
    details = [{"compute_capability": capability} for capability in capabilities]
    monkeypatch.setattr(tf.config.experimental, "get_device_details", details.__getitem__)
    assert precision.fast_precision() == expected


@pytest.mark.parametrize(("able", "expected"), [(True, "mixed_bfloat16"), (False, "float32")])
def test_a_recipe_takes_what_is_fast(monkeypatch, able, expected):
    monkeypatch.setattr(precision, "processor_has_bfloat16", lambda: able)
    monkeypatch.setattr(tf.config, "list_physical_devices", lambda _: [])
    recipe = override(load_recipe("quickstart"), ["train.precision=auto"])
    assert resolve(recipe, build.make_dataset(recipe)).train.precision == expected
