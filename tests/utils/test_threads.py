from __future__ import annotations

import threading

import pytest
import torch

from ezsd.utils.threads import in_threads


def test_results_are_in_order_and_the_workers_divide_the_threads() -> None:
    before = torch.get_num_threads()
    torch.set_num_threads(4)
    try:
        both = threading.Barrier(2, timeout=20)  # passes only if two are computed at once

        def compute(item: int) -> tuple[int, int]:
            both.wait()
            return item, torch.get_num_threads()

        assert list(in_threads(compute, range(6), 2)) == [(item, 2) for item in range(6)]
        assert torch.get_num_threads() == 4
    finally:
        torch.set_num_threads(before)


def test_one_item_has_all_threads() -> None:
    threads = list(in_threads(lambda _: (torch.get_num_threads(), threading.current_thread()), [0], 8))
    assert threads == [(torch.get_num_threads(), threading.main_thread())]


def test_an_error_is_raised_and_the_threads_are_restored() -> None:
    before = torch.get_num_threads()
    torch.set_num_threads(3)
    try:
        with pytest.raises(ZeroDivisionError):
            list(in_threads(lambda item: 1 // item, [1, 0, 2], 3))
        assert torch.get_num_threads() == 3
    finally:
        torch.set_num_threads(before)
