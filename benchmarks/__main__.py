"""Everything against what a user would take instead, in one run: `make benchmark`.

    python -m benchmarks --peer_python OTHER/bin/python [--quick] [--only forward,training]

For each case every contender has a process of its own with the same number of threads. They take
turns, one call each, for as many rounds as fit the case's time, so that a busy machine is busy for
all. The folder `--out` gets benchmark.json with every time, and benchmark.md with medians, the
fastest and slowest call, peak memory and the ratio to PyTorch (above 1: faster). bfloat16 takes
part where the processor computes with it. "products alone" is the floor: the network's matrix
products and nothing else. The data pipeline, loading, streams, TFLite, the dials and a training run
are commands of their own (`benchmarks.pipeline`, `.loading`, `.streaming`, `.dials`, `.finetuning`,
`export.benchmark`), which this one runs, too, keeping what they print.
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

from benchmarks.contenders import CONTENDERS, num_tokens

OURS = ("ours", "products alone")
PEER = "PyTorch"
INFERENCE = tuple(name for name in CONTENDERS if name != "ours, checkpointing")
TRAINING = tuple(name for name in CONTENDERS if not name.startswith("ONNX"))
IMPORTS = {
    "ours": "import ast_keras",
    "ours, with TensorFlow": "from ast_keras.models.ast_backbone import ASTClassifier",
    "transformers": "from transformers import ASTForAudioClassification",
}


def cases(quick):
    """Yields what is measured, and by whom."""
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
    """What was measured of one contender: seconds of each call, bytes, or why nothing."""

    seconds: list[float] = dataclasses.field(default_factory=list)
    peak_memory: int = 0
    unable: str = ""


class Contender:
    """One process that is asked for times."""

    def __init__(self, name, case, folder, options):
        python = sys.executable if name.startswith(OURS) else options.peer_python
        arguments = [name, json.dumps({**case, "threads": options.threads}), str(folder)]
        self.result = Result()
        self._process = subprocess.Popen(
            [python, "-m", "benchmarks.contenders", *arguments],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        )

    def ready(self):
        """Waits for it; False if it does not take part."""
        line = self._process.stdout.readline().strip()
        if line != "ready":
            self.result.unable = line.removeprefix("unable: ") or "its process ended"
        return line == "ready"

    def ask(self, what):
        self._process.stdin.write(what + "\n")
        self._process.stdin.flush()
        return float(self._process.stdout.readline())

    def measure(self):
        self.result.seconds.append(self.ask("go"))

    def close(self):
        if not self.result.unable:
            self.result.peak_memory = int(self.ask("memory"))
        self._process.stdin.close()
        self._process.wait()


def compete(case, names, folder, options):
    """Returns each contender's `Result`; they start one after the other and then take turns."""
    contenders = {}
    for name in names:
        contenders[name] = Contender(name, case, folder, options)
        contenders[name].ready()  # alone, so that none is measured while another compiles
    able = [contender for contender in contenders.values() if not contender.result.unable]
    end = time.monotonic() + options.seconds
    rounds = 0
    while rounds < options.least_rounds or (time.monotonic() < end and rounds < 30):
        for contender in able:
            contender.measure()
        rounds += 1
    for contender in contenders.values():
        contender.close()
    return {name: contender.result for name, contender in contenders.items()}


def measure_imports(options):
    """Returns the seconds of a new process that imports and ends."""
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
    """Returns the lines of one case, the ratio being PyTorch's time by each one's."""
    peer = results.get(PEER, results.get("transformers"))
    lines = [f"### {name}", "", "| | median | fastest to slowest | peak memory | speed |"]
    lines += ["|---|---|---|---|---|"]
    for who, result in results.items():
        if result.unable:
            lines.append(f"| {who} | {result.unable} | | | |")
            continue
        median = statistics.median(result.seconds)
        spread = f"{shown(min(result.seconds))} to {shown(max(result.seconds))}"
        memory = f"{result.peak_memory / 1e9:.2f} GB" if result.peak_memory else ""
        ratio = ""
        if peer and peer.seconds and not peer.unable:
            ratio = f"{statistics.median(peer.seconds) / median:.2f}"
        lines.append(f"| {who} | {shown(median)} | {spread} | {memory} | {ratio} |")
    return [*lines, ""]


