"""Prefetching in threads: order, bound, errors, and an early end."""

import itertools
import threading
import time

import pytest

from ast_keras.data.prefetch import map_ahead, prefetch


def test_map_ahead_keeps_the_order():
    def slow_if_even(item):
        time.sleep(0.01 * (item % 2 == 0))
        return item

    assert list(map_ahead(slow_if_even, range(20), num_threads=4)) == list(range(20))


def test_map_ahead_reads_a_bounded_number_of_items_of_an_endless_iterable():
    started = []
    results = map_ahead(started.append, itertools.count(), num_threads=2, num_ahead=5)
    for _ in range(3):
        next(results)
    results.close()
    assert len(started) <= 3 + 5


def test_map_ahead_raises_an_error_in_its_place():
    results = map_ahead(lambda item: 1 / item, [2, 1, 0, 4], num_threads=4)
    assert [next(results), next(results)] == [0.5, 1.0]
    with pytest.raises(ZeroDivisionError):
        next(results)


def test_closing_map_ahead_ends_its_threads():
    before = threading.active_count()
    results = map_ahead(time.sleep, [0.01] * 1000, num_threads=4)
    next(results)
    results.close()
    assert threading.active_count() <= before


def test_prefetch_keeps_the_order_and_raises_errors_in_their_place():
    def read(item):
        yield from range(item)
        if item == 3:
            raise OSError("broken")

    found = []
    for item, pieces in prefetch([2, 3, 0, 5], read, jobs=2, depth=1):
        try:
            found.append((item, list(pieces)))
        except OSError as error:
            found.append((item, str(error)))
    assert found == [(2, [0, 1]), (3, "broken"), (0, []), (5, [0, 1, 2, 3, 4])]


def test_prefetch_is_bounded_and_ends_its_threads():
    made = []

    def read(item):
        for piece in range(1000):
            made.append(piece)
            yield piece

    before = threading.active_count()
    for _, pieces in prefetch(range(5), read, jobs=2, depth=3):
        next(pieces)
        break
    deadline = time.monotonic() + 5
    while threading.active_count() > before and time.monotonic() < deadline:
        time.sleep(0.05)
    assert threading.active_count() <= before
    assert len(made) < 20
