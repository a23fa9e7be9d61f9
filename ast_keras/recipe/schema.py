"""Recipes: everything that decides a training run, as frozen dataclasses.

A recipe is a Python file with a docstring (the command, the expected result, the cost) and a
function `get_recipe()` that returns a `Recipe`. The command line loads one by name, path or saved
JSON, changes single fields with `--set group.field=value`, and writes the resolved recipe into the
work directory, from which the run can be repeated. Only the standard library is needed here.
"""

from __future__ import annotations

import dataclasses
import json
import os
import pathlib
import runpy
import typing
from typing import Any

from ast_keras.errors import RecipeError, did_you_mean
from ast_keras.recipe.checks import check_recipe
from ast_keras.recipe.parsing import convert_value, parse_value

PACKAGE_DIR = pathlib.Path(__file__).resolve().parents[1]
# Names that a recipe.json of an earlier run, or a script, may still use.
_EARLIER_NAMES = {
    ("model", "rgb"): "rgb_reduction",
    ("model", "position"): "position_resize",
    ("train", "choose"): "final_model",
}


@dataclasses.dataclass(frozen=True)
class Frontend:
    """Waveform to normalised log-mel frames; see `LogMelFilterbank` for units."""

    sample_rate: int = 16000
    num_mel_bins: int = 128
    num_frames: int = 1024
    window: str = "hann"
    mean: float | None = -4.2677393  # None: as the start weights; AudioSet's if they know none
    std: float | None = 4.5689974  # likewise


@dataclasses.dataclass(frozen=True)
class Model:
    """The transformer. `start` is "random", a published preset's name, or files of weights.

    A start is fitted to the frontend's frames and the patches asked for here.
    """

    size: str = "ast_base"  # or "auto": that of the start, tokens and all
    start: str = "random"
    num_layers: int | None = None  # None: as the size says
    patch_size: tuple[int, int] | None = (16, 16)  # (mel, time); None: as the start
    strides: tuple[int, int] | None = (10, 10)  # (mel, time); None: as the start, 10,10 of an image
    use_distillation_token: bool = True
    rgb_reduction: str = "sum"  # or "mean": how an image start's colour kernels become one
    position_resize: str = (
        "bilinear"  # or "nearest", "reinit": how a start's positions get to more patches
    )
    # "original": every clip is cut or padded to frontend.num_frames, as the authors do; "masked":
    # each is heard as long as it is (up to data.clip_seconds), in batches of similar lengths.
    padding: str = "original"
    # Shares of single patches, rows and columns of them that a training example leaves out: steps
    # cost less. With half of the columns a step of AST-tiny takes less than half the time.
    patchout: float = 0.0
    patchout_mel: float = 0.0
    patchout_time: float = 0.0
    # Columns of patches to either side that a patch attends to; None: all. For long sounds.
    attention_window: int | None = None
    # Compute blocks again for the gradient: less memory, a third more time, and no dropout.
    gradient_checkpointing: bool = False
    # For streams: patches along time in a block, and how many earlier blocks one attends to. Of
    # the usual patches 10 are a second. frontend.num_frames is then that of the start weights.
    block_columns: int | None = None
    past_blocks: int = 9
    dropout: float = 0.0
    attention_dropout: float = 0.0
    drop_path: float = 0.0


@dataclasses.dataclass(frozen=True)
class Data:
    """Where the sounds are; `kind` names a reader (`ast_keras.data.readers`), None: its default."""

    kind: str = "manifest"
    path: str | None = None
    fold: int | None = None
    subset: str | None = None
    words: tuple[str, ...] | None = None
    labels_path: str | None = None
    clips_path: str | None = None  # of AudioSet: the clips, where not beside the lists
    test_path: str | None = None  # of AudioSet: the list of evaluation clips, likewise
    enhanced_labels: str | None = None  # of AudioSet: a list whose labels replace the official
    multi_label: bool | None = None
    allow_missing: bool | None = None
    test_fraction: float | None = None
    validation_fraction: float | None = None
    num_train: int | None = None  # of rendered sounds
    num_validation: int | None = None
    num_test: int | None = None
    clip_seconds: float = 10.24  # longer clips are cut, shorter ones keep their own frames
    validation_split: str = "validation"  # used after every epoch when the data has it, else test
    sampling: str = "shuffled"  # or "weighted": with replacement, rare labels more often
    skip_unreadable: bool = False  # train on another clip instead of stopping at a broken file
    num_workers: int = 0  # decoding threads; 0: one per core
    cache_megabytes: int = 4096  # decoded waveforms are kept while they fit


