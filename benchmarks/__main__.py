"""Benchmark of the package against its alternatives: `make benchmark`.

    python -m benchmarks --peer_python OTHER/bin/python [--quick] [--only forward,training]

In each case every runner has a process of its own with the same number of threads. The runners take
turns, one call each, for as many rounds as fit into the time of the case, so that other load on the
machine affects all of them. The folder `--out` gets benchmark.json with every measured time, and
benchmark.md with medians, the fastest and slowest call, peak memory and the ratio to PyTorch (above
1 is faster). bfloat16 runs only on processors that multiply bfloat16 matrices. "products alone" is
the lower bound: the network's matrix products and nothing else. Data pipeline, decoding, loading,
streaming, TFLite, efficiency options and a training run are modules of their own (benchmarks.*);
this one runs them too and keeps their output.
"""

import argparse
import dataclasses
import json
import pathlib
import platform
import re
import statistics
import subprocess
import sys
import tempfile
import time

from benchmarks.peer import Peer, PeerError
from benchmarks.runners import RUNNERS, num_tokens

OURS = ("ours", "products alone")
PEER = "PyTorch"
INFERENCE = tuple(name for name in RUNNERS if name != "ours, checkpointing")
TRAINING = tuple(name for name in RUNNERS if not name.startswith("ONNX"))
IMPORTS = {
    "ours": "import ast_keras",
    "ours, with TensorFlow": "from ast_keras import ASTClassifier",
    "transformers": "from transformers import ASTForAudioClassification",
}


def cases(quick):
    """Yields each case with the names of its runners."""
    sizes = ("tiny",) if quick else ("tiny", "base")
    yield case("frontend", batch=32), ("ours", "PyTorch")
    for size in sizes:
        for seconds in (10,) if quick else (1, 5, 10):
            for batch in (1,) if quick else (1, 8):
                yield case("forward", size, seconds, batch), INFERENCE
    for size, batch in (("tiny", 2),) if quick else (("tiny", 8), ("base", 2)):
        yield case("training", size, 10, batch), TRAINING
    for size in sizes:
        yield case("mixed", size, 10, 16), ("ours", "PyTorch")


def case(kind, size="tiny", seconds=10, batch=1):
    return {"kind": kind, "size": size, "seconds": seconds, "batch": batch}


def title(case):
    if case["kind"] == "frontend":
        return f"filterbank, {case['batch']} clips of {case['seconds']} s"
    names = {"forward": "forward", "training": "training step", "mixed": "clips of 1 to 10 s"}
    tokens = "" if case["kind"] == "mixed" else f", {case['seconds']} s, {num_tokens(case)} tokens"
    return f"{names[case['kind']]}, AST-{case['size']}, batch {case['batch']}{tokens}"


@dataclasses.dataclass
class Result:
    """Measurement of one runner.

    Attributes:
        seconds: Time of each call in seconds.
        peak_memory: Peak memory of its process in bytes; 0 if not measured.
        unable: Reason why it did not run; empty if it did.
    """

    seconds: list[float] = dataclasses.field(default_factory=list)
    peak_memory: int = 0
    unable: str = ""


def compete(case, names, folder, options):
    """Measures runners that take turns, and returns their `Result`s by name."""
    results, peers = {name: Result() for name in names}, {}
    for name in names:
        python = sys.executable if name.startswith(OURS) else options.peer_python
        settings = json.dumps({**case, "threads": options.threads})
        peer = Peer(python, "benchmarks.runners", name, settings, folder)
        try:
            peer.wait_until_ready()  # one at a time: none is measured while another compiles
            peers[name] = peer
        except PeerError as error:
            results[name].unable = str(error)
            peer.close()
    end = time.monotonic() + options.seconds
    rounds = 0
    while rounds < options.least_rounds or (time.monotonic() < end and rounds < 30):
        for name, peer in peers.items():
            results[name].seconds.append(peer.ask("go"))
        rounds += 1
    for name, peer in peers.items():
        results[name].peak_memory = peer.ask("memory")
        peer.close()
    return results


def measure_imports(options):
    """Measures new processes that run an import statement, and returns `Result`s by name."""
    results = {name: Result() for name in IMPORTS}
    for _ in range(options.least_rounds):
        for name, statement in IMPORTS.items():
            python = sys.executable if name.startswith("ours") else options.peer_python
            start = time.perf_counter()
            done = subprocess.run([python, "-c", statement], capture_output=True)
            results[name].seconds.append(time.perf_counter() - start)
            if done.returncode:
                results[name].unable = "not installed"
    return results


