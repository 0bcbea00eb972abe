"""Entry point of ``python -m ezsd`` and of ``torchrun --nproc-per-node 2 -m ezsd run ...`` (several devices)."""

from __future__ import annotations

from ezsd.cli import main

main()