@dataclasses.dataclass(frozen=True)
class Augment:
    """Training-time changes to the sound, in the original's order and semantics."""

    mixup_rate: float = 0.0
    freq_mask_bins: int = 0
    time_mask_frames: int = 0
    noise: bool = False
    roll_frames: int = 0  # 10 rolls by -10..9 frames
    shift_seconds: float = 0.0  # not in the original: circular shift of the waveform, both ways
    gain_db: float = 0.0  # not in the original: level changed by up to this, both ways


@dataclasses.dataclass(frozen=True)
class Optimizer:
    """Adam and its learning rate. `l2` is added to the gradient, `weight_decay` is decoupled."""

    learning_rate: float = 1e-4
    beta_1: float = 0.95
    beta_2: float = 0.999
    epsilon: float = 1e-8
    l2: float = 5e-7
    weight_decay: float = 0.0
    gradient_clip_norm: float | None = None
    schedule: str = "epoch_decay"  # or "warmup_cosine"
    decay_start_epoch: int = 5
    decay_every_epochs: int = 1
    decay_rate: float = 0.85
    warmup_steps: int = 0
    final_fraction: float = 0.0  # of the learning rate, at the end of "warmup_cosine"


@dataclasses.dataclass(frozen=True)
class Train:
    """The loop: lengths, precision, what is kept and when."""

    num_epochs: int = 25
    batch_size: int = 48  # over all devices, and over the parts of an accumulated batch
    accumulate_steps: int = 1  # parts of a batch, computed in turn: less memory, the same result
    eval_batch_size: int | None = None  # None: twice the training batch, as in the original
    loss: str = "categorical"  # or "binary"; "auto": binary for several labels to a sound
    label_smoothing: float = 0.0
    # Chooses the best epoch; or "mean_average_precision", or "auto": that for several labels.
    metric: str = "accuracy"
    # Which model is the run's result: of the epoch with the best metric, of the last epoch, or the
    # mean of the weights of `keep_epochs`.
    final_model: str = "best"  # or "last", "average"
    # Or "mixed_float16", "mixed_bfloat16"; "auto" is the latter where all devices compute with it.
    precision: str = "float32"
    steps_per_loop: int = 20  # steps between two looks at the loss, the clock and signals
    checkpoint_minutes: float = 10.0  # besides the one after every epoch
    keep_checkpoints: int = 2
    # First and last epoch whose models are kept in WORKDIR/epochs for `ast_keras.average`; None
    # keeps none. Each takes the disk of its weights: 350 MB for ast_base, 90 MB for ast_small.
    keep_epochs: tuple[int, int] | None = None
    deterministic: bool = True
    jit_compile: bool = False


@dataclasses.dataclass(frozen=True)
class Recipe:
    """One training run, resolved."""

    name: str
    seed: int = 1
    frontend: Frontend = Frontend()
    model: Model = Model()
    data: Data = Data()
    augment: Augment = Augment()
    optimizer: Optimizer = Optimizer()
    train: Train = Train()

    def __post_init__(self) -> None:
        check_recipe(self)

    def to_json(self) -> str:
        """Returns the recipe as indented JSON that `load_recipe` reads back."""
        return json.dumps(dataclasses.asdict(self), indent=2) + "\n"


def recipes_dir() -> pathlib.Path:
    """Returns the folder of the recipes: beside the package in a checkout, inside it in a wheel."""
    installed = PACKAGE_DIR / "recipes"
    return installed if installed.is_dir() else PACKAGE_DIR.parent / "recipes"


def list_recipes() -> list[str]:
    """Returns the names that `load_recipe` accepts, sorted.

    Example:

    >>> "quickstart" in list_recipes()
    True
    """
    return sorted(p.stem for p in recipes_dir().glob("*.py") if not p.stem.startswith("_"))


def load_recipe(source: str | os.PathLike[str]) -> Recipe:
    """Loads a recipe by name, from a `.py` file, or from a saved `.json`.

    Args:
      source: A name (`list_recipes`), the path of a Python file with `get_recipe()`, or the path
        of a `recipe.json`.

    Raises:
      RecipeError: If there is no such recipe, with the nearest name, or if the file is not one.

    Example:

    >>> load_recipe("quickstart").train.loss
    'categorical'
    """
    text = os.fspath(source)
    if not text.endswith((".py", ".json")):
        names = list_recipes()
        if text not in names:
            raise RecipeError(
                f"There is no recipe of this name. {did_you_mean(text, names)} All: "
                f"{', '.join(names)}; a path must end in .py or .json. Received: recipe={text!r}"
            )
        text = str(recipes_dir() / f"{text}.py")
    path = pathlib.Path(text)
    if not path.is_file():
        raise RecipeError(f"There is no recipe file at this path. Received: recipe={text!r}")
    return _from_json(path) if path.suffix == ".json" else _from_python(path)


