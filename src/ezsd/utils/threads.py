"""Share the cores of a CPU among independent computations."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

import torch

Item = TypeVar("Item")
Result = TypeVar("Result")

_dividing = threading.Lock()  # the number of threads is one of the process, so only one call at a time divides it


def in_threads(compute: Callable[[Item], Result], items: Sequence[Item], workers: int) -> Iterator[Result]:
    """Yield what ``compute`` returns for each item, in order; several items are computed at once.

    The workers divide torch's threads among them. The operations of a small network are too short for many threads, so
    two images with one thread each take less time than one after the other with two threads. While another call does
    so, the items are computed one by one.

    Args:
        compute: Called in threads.
        items: Its arguments.
        workers: The number of items at once; with 1, ``compute`` is called in this thread.
    """
    workers = min(workers, len(items))
    if workers < 2 or not _dividing.acquire(blocking=False):
        yield from map(compute, items)
        return
    threads = torch.get_num_threads()
    try:
        own = max(1, threads // workers)
        with ThreadPoolExecutor(workers, initializer=torch.set_num_threads, initargs=(own,)) as pool:
            yield from pool.map(compute, items)
    finally:
        torch.set_num_threads(threads)  # the workers have set that of all new threads
        _dividing.release()
