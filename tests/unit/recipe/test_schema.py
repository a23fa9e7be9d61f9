"""Recipes: strict fields, errors that name the nearest field, and round trips through JSON.

The file is longer than others, because one table of a value for every field serves all its tests.
"""

import dataclasses
import json
import re
import typing

import pytest

from ast_keras import recipe as recipe_module
from ast_keras.recipe import Recipe, list_recipes, load_recipe, override
from ast_keras.recipe.fields import (
    FRACTION,
    FREEZE,
    LAYER_DECAY,
    NOT_NEGATIVE,
    POSITIVE,
    POSITIVE_OR_AUTO,
    RATE,
    SAMPLE_RATE,
    SEED,
    describe_settings,
)
from tests.helpers.errors import error_of

DEFAULT = Recipe(name="default")
GROUPS = [f.name for f in dataclasses.fields(Recipe) if f.name not in ("name", "seed")]
# Another value for every field, as typed on a command line: (field, text, value).
SETTINGS = [
    ("name", "other", "other"),
    ("seed", "7", 7),
    ("frontend.sample_rate", "22050", 22050),
    ("frontend.f_min_hz", "50", 50.0),
    ("frontend.f_max_hz", "7600", 7600.0),
    ("frontend.frame_length_seconds", "0.05", 0.05),
    ("frontend.frame_step_seconds", "0.02", 0.02),
    ("frontend.num_mel_bins", "64", 64),
    ("frontend.num_frames", "512", 512),
    ("frontend.window", "hamming", "hamming"),
    ("frontend.mean", "-6.6268077", -6.6268077),
    ("frontend.std", "5.358466", 5.358466),
    ("model.size", "ast_tiny", "ast_tiny"),
    ("model.start", "models/mine", "models/mine"),
    ("model.num_layers", "3", 3),
    ("model.patch_size", "128,2", (128, 2)),
    ("model.strides", "(16, 16)", (16, 16)),
    ("model.use_distillation_token", "false", False),
    ("model.rgb_reduction", "mean", "mean"),
    ("model.position_resize", "nearest", "nearest"),
    ("model.padding", "masked", "masked"),
    ("model.patchout", "0.25", 0.25),
    ("model.patchout_mel", "0.1", 0.1),
    ("model.patchout_time", "0.5", 0.5),
    ("model.gradient_checkpointing", "true", True),
    ("model.lora_rank", "8", 8),
    ("model.block_columns", "10", 10),
    ("model.past_blocks", "4", 4),
    ("model.dropout", "0.1", 0.1),
    ("model.attention_dropout", "0.2", 0.2),
    ("model.drop_path", "1e-1", 0.1),
    ("data.kind", "esc50", "esc50"),
    ("data.path", "a folder/of=sounds", "a folder/of=sounds"),
    ("data.fold", "2", 2),
    ("data.subset", "10", "10"),
    ("data.words", "yes,no", ("yes", "no")),
    ("data.unknown_fraction", "0.2", 0.2),
    ("data.silence_fraction", "0.05", 0.05),
    ("data.labels_path", "labels.csv", "labels.csv"),
    ("data.label_column", "species", "species"),
    ("data.group_pattern", "([^_]+)_", "([^_]+)_"),
    ("data.clips_path", "clips", "clips"),
    ("data.test_path", "eval.csv", "eval.csv"),
    ("data.enhanced_labels", "enhanced.json", "enhanced.json"),
    ("data.multi_label", "True", True),
    ("data.allow_missing", "1", True),
    ("data.test_fraction", "0.2", 0.2),
    ("data.validation_fraction", "0.1", 0.1),
    ("data.num_train", "100", 100),
    ("data.num_validation", "10", 10),
    ("data.num_test", "20", 20),
    ("data.clip_seconds", "5", 5.0),
    ("data.validation_split", "test", "test"),
    ("data.sampling", "weighted", "weighted"),
    ("data.skip_unreadable", "true", True),
    ("data.num_workers", "2", 2),
    ("data.channel", "1", 1),
    ("data.cache_megabytes", "0", 0),
    ("augment.mixup_rate", "0.5", 0.5),
    ("augment.freq_mask_bins", "48", 48),
    ("augment.time_mask_frames", "192", 192),
    ("augment.noise", "TRUE", True),
    ("augment.roll_frames", "10", 10),
    ("augment.shift_seconds", "0.1", 0.1),
    ("augment.gain_db", "6", 6.0),
    ("optimizer.learning_rate", "2.5e-4", 2.5e-4),
    ("optimizer.head_learning_rate", "5e-3", 5e-3),
    ("optimizer.layer_decay", "0.75", 0.75),
    ("optimizer.beta_1", "0.9", 0.9),
    ("optimizer.beta_2", "0.99", 0.99),
    ("optimizer.epsilon", "1e-7", 1e-7),
    ("optimizer.l2", "0", 0.0),
    ("optimizer.weight_decay", "0.05", 0.05),
    ("optimizer.gradient_clip_norm", "1", 1.0),
    ("optimizer.schedule", "warmup_cosine", "warmup_cosine"),
    ("optimizer.decay_start_epoch", "10", 10),
    ("optimizer.decay_every_epochs", "5", 5),
    ("optimizer.decay_rate", "0.5", 0.5),
    ("optimizer.warmup_steps", "1000", 1000),
    ("optimizer.final_fraction", "0.01", 0.01),
    ("train.num_epochs", "5", 5),
    ("train.patience", "4", 4),
    ("train.batch_size", "12", 12),
    ("train.accumulate_steps", "2", 2),
    ("train.eval_batch_size", "24", 24),
    ("train.loss", "binary", "binary"),
    ("train.freeze", "6", 6),
    ("train.label_smoothing", "0.1", 0.1),
    ("train.class_weights", "balanced", "balanced"),
    ("train.metric", "mean_average_precision", "mean_average_precision"),
    ("train.final_model", "last", "last"),
    ("train.precision", "mixed_bfloat16", "mixed_bfloat16"),
    ("train.steps_per_loop", "5", 5),
    ("train.checkpoint_minutes", "0.5", 0.5),
    ("train.keep_checkpoints", "3", 3),
    ("train.keep_epochs", "1,2", (1, 2)),
    ("train.deterministic", "false", False),
    ("train.jit_compile", "true", True),
]
# l2 and weight_decay exclude each other: they change together.
TOGETHER = {"optimizer.weight_decay": ["optimizer.l2=0"]}