def _from_python(path: pathlib.Path) -> Recipe:
    try:
        get_recipe = runpy.run_path(str(path)).get("get_recipe")
        recipe = get_recipe() if callable(get_recipe) else None
    except RecipeError:
        raise
    except Exception as error:
        raise RecipeError(
            f"This recipe file does not run: {type(error).__name__}: {error}. Received: {path}"
        ) from error
    if not isinstance(recipe, Recipe):
        raise RecipeError(
            f"A recipe file must define get_recipe() that returns a Recipe. Received: {path}"
        )
    return recipe


def _from_json(path: pathlib.Path) -> Recipe:
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except (UnicodeDecodeError, json.JSONDecodeError) as error:
        raise RecipeError(f"This recipe is not valid JSON: {error}. Received: {path}") from None
    if not isinstance(values, dict) or "name" not in values:
        raise RecipeError(f"A recipe's JSON must be an object with a name. Received: {path}")
    recipe = Recipe(name=str(values.pop("name")))
    changes: dict[str, Any] = {}
    for key, value in values.items():
        group = _group(recipe, key)
        if not dataclasses.is_dataclass(group):
            changes[key] = convert_value(value, _hints(recipe)[key], key)
            continue
        if not isinstance(value, dict):
            raise RecipeError(f"{key} must be an object. Received: {key}={value!r} in {path}")
        hints = _hints(group)
        value = {_EARLIER_NAMES.get((key, field), field): value[field] for field in value}
        for field in value:
            _require(field, hints, f"{key} has no field of this name")
        fields = {f: convert_value(v, hints[f], f"{key}.{f}") for f, v in value.items()}
        changes[key] = dataclasses.replace(group, **fields)  # type: ignore[type-var]
    return dataclasses.replace(recipe, **changes)


def override(recipe: Recipe, assignments: typing.Sequence[str]) -> Recipe:
    """Returns the recipe with fields changed, as `--set` does.

    All assignments are made before the result is checked, so that two fields that depend on each
    other can change together.

    Args:
      recipe: The recipe to start from; it is not modified.
      assignments: Strings "group.field=value" or "field=value". Tuples are written "16,16"; "none"
        clears an optional field.

    Raises:
      RecipeError: If a field does not exist (with the nearest name) or a value does not parse.

    Example:

    >>> override(load_recipe("quickstart"), ["train.batch_size=8", "seed=3"]).train.batch_size
    8
    """
    groups: dict[str, dict[str, Any]] = {}
    for assignment in assignments:
        name, equals, text = assignment.partition("=")
        name = name.strip()
        if not equals:
            raise RecipeError(
                f"A setting must read group.field=value. Received: --set {assignment!r}"
            )
        head, dot, field = name.partition(".")
        group = _group(recipe, head)
        if dataclasses.is_dataclass(group):
            if not dot:
                raise RecipeError(f"{head} is a group: set {head}.FIELD. Received: --set {name}")
            hints = _hints(group)
            field = _EARLIER_NAMES.get((head, field), field)
            _require(field, hints, f"{head} has no field of this name")
            groups.setdefault(head, {})[field] = parse_value(text, hints[field], name)
        elif dot:
            raise RecipeError(f"{head} has no fields of its own. Received: --set {name}")
        else:
            groups.setdefault("", {})[head] = parse_value(text, _hints(recipe)[head], name)
    changes: dict[str, Any] = groups.pop("", {})
    for head, fields in groups.items():
        changes[head] = dataclasses.replace(getattr(recipe, head), **fields)
    return dataclasses.replace(recipe, **changes)


def _group(recipe: Recipe, name: str) -> Any:
    _require(name, _hints(recipe), "A recipe has no group or field of this name")
    return getattr(recipe, name)


def _hints(group: Any) -> dict[str, Any]:
    return typing.get_type_hints(type(group))


def _require(name: str, known: typing.Iterable[str], rule: str) -> None:
    if name not in known:
        raise RecipeError(f"{rule}. {did_you_mean(name, known)} Received: {name!r}")
