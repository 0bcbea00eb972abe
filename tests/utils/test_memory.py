"""Freed memory stays with the process."""

from __future__ import annotations

import subprocess
import sys

import pytest
import torch

from ezsd.errors import ArtifactError
from ezsd.utils.memory import in_halves, memory_errors

SCRIPT = """
import resource, torch
from ezsd.utils.memory import keep_freed_memory
if {keep}:
    keep_freed_memory()
def faults():
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt
before = faults()
for _ in range(60):
    torch.empty(10**7).fill_(1)
print(faults() - before)
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="a setting of the C library of Linux")
def test_large_tensors_reuse_freed_memory() -> None:
    faults = [
        int(subprocess.run([sys.executable, "-c", SCRIPT.format(keep=keep)], capture_output=True, check=True).stdout)
        for keep in (False, True)
    ]
    assert faults[1] < faults[0] / 2


RETURNED = """
import psutil, torch
from ezsd.utils.memory import keep_freed_memory, return_freed_memory
keep_freed_memory()
def used():
    return psutil.Process().memory_info().rss // 10**6
before, small = used(), []
for _ in range(20):
    large = torch.ones(5 * 10**6)
    small.append(torch.ones(10))  # stays, between large blocks that are freed
    del large
blocks = [(torch.ones(2 * 10**6 + 10**5 * n), small.append(torch.ones(1000)))[0] for n in range(20)]
del blocks
kept = used() - before
return_freed_memory()
print(kept, used() - before)
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="a setting of the C library of Linux")
def test_freed_memory_is_returned_on_request() -> None:
    done = subprocess.run([sys.executable, "-c", RETURNED], capture_output=True, check=True, text=True)
    kept, left = map(int, done.stdout.split())
    assert kept > 150 and left < kept / 4


def test_a_batch_that_does_not_fit_is_divided_until_it_does() -> None:
    sizes: list[int] = []

    def doubled(part: list[int]) -> list[int]:
        sizes.append(len(part))
        if len(part) > 2:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")
        return [2 * item for item in part]

    assert in_halves(doubled, list(range(7))) == [0, 2, 4, 6, 8, 10, 12]
    assert sizes == [7, 3, 1, 2, 4, 2, 2]


def test_other_errors_and_single_items_are_not_tried_again() -> None:
    calls = 0

    def fail(part: list[int]) -> list[int]:
        nonlocal calls
        calls += 1
        raise RuntimeError("shape mismatch" if len(part) > 1 else "out of memory")

    for items in ([1, 2], [1]):
        with pytest.raises(RuntimeError):
            in_halves(fail, items)
    assert calls == 2


def test_a_lack_of_memory_is_a_message_and_other_errors_pass() -> None:
    expected = r"Memory is not sufficient \(.*allocate.*\)\. Lower the batch\."
    with pytest.raises(ArtifactError, match=expected), memory_errors("Lower the batch."):
        torch.empty(2**60)
    with pytest.raises(RuntimeError, match="other"), memory_errors("Lower the batch."):
        raise RuntimeError("other")
