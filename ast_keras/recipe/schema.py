"""The dataclasses of a recipe: every setting of a training run, with its meaning and range.

The groups `Frontend` and `Optimizer` are in `recipe.frontend` and `recipe.optimizer`.
"""

from __future__ import annotations

import dataclasses
import json

from ast_keras.recipe.checks import check_combinations
from ast_keras.recipe.fields import (
    FRACTION,
    FREEZE,
    NOT_NEGATIVE,
    POSITIVE,
    RATE,
    SEED,
    check_values,
    setting,
)
from ast_keras.recipe.frontend import Frontend
from ast_keras.recipe.optimizer import Optimizer


@dataclasses.dataclass(frozen=True)
class Model:
    """The transformer and the weights that it starts from."""

    size: str = setting(
        "ast_base",
        "Name of the network's size, such as ast_tiny, ast_small or ast_base. auto uses the size "
        "of the start weights, including their number of blocks and of special tokens.",
    )
    start: str = setting(
        "random",
        'Where the weights come from: "random", the name of a preset, the work directory of a '
        "run, the folder or .keras file of a saved model, or a weights file. They are resized to "
        "the requested spectrogram and patches.",
    )
    num_layers: int | None = setting(
        None, "Number of transformer blocks. None uses the number of the size.", range=POSITIVE
    )
    patch_size: tuple[int, int] | None = setting(
        (16, 16),
        "Size of a patch in mel bins and frames. None uses the patch size of the start weights.",
        range=POSITIVE,
    )
    strides: tuple[int, int] | None = setting(
        (10, 10),
        "Step from one patch to the next, in mel bins and frames. None uses the strides of the "
        "start weights, or 10,10 if those are of an image model.",
        range=POSITIVE,
    )
    use_distillation_token: bool = setting(
        True, "Whether there is a distillation token next to the class token, as in DeiT and AST."
    )
    rgb_reduction: str = setting(
        "sum",
        "How the three colour channels of an image model's patch kernel become one channel.",
        choices=("sum", "mean"),
    )
    position_resize: str = setting(
        "bilinear",
        "How position embeddings of the start weights are resized to another grid of patches. "
        "reinit draws new ones.",
        choices=("bilinear", "nearest", "reinit"),
    )
    padding: str = setting(
        "original",
        "original cuts or pads every clip to frontend.num_frames, as the authors do. masked "
        "processes each clip at its own length, up to data.clip_seconds, and batches clips of "
        "similar length.",
        choices=("original", "masked"),
    )
    patchout: float = setting(
        0.0,
        "Fraction of single patches that are dropped from each training example. Fewer patches "
        "make a training step cheaper.",
        range=RATE,
    )
    patchout_mel: float = setting(
        0.0, "Fraction of the rows of patches dropped from each training example.", range=RATE
    )
    patchout_time: float = setting(
        0.0,
        "Fraction of the columns of patches dropped from each training example. At 0.5 a step of "
        "ast_tiny takes less than half the time.",
        range=RATE,
    )
    gradient_checkpointing: bool = setting(
        False,
        "Whether blocks are computed a second time in the backward pass. Needs less memory and "
        "about a quarter more time. Excludes dropout.",
    )
    lora_rank: int | None = setting(
        None,
        "Rank of the low-rank factors (LoRA) that train, with the head, instead of the weights of "
        "attention and perceptron. The saved model contains them merged. None trains the weights.",
        range=POSITIVE,
    )
    block_columns: int | None = setting(
        None,
        "Number of columns of patches in a block of a causal model, for streams. The default "
        "patches and frames have 10 columns a second. frontend.num_frames is then that of the "
        "start weights. None trains a bidirectional model.",
        range=POSITIVE,
    )
    past_blocks: int = setting(
        9,
        "Number of earlier blocks that a block of a causal model attends to.",
        range=NOT_NEGATIVE,
    )
    dropout: float = setting(
        0.0, "Dropout rate of position embeddings, attention output and MLP.", range=RATE
    )
    attention_dropout: float = setting(0.0, "Dropout rate of the attention weights.", range=RATE)
    drop_path: float = setting(
        0.0,
        "Stochastic depth: rate at which the last block is skipped for a training example. "
        "Earlier blocks have proportionally lower rates.",
        range=RATE,
    )


