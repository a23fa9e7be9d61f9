"""Reader of AudioSet (Gemmeke et al. 2017): segment lists, and the clips that exist."""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import Any

import numpy as np
import numpy.typing as npt

from ast_keras.data.dataset import SoundDataset, Split, unused_label_notes
from ast_keras.data.left_out import left_out_note
from ast_keras.data.packed import PackedTargets, Rows
from ast_keras.data.readers.audioset_clips import FILE_NAMES, FoundClips, existing_clips, find_clips
from ast_keras.data.readers.audioset_lists import ClipList, read_clip_list
from ast_keras.errors import DatasetError
from ast_keras.labels import LabelSet

# Names of the official segment lists, by part.
LIST_FILES = {
    "balanced": "balanced_train_segments.csv",
    "unbalanced": "unbalanced_train_segments.csv",
    "eval": "eval_segments.csv",
}
# Parts of each training subset.
SUBSETS = {
    "balanced": ("balanced",),
    "unbalanced": ("unbalanced",),
    "full": ("balanced", "unbalanced"),
}
_EVAL_LISTS = ("eval_data.json", LIST_FILES["eval"])
_LAYOUT = (
    "AudioSet's layout is a folder with the official segment lists "
    "(https://research.google.com/audioset/download.html) and the clips; or give a JSON list."
)

Array = npt.NDArray[Any]
Notes = list[str]


def read_audioset(
    path: str,
    *,
    clips_path: str | None = None,
    subset: str = "balanced",
    test_path: str | None = None,
    enhanced_labels: str | None = None,
) -> SoundDataset:
    """Reads AudioSet: a training subset, and the official evaluation clips as the test split.

    Clips are found by their YTID, in a folder or any of its subfolders, in files named `YTID.wav`,
    `YYTID.wav`, `YTID_start.wav` or `YTID_start_end.wav` (seconds or milliseconds) with any audio
    suffix. No copy of AudioSet is complete: clips without a file are left out and counted in the
    notes. Two million clips take about 200 MB of memory.

    Args:
        path: Folder with `balanced_train_segments.csv`, `unbalanced_train_segments.csv` (each only
            if the subset needs it) and `eval_segments.csv`. Or the list of training clips: such a
            CSV file, or a JSON file of the AST's authors, `{"data": [{"wav": PATH, "labels":
            "mid,mid"}, ...]}`, with paths absolute or relative to its folder.
        clips_path: Folder of the clips. By default the folder of the lists. With JSON lists, clips
            are then found here by the YTIDs in their paths, which need not exist.
        subset: Training subset of the folder's lists: "balanced" (22 thousand clips), "unbalanced"
            (2 million), or "full" for both, the full set of the paper.
        test_path: List of evaluation clips, CSV or JSON. By default `eval_data.json` or
            `eval_segments.csv` in the folder of the lists.
        enhanced_labels: List of clips with other labels, which replace those of the training clips
            with the same YTID: JSON as above (the format of PSLA's enhanced label sets), a segment
            CSV, or a CSV of `YTID, "mid,mid"`. Other clips keep their labels.

    Raises:
        DatasetError: If a list is missing or malformed, if a YTID is listed twice, or if no clip of
            a split has a file.

    Reference:
        Gemmeke et al., "Audio Set: An ontology and human-labeled dataset for audio events", ICASSP
        2017. Enhanced labels: Gong, Chung, Glass, "PSLA", 2021.

    Example:

    >>> import tempfile
    >>> root = tempfile.mkdtemp()
    >>> for name in ("balanced_train", "eval"):
    ...     ytid = name[:4] + "_1cCGK4M"[:7]
    ...     with open(os.path.join(root, f"{name}_segments.csv"), "w") as file:
    ...         _ = file.write(f'# YTID, ...\\n{ytid}, 30.000, 40.000, "/m/09x0r,/m/05zppz"\\n')
    ...     open(os.path.join(root, f"{ytid}.flac"), "w").close()
    >>> dataset = read_audioset(root)
    >>> len(dataset.split("train")), dataset.split("test").targets[0]
    (1, (0, 1))
    """
    labels = LabelSet.load("audioset")
    train_lists, test_list = _find_lists(path, subset, test_path)
    parts = [read_clip_list(name, labels) for name in (*train_lists, test_list)]
    clips, num_train = ClipList.concatenate(parts), sum(map(len, parts[:-1]))
    folder = _clips_folder(path, clips_path, clips)
    found = _locate(clips, folder, num_train)
    notes = _missing_notes(clips, found, num_train, folder)
    is_train = found.indices < num_train
    targets = clips.targets.take(found.indices)
    train = targets.take(is_train)
    if enhanced_labels is not None:
        ytids = clips.ytids[found.indices[is_train]]
        train, note = replace_labels(train, ytids, os.path.expanduser(enhanced_labels), labels)
        notes.append(note)
    splits = {
        "train": Split(found.paths.take(is_train), train),
        "test": Split(found.paths.take(~is_train), targets.take(~is_train)),
    }
    notes += unused_label_notes(labels, np.unique(train.rows.flat()).tolist())
    name = "audioset_" + subset
    if not os.path.isdir(path):
        name = os.path.splitext(os.path.basename(path))[0]
    return SoundDataset(name, labels, splits, True, tuple(notes))


