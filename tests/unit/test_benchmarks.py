"""The benchmark's own parts: who takes part, what the table says, what the floor multiplies."""

import argparse
import sys

import numpy as np
import pytest

from benchmarks import __main__ as benchmark
from benchmarks import contenders, dials, finetuning

OPTIONS = argparse.Namespace(
    peer_python=sys.executable, threads=1, seconds=0.0, least_rounds=2, only=None
)
FRONTEND = {"kind": "frontend", "size": "tiny", "seconds": 1, "batch": 1}


def test_contenders_take_turns_and_one_that_cannot_says_why(tmp_path):
    found = benchmark.compete(FRONTEND, ("ours", "ONNX Runtime"), tmp_path, OPTIONS)
    assert len(found["ours"].seconds) == 2
    assert min(found["ours"].seconds) > 0
    assert found["ours"].peak_memory > 1e8
    assert found["ONNX Runtime"].unable  # TensorFlow's environment has neither ONNX nor PyTorch
    lines = benchmark.table("filterbank", found)
    assert lines[0] == "### filterbank"
    assert "Error" in lines[-2]


def test_the_table_gives_ratios_to_pytorch():
    results = {
        "ours": benchmark.Result([0.5, 0.4, 0.6], 2 * 10**9),
        "PyTorch": benchmark.Result([1.0, 1.2, 0.9]),
    }
    line = benchmark.table("forward", results)[4]
    assert line == "| ours | 500.0 ms | 400.0 ms to 600.0 ms | 2.00 GB | 2.00 |"


def test_the_floor_is_the_arithmetic_of_the_published_graph():
    case = {"kind": "forward", "size": "base", "seconds": 10, "batch": 1}
    tokens = contenders.num_tokens(case)
    assert tokens == 1214
    width, _, hidden, blocks = contenders.SIZES["base"]
    dense = sum(2 * tokens * a * b for a, b in contenders.dense_shapes(width, hidden))
    attention = 4 * tokens**2 * width
    assert blocks * (dense + attention) == pytest.approx(260e9, rel=0.01)  # multiply and add


def test_dials_are_compared_with_the_full_model():
    def setting(dial, value, logits, seconds):
        made = dials.Setting(dial, value, None, None, 100.0)
        made.logits, made.seconds = [np.array(row) for row in logits], seconds
        return made

    full = setting("full", 0, [[2.0, 0.0], [0.0, 1.0]], [0.4, 0.4])
    other = setting("strides", 16, [[1.0, 0.0], [1.0, 0.0]], [0.1, 0.1])
    rows = dials.compare([full, other], [])
    assert rows[0]["agreement"] == rows[0]["speed"] == 1
    assert (rows[1]["agreement"], rows[1]["speed"]) == (0.5, 4)
    assert dials.correlation(np.eye(2), 3 * np.eye(2)) == pytest.approx(1)


def test_the_age_of_a_process_grows():
    first = finetuning.process_age()
    assert 0 < first <= finetuning.process_age() < 1e6