@dataclasses.dataclass(frozen=True)
class Data:
    """The data set. None leaves a setting to the reader's own default."""

    kind: str = setting(
        "auto",
        "Name of the reader (`ast_keras.data.readers.READERS`). auto recognises it by the files.",
    )
    path: str | None = setting(
        None,
        "Folder or file of the data set. None downloads it, if it is public and can be fetched.",
    )
    fold: int | None = setting(None, "Fold to test on, of data that has folds.")
    subset: str | None = setting(
        None,
        "Part of the data set: esc10 of ESC-50; twelve of Speech Commands; balanced, unbalanced or "
        "full of AudioSet.",
    )
    words: tuple[str, ...] | None = setting(
        None, "Words of Speech Commands, also _silence_ and _unknown_. None uses all words."
    )
    unknown_fraction: float | None = setting(
        None, "Clips of _unknown_ for each clip of the words. None is 0.1.", range=NOT_NEGATIVE
    )
    silence_fraction: float | None = setting(
        None, "Clips of _silence_ for each clip of the words. None is 0.1.", range=NOT_NEGATIVE
    )
    labels_path: str | None = setting(
        None, "CSV file that lists the labels. Overrides the labels found in the data."
    )
    label_column: str | None = setting(
        None, "Column of a table that holds the labels. None finds it by its name."
    )
    group_pattern: str | None = setting(
        None,
        "Regular expression that finds in the path of a sound, relative to the data, the recording "
        "or speaker it belongs to: its first parenthesis, or the whole match. Sounds of one group "
        "stay in one split.",
    )
    clips_path: str | None = setting(
        None, "AudioSet only: folder of the clips, if it is not the folder of the segment lists."
    )
    test_path: str | None = setting(
        None, "AudioSet only: list of the evaluation clips, if it is not in the folder data.path."
    )
    enhanced_labels: str | None = setting(
        None, "AudioSet only: a list whose labels replace the official ones."
    )
    multi_label: bool | None = setting(
        None, "Whether an example may have several labels or none. None is decided by the data."
    )
    allow_missing: bool | None = setting(
        None, "Whether examples whose file does not exist are left out instead of being an error."
    )
    test_fraction: float | None = setting(
        None, "Fraction of the examples to test on, of data without a test split."
    )
    validation_fraction: float | None = setting(
        None, "Fraction of the examples to validate on, of data without a validation split."
    )
    num_train: int | None = setting(None, "Rendered sounds only: number of training clips.")
    num_validation: int | None = setting(None, "Rendered sounds only: number of validation clips.")
    num_test: int | None = setting(None, "Rendered sounds only: number of test clips.")
    clip_seconds: float = setting(
        10.24, "Length that longer clips are cut to, in seconds.", range=POSITIVE
    )
    validation_split: str = setting(
        "validation",
        "Split that is scored after every epoch. Data without a validation split is scored on "
        "its test split.",
    )
    sampling: str = setting(
        "shuffled",
        "shuffled shows every training example once an epoch. weighted draws with replacement, "
        "examples with rare labels more often; with one label for each example, every class is "
        "drawn equally often.",
        choices=("shuffled", "weighted"),
    )
    skip_unreadable: bool = setting(
        False,
        "Whether training replaces a file that cannot be decoded by another example instead of "
        "stopping.",
    )
    num_workers: int = setting(
        0, "Number of decoding threads. 0 uses one per core.", range=NOT_NEGATIVE
    )
    channel: int | None = setting(
        None,
        "Channel of the files to use, counted from 0, for recordings with an inverted or dead "
        "channel. None uses the mean of all channels.",
        range=NOT_NEGATIVE,
    )
    cache_megabytes: int = setting(
        4096, "Memory for decoded waveforms, in megabytes.", range=NOT_NEGATIVE
    )


@dataclasses.dataclass(frozen=True)
class Augment:
    """Augmentation of training examples, in the original's order and semantics."""

    mixup_rate: float = setting(
        0.0,
        "Fraction of the examples that are mixed with another example of the training split.",
        range=FRACTION,
    )
    freq_mask_bins: int = setting(
        0, "Maximum width of the masked band, in mel bins.", range=NOT_NEGATIVE
    )
    time_mask_frames: int = setting(
        0, "Maximum length of the masked span, in frames.", range=NOT_NEGATIVE
    )
    noise: bool = setting(False, "Whether uniform noise is added to the spectrogram.")
    roll_frames: int = setting(
        0,
        "Maximum circular shift of the spectrogram, in frames: 10 shifts by -10 to 9 frames.",
        range=NOT_NEGATIVE,
    )
    shift_seconds: float = setting(
        0.0,
        "Maximum circular shift of the waveform, in seconds, in both directions. Not in the "
        "original.",
        range=NOT_NEGATIVE,
    )
    gain_db: float = setting(
        0.0,
        "Maximum change of the level, in decibels, up and down. Not in the original.",
        range=NOT_NEGATIVE,
    )


