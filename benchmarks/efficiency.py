"""Speed and accuracy of the efficiency options: token merging, strides and Patchout.

    python -m benchmarks.efficiency [--model FOLDER] [--data FOLDER] [--clips 40] [--out FOLDER]

Each option is measured at several values, on copies of the same weights that take turns. Agreement
is the fraction of clips with the same best class as the full model's. Correlation is that of the
logits with the full model's, after each clip's mean is removed. Patchout acts in training: its time
is that of a training step, its agreement that of a forward pass without the dropped patches.
Without `--model` the weights are random: the times hold, the agreement means little. Without
`--data` the clips are tones with noise. Writes efficiency.json and efficiency.png.
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
OPTIONS = {
    "merge_tokens": (10, 40, 80, 110, 140),
    "strides": (12, 14, 16),
    "patchout_time": (0.25, 0.5, 0.75),
    "patchout": (0.25, 0.5, 0.75),
}
# Options of the saved model are switched off, and dropout, which would hide the effect of Patchout.
OFF = {
    "merge_tokens": 0,
    **{"patchout": 0.0, "patchout_mel": 0.0, "patchout_time": 0.0},
    **{"dropout": 0.0, "attention_dropout": 0.0, "drop_path": 0.0},
}


@dataclasses.dataclass
class Setting:
    """The model with one option at one value.

    Attributes:
        option: Name of the option; "full" for the model without any.
        value: Value of the option.
        call: Function from a waveform to logits.
        train: Function that runs a training step.
        tokens: Mean number of tokens in a block.
        seconds: Measured times of a call (of a training step for Patchout).
        logits: Logits of each clip.
    """

    option: str
    value: float
    call: object
    train: object
    tokens: float
    seconds: list[float] = dataclasses.field(default_factory=list)
    logits: list[np.ndarray] = dataclasses.field(default_factory=list)


def make_clips(options, rate):
    """Yields clips `[samples]` of a folder, or tones with noise."""
    if options.data is None:
        rng = np.random.default_rng(0)
        time_axis = np.arange(options.seconds * rate) / rate
        for _ in range(options.clips):
            tone = 0.2 * np.sin(2 * np.pi * rng.uniform(100, 4000) * time_axis)
            yield (tone + 0.02 * rng.standard_normal(len(time_axis))).astype("float32")
        return
    from ast_keras import load_audio

    files = sorted(path for path in options.data.rglob("*") if path.suffix in SUFFIXES)
    for index in np.linspace(0, len(files) - 1, options.clips).astype(int):
        yield load_audio(files[index], rate)


def settings_of(folder, strides):
    """Yields the full model, and then each option at each of its values."""
    import ast_keras

    def setting(option, value, **arguments):
        model = ast_keras.from_preset(folder, **{**OFF, **arguments})
        training = option.startswith("patchout")
        call, train = compiled(model, training)
        return Setting(option, value, call, train, tokens_per_block(model, option, value))

    yield setting("full", 0)
    for option, values in OPTIONS.items():
        for value in values:
            argument = value
            if option == "strides":  # along mel too, unless there is only one row of patches
                argument = (strides[0] if strides[0] >= 100 else value, value)
                if value <= strides[1]:
                    continue
            yield setting(option, value, **{option: argument})


def tokens_per_block(model, option, value):
    """Returns the mean number of tokens in a block."""
    backbone = model.backbone
    tokens = backbone.count_tokens(backbone.num_frames)
    if option == "merge_tokens":
        counts = [tokens]
        for _ in range(backbone.num_layers - 1):
            counts.append(counts[-1] - min(value, (counts[-1] - 2) // 2))
        return statistics.mean(counts)
    if option.startswith("patchout"):
        return tokens * (1 - value)
    return tokens


def compiled(model, training):
    """Returns two functions of a waveform: to logits, and a training step.

    Args:
        model: The classifier.
        training: Whether the logits are computed with the dropped patches of training.
    """
    import keras
    import tensorflow as tf

    loss_of = keras.losses.SparseCategoricalCrossentropy(from_logits=True)

    @tf.function
    def logits(waveform):
        return model.logits_from_spectrogram(model.spectrogram(waveform), training=training)

    @tf.function
    def step(waveform):
        with tf.GradientTape() as tape:
            loss = loss_of(tf.constant([0]), model(waveform, training=True))
        gradients = tape.gradient(loss, model.trainable_variables)
        return tf.add_n([tf.reduce_sum(gradient) for gradient in gradients])

    return logits, step


def measure(settings, clips, rounds):
    """Measures times and logits of settings that take turns.

    Args:
        settings: The full model and the other settings; their `seconds` and `logits` are extended.
        clips: Waveforms `[1, samples]`.
        rounds: Number of clips on which times are measured.

    Returns:
        The times of a training step of the full model in seconds.
    """
    full_step = []
    full = settings[0]
    for index, clip in enumerate(clips):
        for setting in settings:
            call = setting.train if setting.option.startswith("patchout") else setting.call
            if index == 0:
                setting.call(clip), call(clip)  # traces the graphs
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
    """Returns a row of results for each setting, relative to the full model (the first setting)."""
    full = settings[0]
    expected = np.stack(full.logits)
    rows = []
    for setting in settings:
        logits = np.stack(setting.logits)
        reference = full_step if setting.option.startswith("patchout") else full.seconds
        seconds = statistics.median(setting.seconds)
        rows.append(
            {
                "option": setting.option,
                "value": setting.value,
                "tokens": setting.tokens / full.tokens,
                "ms": 1e3 * seconds,
                "speed": statistics.median(reference) / seconds,
                "agreement": float(np.mean(logits.argmax(1) == expected.argmax(1))),
                "correlation": correlation(logits, expected),
            }
        )
    return rows


def correlation(a, b):
    """Returns the correlation of two arrays `[clips, classes]` after each row's mean is removed."""
    a, b = (part - part.mean(1, keepdims=True) for part in (a, b))
    return float((a * b).sum() / np.sqrt((a**2).sum() * (b**2).sum()))


