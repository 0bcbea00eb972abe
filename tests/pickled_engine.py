"""An engine without Ray, for tests of what is sent to actors."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from ezsd.utils.ray_engine import RayEngine


class Pickled(RayEngine):
    """Does the jobs in this process, after they were pickled as Ray does it."""

    def run(self, load: Any, jobs: Any) -> Iterator[Any]:
        from ray import cloudpickle

        work = cloudpickle.loads(cloudpickle.dumps(load))("cpu")
        for job in reversed(jobs):
            yield cloudpickle.loads(cloudpickle.dumps(work(cloudpickle.loads(cloudpickle.dumps(job)))))