@dataclasses.dataclass(frozen=True)
class Train:
    """The training loop: its length, its loss, and which models and checkpoints are kept."""

    num_epochs: int = setting(
        25,
        "Number of epochs. The same work directory with a larger number goes on from the last "
        "checkpoint.",
        range=POSITIVE,
    )
    patience: int | None = setting(
        None,
        "Number of epochs without a better metric after which training ends before num_epochs. "
        "None always trains num_epochs.",
        range=POSITIVE,
    )
    batch_size: int = setting(
        48, "Number of examples in a batch, over all devices and accumulated parts.", range=POSITIVE
    )
    accumulate_steps: int = setting(
        1,
        "Number of parts that a batch is computed in, one after the other. More parts need less "
        "memory; the result is the same up to rounding.",
        range=POSITIVE,
    )
    eval_batch_size: int | None = setting(
        None,
        "Number of examples in an evaluation batch. None is twice batch_size, as in the original.",
        range=POSITIVE,
    )
    loss: str = setting(
        "categorical",
        "Cross-entropy over classes (categorical) or per class (binary). auto is binary if an "
        "example may have several labels.",
        choices=("categorical", "binary", "auto"),
    )
    freeze: int | str = setting(
        "none",
        "What does not train: none, the backbone, or a number of transformer blocks, counted from "
        "the input, with patch embedding, special tokens and positions. 0 freezes only these.",
        range=FREEZE,
    )
    label_smoothing: float = setting(
        0.0, "Amount of label smoothing; 0 disables it.", range=FRACTION
    )
    class_weights: str = setting(
        "none",
        "balanced weights the loss of each example in inverse proportion to the frequency of its "
        "class, with a mean of 1; the training loss that is printed is weighted, scores are not. "
        "For data with one label for each example. Excludes data.sampling=weighted.",
        choices=("none", "balanced"),
    )
    metric: str = setting(
        "accuracy",
        "Score that chooses the best epoch. auto is mean_average_precision if an example may have "
        "several labels, otherwise accuracy.",
        choices=("accuracy", "mean_average_precision", "auto"),
    )
    final_model: str = setting(
        "best",
        "Model that the run saves as its result: of the epoch with the best metric, of the last "
        "epoch, or the average of the weights of keep_epochs.",
        choices=("best", "last", "average"),
    )
    precision: str = setting(
        "float32",
        "Keras dtype policy of the network. auto is mixed_bfloat16 if all devices compute with "
        "bfloat16, otherwise float32.",
        choices=("float32", "mixed_float16", "mixed_bfloat16", "auto"),
    )
    steps_per_loop: int = setting(
        20,
        "Maximum number of steps between two checks of the loss, the clock and signals.",
        range=POSITIVE,
    )
    checkpoint_minutes: float = setting(
        10.0,
        "Minutes between two checkpoints. There is also one after every epoch.",
        range=POSITIVE,
    )
    keep_checkpoints: int = setting(2, "Number of checkpoints that are kept.", range=POSITIVE)
    keep_epochs: tuple[int, int] | None = setting(
        None,
        "First and last epoch whose models are kept in WORKDIR/epochs, for `ast_keras.average`. "
        "Each takes 350 MB of disk for ast_base, 90 MB for ast_small. None keeps none.",
    )
    deterministic: bool = setting(
        True,
        "Whether TensorFlow uses deterministic operations only, so that a run repeats exactly.",
    )
    jit_compile: bool = setting(False, "Whether XLA compiles the loss and its gradient.")


@dataclasses.dataclass(frozen=True)
class Recipe:
    """All settings of one training run.

    Fields are checked when a recipe is made, so that a `Recipe` is always valid. Every class of
    a group (`Frontend`, `Model`, ...) documents its fields; `python -m ast_keras.train
    --recipe NAME --print_recipe` prints the values.

    Raises:
        RecipeError: If a value is out of range, or two values contradict each other.

    Example:

    >>> recipe = Recipe(name="mine", train=Train(num_epochs=5))
    >>> recipe.train.num_epochs, recipe.model.size
    (5, 'ast_base')
    """

    name: str
    seed: int = setting(
        1, "Seed of initial weights, order of examples and augmentation.", range=SEED
    )
    frontend: Frontend = Frontend()  # noqa: RUF009  (frozen)
    model: Model = Model()
    data: Data = Data()
    augment: Augment = Augment()
    optimizer: Optimizer = Optimizer()  # noqa: RUF009  (frozen)
    train: Train = Train()

    def __post_init__(self) -> None:
        check_values(self)
        for field in dataclasses.fields(self):
            group = getattr(self, field.name)
            if dataclasses.is_dataclass(group):
                check_values(group, f"{field.name}.")
        check_combinations(self)

    def to_json(self) -> str:
        """Returns the recipe as indented JSON that `load_recipe` reads."""
        return json.dumps(dataclasses.asdict(self), indent=2) + "\n"
