"""``python -m ezsd``, and so ``torchrun --nproc-per-node 2 -m ezsd run ...`` on several devices."""

from __future__ import annotations

from ezsd.cli import main

main()