def fields():
    """Returns every field's dotted name with its type and default."""
    found = {}
    for group in dataclasses.fields(Recipe):
        value = getattr(DEFAULT, group.name)
        if not dataclasses.is_dataclass(value):
            found[group.name] = (typing.get_type_hints(Recipe)[group.name], value)
            continue
        for name, hint in typing.get_type_hints(type(value)).items():
            found[f"{group.name}.{name}"] = (hint, getattr(value, name))
    return found


FIELDS = fields()


def value_of(recipe, name):
    for part in name.split("."):
        recipe = getattr(recipe, part)
    return recipe


def kinds(hint):
    return typing.get_args(hint) if not isinstance(hint, type) else (hint,)


def takes_any_text(hint):
    return bool({str, tuple[str, ...]} & set(kinds(hint)))


# --- Overrides ---


def test_every_field_has_a_setting():
    assert [name for name, _, _ in SETTINGS] == list(FIELDS)


@pytest.mark.parametrize(("name", "text", "value"), SETTINGS, ids=[s[0] for s in SETTINGS])
def test_override_sets_one_field_and_json_keeps_it(name, text, value, tmp_path):
    changed = override(DEFAULT, [f"{name}={text}", *TOGETHER.get(name, [])])
    assert value_of(changed, name) == value != FIELDS[name][1]
    assert type(value_of(changed, name)) is type(value)
    others = [n for n in FIELDS if value_of(changed, n) != FIELDS[n][1] and n != name]
    assert [f"{n}=0" for n in others] == TOGETHER.get(name, [])
    path = tmp_path / "recipe.json"
    path.write_text(changed.to_json())
    assert load_recipe(path) == changed


@pytest.mark.parametrize(
    "name", [n for n, (hint, _) in FIELDS.items() if type(None) in kinds(hint)]
)
def test_override_clears_an_optional_field(name):
    text = next(text for n, text, _ in SETTINGS if n == name)
    changed = override(DEFAULT, [f"{name}={text}"])
    assert value_of(override(changed, [f"{name}=none"]), name) is None