def draw(rows, path):
    """Draws one line for each option: speed on the x axis, agreement on the y axis."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(1, 2, figsize=(11, 4.5), sharex=True)
    for option in OPTIONS:
        points = [rows[0], *(row for row in rows if row["option"] == option)]
        for axis, name in zip(axes, ("agreement", "correlation"), strict=True):
            speed = [point["speed"] if point is not rows[0] else 1.0 for point in points]
            axis.plot(speed, [point[name] for point in points], marker="o", label=option)
            for x, point in zip(speed[1:], points[1:], strict=True):
                axis.annotate(f" {point['value']}", (x, point[name]), fontsize=7)
    axes[0].set_ylabel("fraction of clips with the same best class")
    axes[1].set_ylabel("correlation of logits")
    for axis in axes:
        axis.set_xlabel("speed relative to the full model")
        axis.axvline(2, color="0.8", zorder=0)
    axes[0].legend(fontsize=8, loc="upper right")
    figure.tight_layout()
    figure.savefig(path, dpi=110)


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", help="folder of a saved model; default: AST-tiny, random")
    parser.add_argument("--data", type=pathlib.Path, help="folder of recordings; default: tones")
    parser.add_argument("--clips", type=int, default=40, help="number of clips")
    parser.add_argument("--rounds", type=int, default=7, help="clips on which times are measured")
    parser.add_argument("--seconds", type=int, default=10, help="length of the tones")
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
    clips = [np.resize(clip, num_samples)[None] for clip in make_clips(options, rate)]
    rows = compare(settings, measure(settings, clips, options.rounds))
    print(f"{'option':18}{'value':>7}{'tokens':>8}{'ms':>8}{'speed':>7}{'same':>7}{'corr.':>7}")
    for row in rows:
        print(
            f"{row['option']:18}{row['value']:7}{row['tokens']:8.2f}{row['ms']:8.1f}"
            f"{row['speed']:7.2f}{row['agreement']:7.2f}{row['correlation']:7.3f}"
        )
    (options.out / "efficiency.json").write_text(json.dumps(rows, indent=1), encoding="utf-8")
    draw(rows, options.out / "efficiency.png")


if __name__ == "__main__":
    main()
