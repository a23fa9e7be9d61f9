"""What each dial costs and saves, on sounds: latency against agreement with the full model.

    python -m benchmarks.dials [--model FOLDER] [--data FOLDER] [--clips 40] [--out runs/benchmark]

Every setting is a copy of the same weights; the settings take turns. Agreement is how often a
setting's first class is the full model's, and how far its logits correlate with the full model's
(centred per clip). For Patchout, which is for training, latency is that of a training step and
agreement that of a forward pass without the patches. Without --model weights are random: latencies
hold, agreement says little. Without --data the sounds are made up. Writes dials.json, dials.png.
"""

import argparse
import dataclasses
import json
import pathlib
import statistics
import tempfile
import time

import numpy as np

SUFFIXES = {".wav", ".flac", ".ogg", ".mp3"}
DIALS = {
    "merge_tokens": (10, 40, 80, 110, 140),
    "strides": (12, 14, 16),
    "patchout_time": (0.25, 0.5, 0.75),
    "patchout": (0.25, 0.5, 0.75),
}
# What a saved model may have been trained with, and dropout, which would hide what Patchout does.
OFF = {
    **{"merge_tokens": 0},
    **{"patchout": 0.0, "patchout_mel": 0.0, "patchout_time": 0.0},
    **{"dropout": 0.0, "attention_dropout": 0.0, "drop_path": 0.0},
}


@dataclasses.dataclass
class Setting:
    """One position of one dial."""

    dial: str
    value: float
    call: object
    train: object
    tokens: float
    seconds: list[float] = dataclasses.field(default_factory=list)
    logits: list[np.ndarray] = dataclasses.field(default_factory=list)


def sounds(options, rate):
    """Returns clips `[samples]` of a folder, or tones over noise."""
    if options.data is None:
        rng = np.random.default_rng(0)
        time_axis = np.arange(options.seconds * rate) / rate
        for _ in range(options.clips):
            tone = 0.2 * np.sin(2 * np.pi * rng.uniform(100, 4000) * time_axis)
            yield (tone + 0.02 * rng.standard_normal(len(time_axis))).astype("float32")
        return
    from ast_keras import load_audio

    found = sorted(path for path in options.data.rglob("*") if path.suffix in SUFFIXES)
    for index in np.linspace(0, len(found) - 1, options.clips).astype(int):
        yield load_audio(found[index], rate)


def settings_of(folder, strides):
    """Yields the full model, and then each position of each dial."""
    import ast_keras

    def setting(dial, value, **arguments):
        model = ast_keras.from_preset(folder, **{**OFF, **arguments})
        training = dial.startswith("patchout")
        return Setting(dial, value, *compiled(model, training), tokens_of(model, dial, value))

    yield setting("full", 0)
    for dial, values in DIALS.items():
        for value in values:
            argument = value
            if dial == "strides":  # along mel too, unless there is one row of patches
                argument = (strides[0] if strides[0] >= 100 else value, value)
                if value <= strides[1]:
                    continue
            yield setting(dial, value, **{dial: argument})