def table(name, results):
    """Returns the Markdown table of one case; the speed is PyTorch's time divided by each time."""
    peer = results.get(PEER, results.get("transformers"))
    lines = [f"### {name}", "", "| | median | fastest to slowest | peak memory | speed |"]
    lines += ["|---|---|---|---|---|"]
    for who, result in results.items():
        if result.unable:
            lines.append(f"| {who} | {result.unable} | | | |")
            continue
        median = statistics.median(result.seconds)
        spread = f"{format_seconds(min(result.seconds))} to {format_seconds(max(result.seconds))}"
        memory = f"{result.peak_memory / 1e9:.2f} GB" if result.peak_memory else ""
        ratio = ""
        if peer and peer.seconds and not peer.unable:
            ratio = f"{statistics.median(peer.seconds) / median:.2f}"
        lines.append(f"| {who} | {format_seconds(median)} | {spread} | {memory} | {ratio} |")
    return [*lines, ""]


def format_seconds(seconds):
    return f"{seconds:.2f} s" if seconds >= 1 else f"{1e3 * seconds:.1f} ms"


def processor_name():
    text = pathlib.Path("/proc/cpuinfo").read_text(encoding="utf-8")
    found = re.search(r"^model name\s*:\s*(.*)$", text, re.MULTILINE)
    return found[1] if found else platform.machine()


def run_others(options):
    """Yields the heading and the output of each benchmark that is a module of its own."""
    peer = ["--peer_python", options.peer_python]
    commands = {
        "data pipeline": ["benchmarks.pipeline", *peer],
        "decoding": ["benchmarks.decoding"],
        "loading": ["benchmarks.loading", *peer],
        "streaming": ["benchmarks.streaming"],
        "TFLite": ["benchmarks.tflite", *peer],
        "efficiency options": ["benchmarks.efficiency", "--out", str(options.out)],
        "training run": ["benchmarks.finetuning"],
    }
    for name, command in commands.items():
        if options.only and name not in options.only:
            continue
        print(f"{name}: python -m {' '.join(command)}", flush=True)
        done = subprocess.run([sys.executable, "-m", *command], capture_output=True, text=True)
        yield name, done.stdout if done.returncode == 0 else done.stdout + done.stderr[-2000:]


class Output:
    """Prints results and writes benchmark.json and benchmark.md after each of them.

    Args:
        folder: Folder of the two files.
        processor: Heading of the report.
    """

    def __init__(self, folder, processor):
        self._folder = folder
        self._lines, self._values = [f"# {processor}", ""], {"processor": processor, "cases": []}

    def add_case(self, name, results, **about):
        """Adds the results of one case, by runner."""
        lines = table(name, results)
        values = {runner: dataclasses.asdict(result) for runner, result in results.items()}
        self._values["cases"].append({"name": name, **about, "runners": values})
        self._lines += lines
        print("\n".join(lines), flush=True)
        self._write()

    def add_text(self, name, text):
        """Adds the output of another module."""
        self._values[name] = text
        self._lines += [f"### {name}", "", "```", text.strip(), "```", ""]
        print(text, flush=True)
        self._write()

    def _write(self):
        values = json.dumps(self._values, indent=1)
        (self._folder / "benchmark.json").write_text(values, encoding="utf-8")
        (self._folder / "benchmark.md").write_text("\n".join(self._lines), encoding="utf-8")


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--peer_python", default=sys.executable, help="interpreter with PyTorch and ONNX Runtime"
    )
    parser.add_argument("--threads", type=int, default=2, help="threads of every runner")
    parser.add_argument("--seconds", type=float, default=60, help="approximate time of a case")
    parser.add_argument("--least_rounds", type=int, default=3, help="smallest number of rounds")
    parser.add_argument("--quick", action="store_true", help="measure AST-tiny only")
    parser.add_argument(
        "--only", type=lambda text: text.split(","), help="kinds of cases, separated by commas"
    )
    parser.add_argument("--match", default="", help="regular expression for titles of cases")
    parser.add_argument(
        "--all_precisions", action="store_true", help="measure bfloat16 on every processor"
    )
    parser.add_argument(
        "--out", type=pathlib.Path, default=pathlib.Path("runs/benchmark"), help="output folder"
    )
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    from ast_keras.training.distribution import processor_has_bfloat16  # imports TensorFlow

    has_bfloat16 = processor_has_bfloat16()
    head = f"{processor_name()}, {options.threads} threads, "
    head += "with bfloat16 units" if has_bfloat16 else "no bfloat16 units"
    print(head, flush=True)
    output = Output(options.out, head)
    with tempfile.TemporaryDirectory() as scratch:
        for wanted, names in cases(options.quick):
            if options.only and wanted["kind"] not in options.only:
                continue
            if not re.search(options.match, title(wanted)):
                continue
            if not (has_bfloat16 or options.all_precisions):
                names = [name for name in names if "bfloat16" not in name]
            results = compete(wanted, names, scratch, options)
            output.add_case(title(wanted), results, case=wanted)
    if not options.only or "imports" in options.only:
        output.add_case("a new process that imports", measure_imports(options))
    if options.quick:
        return
    for name, text in run_others(options):
        output.add_text(name, text)


if __name__ == "__main__":
    main()
