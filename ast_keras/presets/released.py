"""Released weights: where they are, what they are for, and their published results.

Only the standard library is imported here.
"""

from __future__ import annotations

from dataclasses import dataclass

from ast_keras.labels import AUDIOSET_MEAN, AUDIOSET_STD

_AUTHORS = {
    "ast": "https://github.com/YuanGongND/ast",
    "image": "https://github.com/facebookresearch/deit",
}


@dataclass(frozen=True, kw_only=True)
class ReleasedWeights:
    """Describes one set of released weights.

    Args:
        name: Name of the preset.
        kind: "ast" for an audio classifier, "image" for an ImageNet model that an AST can start
            from.
        size: A name in `ast_keras.presets.loading.SIZES`.
        summary: Short description that distinguishes it from the others.
        hub_id: Repository on the hub, "owner/name".
        authors_file: File name under which the authors publish the same weights.
        strides: Step between patches `(mel, time)`, in mel bins and frames.
        num_patches: Number of patches, without class and distillation tokens.
        num_classes: Number of outputs of each head; an image model has two heads.
        num_parameters: Number of parameters in the hub's file, heads included.
        metric: Meaning of `value`: "mAP" on the evaluation set of AudioSet, "accuracy" on the test
            set of Speech Commands, or "top-1" on the validation set of ImageNet. All three are
            fractions.
        value: The published result.
        auc: Published mean area under the ROC curve.
        d_prime: Published d', which is `sqrt(2)` times the normal quantile of `auc`.
        licence: Licence of the weights, as an SPDX identifier in lower case.
        num_frames: Length of the spectrogram, in frames of 10 ms; None for an image model.
        mean: Mean of the log-mel values of the training set, which is subtracted from the input.
        std: Standard deviation of the same values; the input is divided by twice this number.
        labels: A name for `LabelSet.load`; None for an image model.
        score_activation: "softmax" or "sigmoid": how logits become scores. Both audio models were
            trained with binary cross-entropy, so that Speech Commands has independent scores, too.
        sample_logits: First three logits of the hub's conversion for its own sample clip, which its
            tests check within 1e-4.
        filename: Name of the weights file in the hub's repository.
        revision: Git revision of the hub's repository: a branch, a tag or a commit. "main" is the
            newest one; no commit is pinned yet.
    """

    name: str
    kind: str
    size: str
    summary: str
    hub_id: str
    authors_file: str
    strides: tuple[int, int]
    num_patches: int
    num_classes: int
    num_parameters: int
    metric: str
    value: float
    auc: float | None = None
    d_prime: float | None = None
    licence: str
    num_frames: int | None = None
    mean: float | None = None
    std: float | None = None
    labels: str | None = None
    score_activation: str | None = None
    sample_logits: tuple[float, float, float] | None = None
    filename: str = "model.safetensors"
    revision: str = "main"

    @property
    def megabytes(self) -> int:
        """Size of the hub's file in units of 10^6 bytes, with 4 bytes per parameter."""
        return round(4 * self.num_parameters / 1e6)

    @property
    def authors_url(self) -> str:
        """Page on which the authors publish `authors_file`."""
        return _AUTHORS[self.kind]


@dataclass(frozen=True, kw_only=True)
class Ensemble:
    """Describes an ensemble of presets with a published result on AudioSet.

    Args:
        presets: Names of the presets whose scores are averaged.
        value: Published mAP.
        auc: Published mean area under the ROC curve.
        d_prime: Published d'.
    """

    presets: tuple[str, ...]
    value: float
    auc: float
    d_prime: float


