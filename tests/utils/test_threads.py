from __future__ import annotations

import threading
from collections.abc import Iterator

import pytest
import torch

from ezsd.utils.threads import in_threads


@pytest.fixture(autouse=True)
def four_threads() -> Iterator[None]:
    """Give torch four threads, also where there are fewer cores."""
    before = torch.get_num_threads()
    torch.set_num_threads(4)
    yield
    torch.set_num_threads(before)


def test_results_are_in_order_and_the_workers_divide_the_threads() -> None:
    both = threading.Barrier(2, timeout=20)  # passes only if two are computed at once

    def compute(item: int) -> tuple[int, int]:
        both.wait()
        return item, torch.get_num_threads()

    assert list(in_threads(compute, range(6), 2)) == [(item, 2) for item in range(6)]
    assert torch.get_num_threads() == 4


def test_one_item_has_all_threads() -> None:
    threads = list(in_threads(lambda _: (torch.get_num_threads(), threading.current_thread()), [0], 8))
    assert threads == [(torch.get_num_threads(), threading.main_thread())]


def test_an_error_is_raised_and_the_threads_are_restored() -> None:
    with pytest.raises(ZeroDivisionError):
        list(in_threads(lambda item: 1 // item, [1, 0, 2], 3))
    assert torch.get_num_threads() == 4


def test_calls_at_the_same_time_do_not_divide_the_threads_twice() -> None:

    def inner(_: int) -> list[threading.Thread]:
        return list(in_threads(lambda _: threading.current_thread(), [0, 1], 2))

    for thread, again in in_threads(inner, [0, 1, 2], 2):
        assert thread is again is not threading.main_thread()
    assert torch.get_num_threads() == 4
    assert threading.main_thread() not in in_threads(lambda _: threading.current_thread(), [0, 1], 2)


def test_threads_are_restored_if_not_all_results_are_used() -> None:
    results = in_threads(lambda item: item, range(20), 2)
    assert next(results) == 0
    results.close()  # type: ignore[attr-defined]
    assert torch.get_num_threads() == 4
    assert list(in_threads(lambda item: item, range(3), 2)) == [0, 1, 2]
