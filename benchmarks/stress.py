"""Many clients at once on the service of a model: throughput, latency and memory for several batch sizes.

    python benchmarks/stress.py MODEL IMAGE [--clients 64] [--seconds 60] [--batch-sizes 1 8]

Clients are connections of wrk (Debian: apt-get install wrk) that send one image after the other. A lost request got no
answer. Memory is the resident memory of the service after the first and in the last tenth of the time.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any
from urllib.request import urlopen

COLUMNS = ("batch size", "per second", "p50", "p95", "p99", "answered", "refused", "lost", "mean batch", "MB first",
           "MB last")  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path)
    parser.add_argument("image", type=Path)
    parser.add_argument("--clients", type=int, default=64)
    parser.add_argument("--seconds", type=int, default=60)
    parser.add_argument("--batch-sizes", type=int, nargs="+", default=[1, 8])
    arguments = parser.parse_args()
    print("| " + " | ".join(COLUMNS) + " |\n|" + " --- |" * len(COLUMNS))
    for batch_size in arguments.batch_sizes:
        row = measure(arguments, batch_size)
        print("| " + " | ".join(str(row[column]) for column in COLUMNS) + " |", flush=True)


def measure(arguments: argparse.Namespace, batch_size: int) -> dict[str, Any]:
    """Start the service, load it, stop it; return a row of the table."""
    command = [sys.executable, "-m", "ezsd", "serve", arguments.model, "--port", "0", "--batch-size", str(batch_size)]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as service:
        try:
            url = next(found[0] for line in service.stderr if (found := re.search(r"http://[\d.]+:\d+", line)))
            load = subprocess.Popen(
                ["wrk", "--threads", "1", "--connections", str(arguments.clients), "--duration",
                 f"{arguments.seconds}s", "--timeout", "60s", "--script", Path(__file__).with_suffix(".lua"),
                 f"{url}/v1/detect"],
                stdout=subprocess.PIPE, text=True, env={**os.environ, "STRESS_IMAGE": str(arguments.image)},
            )  # fmt: skip
            memory = []
            while load.poll() is None:
                memory.append(resident(service.pid))
                time.sleep(0.5)
            result = json.loads(load.stdout.read().splitlines()[-1])
            metrics = urlopen(f"{url}/metrics").read().decode()
        finally:
            service.send_signal(signal.SIGTERM)
            service.wait()
    if service.returncode:
        raise SystemExit(f"the service ended with status {service.returncode}")
    part = max(1, len(memory) // 10)
    return {
        **{name.replace("_", " "): value for name, value in result.items()},
        "batch size": batch_size,
        "mean batch": round(metric(metrics, "ezsd_batch_images_sum") / metric(metrics, "ezsd_batch_images_count"), 2),
        "MB first": round(max(memory[part : 2 * part] or memory)),
        "MB last": round(max(memory[-part:])),
    }


def resident(process: int) -> float:
    """Return the resident memory of a process in MB."""
    pages = int(Path(f"/proc/{process}/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 1e6


def metric(text: str, name: str) -> float:
    """Return the value of a metric without labels."""
    return float(re.search(rf"^{name} (.+)$", text, re.MULTILINE)[1])


if __name__ == "__main__":
    main()