def subset_parts(subset: str) -> tuple[str, ...]:
    """Returns the parts of a training subset, keys of `LIST_FILES`."""
    if subset not in SUBSETS:
        raise DatasetError(
            f"subset must be one of {', '.join(SUBSETS)}. Received: subset={subset!r}"
        )
    return SUBSETS[subset]


def _find_lists(path: str, subset: str, test_path: str | None) -> tuple[list[str], str]:
    """Returns the paths of the lists of training clips, and the path of the list of test clips."""
    parts = subset_parts(subset)
    if os.path.isdir(path):
        train, root = [os.path.join(path, LIST_FILES[part]) for part in parts], path
    else:
        train, root = [path], os.path.dirname(path)
    tests = [os.path.join(root, name) for name in _EVAL_LISTS]
    if test_path is not None:
        tests = [os.path.expanduser(test_path)]
    elif os.path.isdir(path) or path.lower().endswith(".csv"):
        tests.reverse()
    for name in train:
        if not os.path.isfile(name):
            raise DatasetError(f"There is no {name}. {_LAYOUT} Received: path={path!r}")
    for name in tests:
        if os.path.isfile(name):
            return train, name
    raise DatasetError(
        f"There is no {' or '.join(tests)}: set test_path to the list of evaluation clips. "
        f"{_LAYOUT} Received: path={path!r}"
    )


def _clips_folder(path: str, clips_path: str | None, clips: ClipList) -> str | None:
    """Returns the folder in which to find clips by name, or None if the lists give their paths."""
    if clips_path is not None:
        return os.path.expanduser(clips_path)
    if clips.paths is not None:
        return None
    return path if os.path.isdir(path) else os.path.dirname(path) or "."


def _locate(clips: ClipList, folder: str | None, num_train: int) -> FoundClips:
    if folder is not None:
        return find_clips(folder, clips)
    assert clips.paths is not None
    found = existing_clips(clips.paths)
    is_train, names = found.indices < num_train, found.paths.name_hashes()
    tested = set(found.paths.take(~is_train))
    for row in np.flatnonzero(is_train & np.isin(names, names[~is_train])).tolist():
        if found.paths[row] in tested:
            raise DatasetError(
                "A clip must not be in both the training list and the evaluation list. "
                f"Received: {found.paths[row]}"
            )
    return found


def _missing_notes(clips: ClipList, found: FoundClips, num_train: int, folder: str | None) -> Notes:
    """Returns notes that count the clips without a file; rejects a split without any file."""
    notes = []
    for split, first, last in (("training", 0, num_train), ("evaluation", num_train, len(clips))):
        here = int(np.count_nonzero((first <= found.indices) & (found.indices < last)))
        total, where = last - first, folder or "the paths in their list"
        if here == 0:
            raise DatasetError(_none_found(f"{total:,} {split} clips", clips, first, found, folder))
        if here < total:
            notes.append(f"{total - here:,} of {total:,} {split} clips are missing from {where}")
    if found.num_other_segments:
        notes.append(
            f"{found.num_other_segments:,} files ignored: their names state other segments of the "
            "listed videos"
        )
    return [*_left_out_notes(found), *notes]


def _left_out_notes(found: FoundClips) -> Iterator[str]:
    for reason, (count, first) in found.left_out.items():
        yield left_out_note(reason, count, first + ", ..." * (count > 1))


def _none_found(
    what: str, clips: ClipList, first: int, found: FoundClips, folder: str | None
) -> str:
    if folder is None:
        assert clips.paths is not None
        return (
            f"No file exists for any of the {what}: set clips_path to the folder that holds them. "
            f"Received: {clips.paths[first]}, ..."
        )
    example = clips.ytids[first].decode() or "a name without YTID"
    return (
        f"No file exists for any of the {what}; the folder holds "
        f"{'; '.join([found.suffix_counts or 'no file', *_left_out_notes(found)])}. "
        f"Files must be named {FILE_NAMES}; set clips_path if they are elsewhere. "
        f"Received: {folder} without {example}, ..."
    )


def replace_labels(
    targets: PackedTargets, ytids: Array, path: str, labels: LabelSet
) -> tuple[PackedTargets, str]:
    """Returns training targets with those of another list for the clips that it has, and a note."""
    other = read_clip_list(path, labels)
    order = np.argsort(other.ytids, kind="stable")
    sorted_ytids = other.ytids[order]
    places = np.minimum(np.searchsorted(sorted_ytids, ytids), len(order) - 1)
    known = (sorted_ytids[places] == ytids) & (ytids != b"")
    if not known.any():
        raise DatasetError(
            "The list of enhanced labels has no training clip; clips are matched by YTID. "
            f"Received: enhanced_labels={path!r}"
        )
    both = Rows.concatenate([targets.rows, other.targets.rows])
    rows = np.where(known, len(targets) + order[places], np.arange(len(targets)))
    note = f"labels of {known.sum():,} of {len(targets):,} training clips are those of {path}"
    return PackedTargets(both.take(rows)), note