@pytest.mark.parametrize("name", [n for n, (hint, _) in FIELDS.items() if not takes_any_text(hint)])
def test_override_rejects_a_text_of_another_type(name):
    for text in ("", "fast", "1.5.2", "0x10", "nan", "inf", "-inf"):
        assert name in error_of(override, DEFAULT, [f"{name}={text}"])


@pytest.mark.parametrize("text", ["16", "16,16,16", "16,x", "1.5,2", ""])
def test_override_rejects_a_tuple_of_another_kind(text):
    message = error_of(override, DEFAULT, [f"model.patch_size={text}"])
    assert message.startswith("model.patch_size must be of type tuple[int, int]")


@pytest.mark.parametrize(
    ("assignment", "nearest"),
    [
        ("train.batchsize=3", "Did you mean 'batch_size'?"),
        ("trian.batch_size=3", "Did you mean 'train'?"),
        ("augment.time_mask_frame=3", "Did you mean 'time_mask_frames'?"),
        ("optimizer.lerning_rate=1", "Did you mean 'learning_rate'?"),
        ("sead=3", "Did you mean 'seed'?"),
        (
            "frontend.qqq=3",
            "Known: sample_rate, f_min_hz, f_max_hz, frame_length_seconds, frame_step_seconds,",
        ),
        ("train=3", "set train.FIELD"),
        ("seed.value=3", "seed has no fields of its own"),
        ("train.batch_size", "must read group.field=value"),
        ("train.=3", "train has no field of this name"),
        ("=3", "no group or field"),
    ],
)
def test_override_rejects_an_unknown_field_with_the_nearest(assignment, nearest):
    assert nearest in error_of(override, DEFAULT, [assignment])


# Of each range: values outside it, and values at its ends.
OUTSIDE = {
    POSITIVE: (0, -1),
    NOT_NEGATIVE: (-1,),
    FRACTION: (-1, 2),
    RATE: (-1, 1),
    SAMPLE_RATE: (999, 1_000_001),
    SEED: (-1, 2**31),
    POSITIVE_OR_AUTO: (0, -1, "never"),
    LAYER_DECAY: (0, 1.1, "never"),
    FREEZE: (-1, "head"),
}
INSIDE = {
    POSITIVE: (1,),
    NOT_NEGATIVE: (0,),
    FRACTION: (0, 1),
    RATE: (0,),
    SAMPLE_RATE: (1000, 10**6),
    SEED: (0, 2**31 - 1),
    POSITIVE_OR_AUTO: (1, "auto"),
    LAYER_DECAY: (0.5, 1, "auto"),
    FREEZE: (0, 12, "none", "backbone"),
}


# What the lowest value of a range needs.
LOWEST = {"frontend.f_max_hz": ["frontend.f_min_hz=0"]}


def declarations():
    """Returns the metadata of every field of a group, by dotted name."""
    groups = {name: type(getattr(DEFAULT, name)) for name in GROUPS}
    found = {f"{g}.{f.name}": f.metadata for g in groups for f in dataclasses.fields(groups[g])}
    return found | {"seed": Recipe.__dataclass_fields__["seed"].metadata}


def test_every_field_is_described():
    text = describe_settings(DEFAULT)
    for name, metadata in declarations().items():
        assert re.fullmatch(r"[\w\"].*[.]", metadata["description"], re.DOTALL), name
        assert f"{name}={value_of(DEFAULT, name)}\n" in text


def test_every_number_is_checked_against_its_range():
    ranges = {name: data["range"] for name, data in declarations().items() if data["range"]}
    assert len(ranges) > 40
    for name, allowed in ranges.items():
        pair = "tuple" in str(FIELDS[name][0])
        for value in OUTSIDE[allowed]:
            text = f"1,{value}" if pair else value
            message = error_of(override, DEFAULT, [f"{name}={text}"])
            assert message.startswith(f"{name} must {allowed.rule}. Received: {name}=")
        for value in INSIDE[allowed]:
            text = f"1,{value}" if pair else value
            others = TOGETHER.get(name, []) + LOWEST.get(name, [])
            changed = override(DEFAULT, [f"{name}={text}", *others])
            assert value_of(changed, name) == ((1, value) if pair else value)


