"""The parts of the benchmarks: the peer protocol, the tables and the arithmetic."""

import argparse
import sys

import numpy as np
import pytest

from benchmarks import __main__ as benchmark
from benchmarks import efficiency, finetuning, peer, runners

OPTIONS = argparse.Namespace(
    peer_python=sys.executable, threads=1, seconds=0.0, least_rounds=2, only=None
)
FRONTEND = {"kind": "frontend", "size": "tiny", "seconds": 1, "batch": 1}


# Starts a process with TensorFlow, which takes about ten seconds.
@pytest.mark.slow
def test_runners_take_turns_and_report_why_they_cannot_run(tmp_path):
    found = benchmark.compete(FRONTEND, ("ours", "ONNX Runtime"), tmp_path, OPTIONS)
    assert len(found["ours"].seconds) == 2
    assert min(found["ours"].seconds) > 0
    assert found["ours"].peak_memory > 1e8
    assert found["ONNX Runtime"].unable  # TensorFlow's environment has neither ONNX nor PyTorch
    lines = benchmark.table("filterbank", found)
    assert lines[0] == "### filterbank"
    assert "Error" in lines[-2]


@pytest.fixture
def echo(tmp_path, monkeypatch):
    """A peer that answers twice the request, and fails for text."""
    code = (
        "from benchmarks.peer import serve\nserve(lambda: lambda n: print('noise') or 2 / 1 * n)\n"
    )
    (tmp_path / "echo_peer.py").write_text(code)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    with peer.Peer(sys.executable, "echo_peer") as made:
        yield made


def test_peer_answers_requests_and_reports_its_error(echo):
    echo.wait_until_ready()
    assert [echo.ask(number) for number in (1, 2.5)] == [2, 5]  # what it prints does not interfere
    with pytest.raises(peer.PeerError, match="TypeError: can't multiply"):
        echo.ask("text")


def test_peer_reports_that_its_process_ended():
    with (
        peer.Peer(sys.executable, "no_such_module") as broken,
        pytest.raises(peer.PeerError, match="its process ended"),
    ):
        broken.wait_until_ready()


def test_table_has_ratios_to_pytorch():
    results = {
        "ours": benchmark.Result([0.5, 0.4, 0.6], 2 * 10**9),
        "PyTorch": benchmark.Result([1.0, 1.2, 0.9]),
    }
    line = benchmark.table("forward", results)[4]
    assert line == "| ours | 500.0 ms | 400.0 ms to 600.0 ms | 2.00 GB | 2.00 |"


def test_lower_bound_has_the_products_of_the_published_graph():
    case = {"kind": "forward", "size": "base", "seconds": 10, "batch": 1}
    tokens = runners.num_tokens(case)
    assert tokens == 1214
    width, _, hidden, blocks = runners.SIZES["base"]
    dense = sum(2 * tokens * a * b for a, b in runners.dense_shapes(width, hidden))
    attention = 4 * tokens**2 * width
    assert blocks * (dense + attention) == pytest.approx(260e9, rel=0.01)  # multiply and add


def test_efficiency_options_are_compared_with_the_full_model():
    def setting(option, value, logits, seconds):
        made = efficiency.Setting(option, value, None, None, 100.0)
        made.logits, made.seconds = [np.array(row) for row in logits], seconds
        return made

    full = setting("full", 0, [[2.0, 0.0], [0.0, 1.0]], [0.4, 0.4])
    other = setting("strides", 16, [[1.0, 0.0], [1.0, 0.0]], [0.1, 0.1])
    rows = efficiency.compare([full, other], [])
    assert rows[0]["agreement"] == rows[0]["speed"] == 1
    assert (rows[1]["agreement"], rows[1]["speed"]) == (0.5, 4)
    assert efficiency.correlation(np.eye(2), 3 * np.eye(2)) == pytest.approx(1)


def test_process_age_grows():
    first = finetuning.process_age()
    assert 0 < first <= finetuning.process_age() < 1e6