def tokens_of(model, dial, value):
    """Returns the tokens that a block works on, on average."""
    backbone = model.backbone
    tokens = backbone.count_tokens(backbone.num_frames)
    if dial == "merge_tokens":
        counts = [tokens]
        for _ in range(backbone.num_layers - 1):
            counts.append(counts[-1] - min(value, (counts[-1] - 2) // 2))
        return statistics.mean(counts)
    if dial.startswith("patchout"):
        return tokens * (1 - value)
    return tokens


def compiled(model, training):
    """Returns the logits of a waveform, with training patches left out, and a training step."""
    import keras
    import tensorflow as tf

    backbone = model.backbone
    loss_of = keras.losses.SparseCategoricalCrossentropy(from_logits=True)

    @tf.function
    def logits(sound):
        asked = backbone.num_pooled_tokens
        tokens = backbone(model.spectrogram(sound), training=training, num_tokens=asked)
        return model.classify(model.pool(tokens))

    @tf.function
    def step(sound):
        with tf.GradientTape() as tape:
            loss = loss_of(tf.constant([0]), model(sound, training=True))
        slopes = tape.gradient(loss, model.trainable_variables)
        return tf.add_n([tf.reduce_sum(slope) for slope in slopes])

    return logits, step


def measure(settings, clips, rounds):
    """Fills in the settings' times and logits; they take turns. Returns the full step's times."""
    full_step = []
    full = settings[0]
    for index, clip in enumerate(clips):
        for setting in settings:
            call = setting.train if setting.dial.startswith("patchout") else setting.call
            if index == 0:
                setting.call(clip), call(clip)  # makes the graphs
            setting.logits.append(setting.call(clip).numpy()[0])
            if index < rounds:
                setting.seconds.append(timed(call, clip))
        if index == 0:
            full.train(clip)
        if index < rounds:
            full_step.append(timed(full.train, clip))
    return full_step


def timed(call, clip):
    start = time.perf_counter()
    call(clip).numpy()
    return time.perf_counter() - start


def compare(settings, full_step):
    """Returns a row for each setting, with what the full model's time is by its own."""
    full = settings[0]
    wanted = np.stack(full.logits)
    rows = []
    for setting in settings:
        found = np.stack(setting.logits)
        against = full_step if setting.dial.startswith("patchout") else full.seconds
        seconds = statistics.median(setting.seconds)
        rows.append(
            {
                "dial": setting.dial,
                "value": setting.value,
                "tokens": setting.tokens / full.tokens,
                "ms": 1e3 * seconds,
                "speed": statistics.median(against) / seconds,
                "agreement": float(np.mean(found.argmax(1) == wanted.argmax(1))),
                "correlation": correlation(found, wanted),
            }
        )
    return rows


def correlation(found, wanted):
    found, wanted = (part - part.mean(1, keepdims=True) for part in (found, wanted))
    return float((found * wanted).sum() / np.sqrt((found**2).sum() * (wanted**2).sum()))


def draw(rows, path):
    """Draws a line for each dial: speed to the right, agreement upwards."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(1, 2, figsize=(11, 4.5), sharex=True)
    for dial in DIALS:
        points = [rows[0], *(row for row in rows if row["dial"] == dial)]
        for axis, name in zip(axes, ("agreement", "correlation"), strict=True):
            speed = [point["speed"] if point is not rows[0] else 1.0 for point in points]
            axis.plot(speed, [point[name] for point in points], marker="o", label=dial)
            for x, point in zip(speed[1:], points[1:], strict=True):
                axis.annotate(f" {point['value']}", (x, point[name]), fontsize=7)
    axes[0].set_ylabel("share of clips with the same first class")
    axes[1].set_ylabel("correlation of logits")
    for axis in axes:
        axis.set_xlabel("times as fast as the full model")
        axis.axvline(2, color="0.8", zorder=0)
    axes[0].legend(fontsize=8, loc="upper right")
    figure.tight_layout()
    figure.savefig(path, dpi=110)


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", help="a saved model's folder; else AST-tiny, random")
    parser.add_argument("--data", type=pathlib.Path, help="a folder of sounds; else made up")
    parser.add_argument("--clips", type=int, default=40)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--seconds", type=int, default=10, help="of what is made up")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--out", type=pathlib.Path, default=pathlib.Path("runs/benchmark"))
    options = parser.parse_args()
    import tensorflow as tf

    tf.config.threading.set_intra_op_parallelism_threads(options.threads)
    import ast_keras

    options.out.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as scratch:
        folder = options.model or pathlib.Path(scratch, "random")
        if options.model is None:
            ast_keras.from_preset("ast_tiny", num_classes=50).save_to_preset(folder)
        full = ast_keras.from_preset(folder)
        rate, num_samples = full.frontend.sample_rate, full.frontend.num_samples
        settings = list(settings_of(folder, full.backbone.strides))
    clips = [np.resize(clip, num_samples)[None] for clip in sounds(options, rate)]
    rows = compare(settings, measure(settings, clips, options.rounds))
    print(f"{'dial':18}{'value':>7}{'tokens':>8}{'ms':>8}{'speed':>7}{'same':>7}{'corr.':>7}")
    for row in rows:
        print(
            f"{row['dial']:18}{row['value']:7}{row['tokens']:8.2f}{row['ms']:8.1f}"
            f"{row['speed']:7.2f}{row['agreement']:7.2f}{row['correlation']:7.3f}"
        )
    (options.out / "dials.json").write_text(json.dumps(rows, indent=1), encoding="utf-8")
    draw(rows, options.out / "dials.png")


if __name__ == "__main__":
    main()