def test_every_choice_is_checked():
    choices = {name: data["choices"] for name, data in declarations().items() if data["choices"]}
    assert len(choices) == 11
    for name, allowed in choices.items():
        message = error_of(override, DEFAULT, [f"{name}=other"])
        assert message.startswith(f"{name} must be one of {', '.join(allowed)}. Received: {name}=")


@pytest.mark.parametrize(
    ("assignments", "message"),
    [
        (["optimizer.weight_decay=0.1"], "exclude each other"),
        (["frontend.f_max_hz=9000"], "at most half of frontend.sample_rate (8000 Hz)"),
        (["frontend.sample_rate=256000", "frontend.f_min_hz=128000"], "below frontend.f_max_hz"),
        (["frontend.f_min_hz=500", "frontend.f_max_hz=500"], "below frontend.f_max_hz"),
        (["frontend.frame_step_seconds=1e-5"], "at least 1 samples, which is 6.25e-05 s"),
        (["frontend.frame_length_seconds=1e-4"], "at least 2 samples, which is 0.000125 s"),
        (["train.class_weights=balanced", "data.sampling=weighted"], "would do so twice"),
        (["train.final_model=average"], "needs the first and the last epoch to average"),
        (["train.keep_epochs=6,26"], "from 1 to train.num_epochs=25"),
        (["train.keep_epochs=0,3"], "train.keep_epochs=0,3"),
        (["train.keep_epochs=3,2"], "train.keep_epochs=3,2"),
        (["train.keep_epochs=6,25", "train.num_epochs=24"], "train.num_epochs=24"),
    ],
    ids=lambda value: value[0] if isinstance(value, list) else "",
)
def test_override_rejects_contradicting_fields(assignments, message):
    assert message in error_of(override, DEFAULT, assignments)


@pytest.mark.parametrize(
    ("earlier", "name", "value"),
    [
        ("model.rgb", "model.rgb_reduction", "mean"),
        ("model.position", "model.position_resize", "nearest"),
        ("train.choose", "train.final_model", "last"),
    ],
)
def test_earlier_names_of_fields_still_work(earlier, name, value, tmp_path):
    assert value_of(override(DEFAULT, [f"{earlier}={value}"]), name) == value
    group, field = earlier.split(".")
    path = tmp_path / "recipe.json"
    path.write_text(json.dumps({"name": "x", group: {field: value}}))
    assert value_of(load_recipe(path), name) == value


def test_override_keeps_the_recipe_and_uses_the_last_assignment():
    changed = override(DEFAULT, ["seed=2", "seed=3", " train.batch_size = 4 "])
    assert (changed.seed, changed.train.batch_size) == (3, 4)
    assert Recipe(name="default") == DEFAULT
    with pytest.raises(dataclasses.FrozenInstanceError):
        changed.seed = 4


# --- Recipe files ---


@pytest.mark.parametrize("name", list_recipes())
def test_recipe_loads_by_name_path_and_json(name, tmp_path):
    recipe = load_recipe(name)
    assert recipe.name == name
    assert load_recipe(recipe_module.recipes_dir() / f"{name}.py") == recipe
    path = tmp_path / "recipe.json"
    path.write_text(recipe.to_json())
    assert load_recipe(path) == recipe
    assert load_recipe(path).to_json() == recipe.to_json()


@pytest.mark.parametrize("name", list_recipes())
def test_recipe_survives_every_setting(name):
    recipe = load_recipe(name)
    for field, text, value in SETTINGS:
        together = [*TOGETHER.get(field, [])]
        if field == "train.num_epochs" and recipe.train.keep_epochs:
            together.append("train.keep_epochs=1,2")  # epochs that are kept must be trained
        if field == "train.class_weights":
            together.append("data.sampling=shuffled")  # either makes up for rare classes
        if field == "train.patience":
            together.append("train.final_model=best")  # an average needs all of its epochs
        changed = override(recipe, [f"{field}={text}", *together])
        assert value_of(changed, field) == value


def test_list_recipes_is_sorted_and_holds_the_quickstart():
    assert list_recipes() == sorted(list_recipes())
    assert "quickstart" in list_recipes()


def test_load_recipe_rejects_an_unknown_name_with_the_nearest():
    assert "Did you mean 'quickstart'?" in error_of(load_recipe, "quick_start")
    message = error_of(load_recipe, "zzzzzz")
    assert "must end in .py or .json" in message
    assert all(name in message for name in list_recipes())


