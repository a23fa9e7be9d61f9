"""The loop of commands that process many files: reading ahead, errors, progress, resuming."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, TypeVar

from ast_keras.commands.progress import FileProgress, print_error
from ast_keras.commands.resume import ResumeLog, file_key
from ast_keras.data.prefetch import prefetch
from ast_keras.errors import AudioError, InferenceError

Segment = tuple[int, Any]  # index of the first sample, samples
_Result = TypeVar("_Result")


def process_files(
    paths: Sequence[str],
    read: Callable[[str], Iterator[Segment]],
    process: Callable[[str, Iterable[Segment]], _Result],
    *,
    sample_rate: int,
    jobs: int,
    log: ResumeLog | None = None,
) -> Iterator[tuple[str, _Result]]:
    """Processes files in order; reports and skips those that cannot be processed.

    Args:
        paths: Paths of the files.
        read: Function that yields the segments of a file. Called in threads that read ahead.
        process: Function of the path and the segments of a file; returns the result.
        sample_rate: Rate of the samples in Hz.
        jobs: Number of files read in parallel.
        log: Results of an interrupted command, which are not computed again, and to which new
            results are added; None for no log.

    Yields:
        Path and result of each file that was processed.
    """
    done = dict(log.done) if log else {}
    keys = {path: file_key(path) for path in paths}
    rest = [path for path in paths if keys[path] not in done]
    if len(rest) < len(paths):
        print(f"{len(paths) - len(rest)} files are in the resume log.", file=sys.stderr)
    progress = FileProgress(len(rest), sample_rate)
    fresh = prefetch(rest, read, jobs)
    try:
        for path in paths:
            if keys[path] in done:
                yield path, done[keys[path]]  # type: ignore[misc]
                continue
            _, segments = next(fresh)
            try:
                result = process(path, progress.watch(path, segments))
            except (AudioError, InferenceError, OSError) as error:
                print_error(error)
                progress.finish_file()
                continue
            if log:
                log.add(keys[path], result)  # type: ignore[arg-type]
            progress.finish_file()
            yield path, result
    finally:
        progress.close()