def _audioset(
    name: str, summary: str, hub: str, file: str, stride: int, results: tuple[float, float, float],
    logits: tuple[float, float, float],
) -> ReleasedWeights:  # fmt: skip
    """Returns a row of AudioSet weights; only the number of patches depends on the stride."""
    num_patches = ((128 - 16) // stride + 1) * ((1024 - 16) // stride + 1)
    return ReleasedWeights(
        name=name,
        kind="ast",
        size="ast_base",
        summary=summary,
        hub_id=f"MIT/ast-finetuned-audioset-{hub}",
        authors_file=f"audioset_{file}.pth",
        strides=(stride, stride),
        num_patches=num_patches,
        num_classes=527,
        num_parameters=85_661_711 + 768 * (2 + num_patches),
        metric="mAP",
        value=results[0],
        auc=results[1],
        d_prime=results[2],
        licence="bsd-3-clause",
        num_frames=1024,
        mean=AUDIOSET_MEAN,
        std=AUDIOSET_STD,
        labels="audioset",
        score_activation="sigmoid",
        sample_logits=logits,
    )


def _image(
    size: str, pixels: int, num_parameters: int, top_1: float, digest: str
) -> ReleasedWeights:
    """Returns a row of a distilled DeiT, trained on ImageNet-1k with 16 x 16 patches."""
    return ReleasedWeights(
        name=f"deit_{size}" if pixels == 224 else f"deit_{size}_{pixels}",
        kind="image",
        size=f"ast_{size}",
        summary=f"ImageNet start, {pixels} x {pixels}",
        hub_id=f"facebook/deit-{size}-distilled-patch16-{pixels}",
        authors_file=f"deit_{size}_distilled_patch16_{pixels}-{digest}.pth",
        strides=(16, 16),
        num_patches=(pixels // 16) ** 2,
        num_classes=1000,
        num_parameters=num_parameters,
        metric="top-1",
        value=top_1,
        licence="apache-2.0",
    )


_ROWS = (
    _audioset(
        "ast_base_audioset", "AudioSet, weights of 5 epochs averaged", "10-10-0.4593",
        "10_10_0.4593", 10, (0.45903, 0.97856, 2.86366), (-0.8760, -7.0042, -8.6602),
    ),
    _audioset(
        "ast_base_audioset_run1", "AudioSet, last epoch, first of three runs", "10-10-0.450",
        "10_10_0.4495", 10, (0.449469, 0.974766, 2.766179), (-1.1986, -7.0903, -8.2718),
    ),
    _audioset(
        "ast_base_audioset_run2", "AudioSet, last epoch, second run", "10-10-0.448",
        "10_10_0.4483", 10, (0.448287, 0.974311, 2.755320), (-2.6128, -8.0080, -9.4344),
    ),
    _audioset(
        "ast_base_audioset_run3", "AudioSet, last epoch, third run", "10-10-0.448-v2",
        "10_10_0.4475", 10, (0.447474, 0.973878, 2.745149), (-1.5080, -7.4534, -8.8917),
    ),
    _audioset(
        "ast_base_audioset_fast", "AudioSet, less overlap", "12-12-0.447",
        "12_12_0.4467", 12, (0.446669, 0.973316, 2.732173), (-0.5050, -6.5833, -8.0843),
    ),
    _audioset(
        "ast_base_audioset_faster", "AudioSet, still less overlap", "14-14-0.443",
        "14_14_0.4431", 14, (0.443088, 0.972762, 2.719576), (-0.3826, -7.0336, -8.2413),
    ),
    _audioset(
        "ast_base_audioset_fastest", "AudioSet, no overlap", "16-16-0.442",
        "16_16_0.4422", 16, (0.442223, 0.973247, 2.730574), (-1.2113, -6.9101, -8.3470),
    ),
    ReleasedWeights(
        name="ast_base_speech_commands",
        kind="ast",
        size="ast_base",
        summary="Speech Commands V2, 35 words of one second",
        hub_id="MIT/ast-finetuned-speech-commands-v2",
        authors_file="speechcommands_10_10_0.9812.pth",
        strides=(10, 10),
        num_patches=144,
        num_classes=35,
        num_parameters=85_395_491,
        metric="accuracy",
        value=0.98128,
        licence="bsd-3-clause",
        num_frames=128,
        mean=-6.845978,
        std=5.5654526,
        labels="speech_commands",
        score_activation="sigmoid",
        sample_logits=(6.1589, -8.0566, -8.7984),
    ),
    _image("tiny", 224, 5_910_800, 0.745, "b40b3cf7"),
    _image("small", 224, 22_436_432, 0.812, "649709d9"),
    _image("base", 224, 87_338_192, 0.834, "df68dfff"),
    _image("base", 384, 87_630_032, 0.852, "d0272ac0"),
)  # fmt: skip

PUBLISHED: dict[str, ReleasedWeights] = {row.name: row for row in _ROWS}

_RUNS = ("ast_base_audioset_run1", "ast_base_audioset_run2", "ast_base_audioset_run3")
ENSEMBLES: dict[str, Ensemble] = {
    "ensemble_s": Ensemble(presets=_RUNS, value=0.475056, auc=0.979441, d_prime=2.888303),
    "ensemble_m": Ensemble(
        presets=(
            *_RUNS,
            "ast_base_audioset_fast",
            "ast_base_audioset_faster",
            "ast_base_audioset_fastest",
        ),
        value=0.484852,
        auc=0.980985,
        d_prime=2.933840,
    ),
}


def preset_table() -> str:
    """Returns the Markdown table of the presets, without a trailing newline.

    Example:

    >>> print(preset_table().splitlines()[0])
    | preset | weights | published | patches | parameters | licence |
    """
    lines = ["| preset | weights | published | patches | parameters | licence |"]
    lines.append("|---|---|---|---|---|---|")
    for row in PUBLISHED.values():
        lines.append(
            f"| `{row.name}` | [{row.summary}](https://huggingface.co/{row.hub_id}) "
            f"| {_result(row)} | {row.num_patches} "
            f"| {row.num_parameters / 1e6:.2f} M | {row.licence} |"
        )
    return "\n".join(lines)


def _result(row: ReleasedWeights) -> str:
    if row.metric == "mAP":
        return f"mAP {row.value:.4f}"
    return f"{row.metric} {100 * row.value:.4g} %"