def shown(seconds):
    return f"{seconds:.2f} s" if seconds >= 1 else f"{1e3 * seconds:.1f} ms"


def processor():
    text = pathlib.Path("/proc/cpuinfo").read_text(encoding="utf-8")
    found = re.search(r"^model name\s*:\s*(.*)$", text, re.MULTILINE)
    return found[1] if found else platform.machine()


def run_others(options):
    """Yields the heading and the output of the benchmarks that are commands of their own."""
    peer = ["--peer_python", options.peer_python]
    commands = {
        "data pipeline": ["benchmarks.pipeline", *peer],
        "decoding": ["benchmarks.decoding"],
        "loading": ["benchmarks.loading", *peer],
        "streams": ["benchmarks.streaming"],
        "TFLite": ["export.benchmark", *peer],
        "dials": ["benchmarks.dials", "--out", str(options.out)],
        "a training run": ["benchmarks.finetuning"],
    }
    for name, command in commands.items():
        if options.only and name not in options.only:
            continue
        print(f"{name}: python -m {' '.join(command)}", flush=True)
        done = subprocess.run([sys.executable, "-m", *command], capture_output=True, text=True)
        yield name, done.stdout if done.returncode == 0 else done.stdout + done.stderr[-2000:]


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--peer_python", default=sys.executable)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--seconds", type=float, default=60, help="of each case, about")
    parser.add_argument("--least_rounds", type=int, default=3)
    parser.add_argument("--quick", action="store_true", help="AST-tiny and the network only")
    parser.add_argument("--only", type=lambda text: text.split(","), help="kinds, with commas")
    parser.add_argument("--match", default="", help="a regular expression on the cases' titles")
    parser.add_argument("--all_precisions", action="store_true", help="bfloat16 without units, too")
    parser.add_argument("--out", type=pathlib.Path, default=pathlib.Path("runs/benchmark"))
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    from ast_keras.training.distribution import processor_has_bfloat16  # loads TensorFlow

    able = processor_has_bfloat16()
    half = options.all_precisions or able
    head = f"{processor()}, {options.threads} threads, "
    head += "with bfloat16 units" if able else "no bfloat16 units"
    print(head, flush=True)
    report, kept = [f"# {head}", ""], {"processor": head, "cases": []}

    def keep(name, results, **about):
        lines = table(name, results)
        print("\n".join(lines), flush=True)
        report.extend(lines)
        found = {who: dataclasses.asdict(result) for who, result in results.items()}
        kept["cases"].append({"name": name, **about, "contenders": found})
        (options.out / "benchmark.json").write_text(json.dumps(kept, indent=1), encoding="utf-8")
        (options.out / "benchmark.md").write_text("\n".join(report), encoding="utf-8")

    with tempfile.TemporaryDirectory() as scratch:
        for wanted, names in cases(options.quick):
            if options.only and wanted["kind"] not in options.only:
                continue
            if not re.search(options.match, title(wanted)):
                continue
            names = [name for name in names if half or "bfloat16" not in name]
            keep(title(wanted), compete(wanted, names, scratch, options), case=wanted)
    if not options.only or "imports" in options.only:
        keep("a new process that imports", measure_imports(options))
    if options.quick:
        return
    for name, text in run_others(options):
        report.extend([f"### {name}", "", "```", text.strip(), "```", ""])
        kept[name] = text
        print(text, flush=True)
        (options.out / "benchmark.json").write_text(json.dumps(kept, indent=1), encoding="utf-8")
        (options.out / "benchmark.md").write_text("\n".join(report), encoding="utf-8")


if __name__ == "__main__":
    main()