def test_load_recipe_runs_a_python_file(tmp_path):
    path = tmp_path / "mine.py"
    path.write_text(
        "import dataclasses\nfrom ast_keras.recipe import Recipe, load_recipe\n"
        "def get_recipe():\n"
        "    return dataclasses.replace(load_recipe('quickstart'), name='mine', seed=5)\n"
    )
    expected = dataclasses.replace(load_recipe("quickstart"), name="mine", seed=5)
    assert load_recipe(path) == load_recipe(str(path)) == expected


@pytest.mark.parametrize(
    "code", ["x = 1\n", "get_recipe = 3\n", "def get_recipe():\n    return {'name': 'mine'}\n"]
)
def test_load_recipe_rejects_a_python_file_without_recipe(code, tmp_path):
    path = tmp_path / "mine.py"
    path.write_text(code)
    message = error_of(load_recipe, path)
    assert "must define get_recipe()" in message
    assert str(path) in message


@pytest.mark.parametrize("name", ["gone.py", "gone.json", "folder.json"])
def test_load_recipe_rejects_a_missing_file(name, tmp_path):
    (tmp_path / "folder.json").mkdir()
    assert str(tmp_path / name) in error_of(load_recipe, tmp_path / name)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "not valid JSON"),
        ('{"name": "x"', "not valid JSON"),
        (b"\xff\xfe{", "not valid JSON"),
        ("[]", "must be an object with a name"),
        ('{"seed": 1}', "must be an object with a name"),
        ('{"name": "x", "trian": {}}', "Did you mean 'train'?"),
        ('{"name": "x", "train": {"batchsize": 3}}', "Did you mean 'batch_size'?"),
        ('{"name": "x", "train": 3}', "train must be an object"),
        ('{"name": "x", "seed": "one"}', "seed must be of type int"),
        ('{"name": "x", "seed": true}', "seed must be of type int"),
        ('{"name": "x", "seed": 1.5}', "seed must be of type int"),
        ('{"name": "x", "train": {"batch_size": null}}', "train.batch_size must be of type int"),
        ('{"name": "x", "augment": {"noise": 1}}', "augment.noise must be of type bool"),
        ('{"name": "x", "augment": {"noise": "true"}}', "augment.noise must be of type bool"),
        ('{"name": "x", "frontend": {"mean": "-4"}}', "frontend.mean must be of type float"),
        ('{"name": "x", "frontend": {"mean": NaN}}', "frontend.mean must be of type float"),
        ('{"name": "x", "model": {"strides": [1]}}', "model.strides must be of type tuple"),
        ('{"name": "x", "model": {"strides": [1.5, 2]}}', "model.strides must be of type tuple"),
        ('{"name": "x", "model": {"strides": ["a", 2]}}', "model.strides must be of type tuple"),
        ('{"name": "x", "model": {"strides": "10,10"}}', "model.strides must be of type tuple"),
        ('{"name": "x", "data": {"words": [1]}}', "data.words must be of type tuple"),
        ('{"name": "x", "data": {"words": "yes"}}', "data.words must be of type tuple"),
        ('{"name": "x", "train": {"num_epochs": 0}}', "train.num_epochs must be positive"),
    ],
)
def test_load_recipe_rejects_json_that_is_not_a_recipe(text, message, tmp_path):
    path = tmp_path / "recipe.json"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    assert message in error_of(load_recipe, path)


def test_load_recipe_uses_defaults_for_fields_missing_in_json(tmp_path):
    path = tmp_path / "recipe.json"
    path.write_text(json.dumps({"name": "x", "data": {"clip_seconds": 5}}))
    expected = Recipe(name="x", data=recipe_module.Data(clip_seconds=5.0))
    assert load_recipe(path) == expected
    assert isinstance(load_recipe(path).data.clip_seconds, float)


@pytest.mark.parametrize(
    ("settings", "fix"),
    [
        (["model.gradient_checkpointing=true", "model.drop_path=0.1"], "model.drop_path=0"),
        (["model.block_columns=10", "model.patchout_time=0.5"], "model.patchout_time=0"),
    ],
)
def test_contradicting_network_options_are_rejected_before_anything_is_read(settings, fix):
    assert f"--set {fix}" in error_of(override, load_recipe("quickstart"), settings)
