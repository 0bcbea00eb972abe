"""Jobs on the workers of Ray Data, on one machine or many.

A job is done by one actor, which returns its result or writes it to a file. An actor loads what it needs (teacher,
detector) with its first job and keeps it. The job of an actor that was killed is done again by another one.
"""

from __future__ import annotations

import logging
import os
import socket
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import cached_property
from types import ModuleType
from typing import Any, TypeVar

from ezsd.errors import ArtifactError, EzsdError, MissingExtraError, RecipeError

Job = TypeVar("Job")
Result = TypeVar("Result")
Load = Callable[[str], Callable[[Job], Result]]

logger = logging.getLogger(__name__)

LOCAL = "local"
_RETRIES = 3  # of a job whose actor was killed
_STORE_BYTES = 100 * 2**20  # of the object store of a local Ray: jobs are small, and results are files
_CONNECT_SECONDS = 10.0  # Ray itself tries for minutes


@dataclass(frozen=True)
class RayEngine:
    """Where jobs run on Ray.

    Attributes:
        address: ``local`` starts Ray on this machine for this command; ``auto`` (the cluster that this machine belongs
            to, or ``RAY_ADDRESS``) and ``HOST:PORT`` connect to a cluster.
        actors: The number of actors; None = one for each share of a GPU, or without GPUs one for each CPU core.
        gpus_per_actor: GPUs of an actor, also a fraction; None = 1 if there are GPUs, otherwise 0.
    """

    address: str = LOCAL
    actors: int | None = None
    gpus_per_actor: float | None = None

    def check(self) -> None:
        """Check what can be checked before hours of work.

        Raises:
            MissingExtraError: Ray is not installed.
            RecipeError: The settings are invalid, or several processes were started.
            ArtifactError: Nothing answers at the address.
        """
        from ezsd.utils.device import process_state  # torch, which actors load only if their jobs need it

        _import_ray()
        if process_state().num_processes > 1:
            raise RecipeError("--engine ray: torchrun has started several processes. Start one; Ray starts the others.")
        gpus = self.gpus_per_actor or 0
        if gpus > 1 and gpus != int(gpus):
            raise RecipeError(f"--gpus-per-actor {gpus:g}: expected a fraction of one GPU, such as 0.5, or whole GPUs.")
        if self.address not in (LOCAL, "auto"):
            _check_answers(self.address)

    def run(self, load: Load[Job, Result], jobs: Sequence[Job]) -> Iterator[Result]:
        """Do all jobs, in any order.

        Args:
            load: Called once by each actor with its device; returns the function that does a job. Both are pickled.
            jobs: The jobs; each is pickled. A job may be done twice, so files must be written atomically.

        Yields:
            What the function returned for a finished job; it was pickled, too.

        Raises:
            EzsdError: The error of a job.
            ArtifactError: Ray cannot be started or reached, or the actors of a job were killed again and again.
        """
        if not jobs:
            return
        ray = _import_ray()
        with self.connected():
            _configure(ray)
            count, gpus = self.pool(ray.cluster_resources())
            logger.info(f"Ray: {min(count, len(jobs))} actors" + (f", each with {gpus:g} GPUs" if gpus else ""))
            pool = ray.data.ActorPoolStrategy(size=min(count, len(jobs)), max_tasks_in_flight_per_actor=2)
            data = ray.data.from_items([{"job": job} for job in jobs], override_num_blocks=len(jobs))
            with warnings.catch_warnings():  # Ray has no other way to limit the retries
                warnings.simplefilter("ignore", DeprecationWarning)
                results = data.map(_Actor, fn_constructor_args=(load, "cuda" if gpus else "cpu", os.getcwd()),
                                   compute=pool, num_cpus=None if gpus else 1, num_gpus=gpus or None,
                                   max_restarts=-1, max_task_retries=_RETRIES)  # fmt: skip
            try:
                for row in results.iter_rows():
                    if row["error"] is not None:
                        raise row["error"]
                    yield row["done"]
            except ray.exceptions.RayTaskError:  # a bug in the code of the job; its traceback says where
                raise
            except ray.exceptions.RayError as error:
                raise ArtifactError(_ended(error)) from None

    @contextmanager
    def connected(self) -> Iterator[None]:
        """Connect to the cluster, or start Ray here; a Ray that this process already uses is left as it is.

        Raises:
            ArtifactError: Ray cannot be started or reached.
        """
        ray = _import_ray()
        if ray.is_initialized():
            yield
            return
        new = {"num_cpus": self.actors, "include_dashboard": False, "object_store_memory": _STORE_BYTES}
        options = new if self.address == LOCAL else {}
        try:
            ray.init(address=self.address, log_to_driver=False, logging_level=logging.ERROR, **options)
        except Exception as error:  # noqa: BLE001 - also Ray's plain Exception, when it starts too slowly
            raise ArtifactError(_not_usable(self.address, error)) from None
        try:
            yield
        finally:
            ray.shutdown()

    def pool(self, resources: dict[str, float]) -> tuple[int, float]:
        """Return the number of actors and the GPUs of each."""
        found = resources.get("GPU", 0.0)
        gpus = self.gpus_per_actor if self.gpus_per_actor is not None else float(found > 0)
        if gpus > found and self.address == LOCAL:
            raise RecipeError(f"--gpus-per-actor {gpus:g}: Ray finds {found:g} GPUs here. Give 0 for CPU cores.")
        if gpus > found:
            logger.warning(f"The Ray cluster has {found:g} GPUs now; actors wait for {gpus:g} each.")
        return self.actors or max(1, int(found / gpus if gpus else resources.get("CPU", 1))), gpus


class _Actor:
    """Does jobs. Errors are part of the result, because Ray would wrap them in errors of its own."""

    def __init__(self, load: Load[Any, Any], device: str, folder: str) -> None:
        self._load, self._device = load, device
        with suppress(OSError):  # a machine may have only the folders of absolute paths
            os.chdir(folder)  # actors of a cluster start where ray start was called; paths may be relative

    @cached_property
    def _work(self) -> Callable[[Any], Any]:
        return self._load(self._device)

    def __call__(self, row: dict[str, Any]) -> dict[str, Any]:
        try:
            return {"done": self._work(row["job"]), "error": None}
        except (EzsdError, RuntimeError, MemoryError) as error:
            return {"done": None, "error": error.with_traceback(None)}


def _import_ray() -> ModuleType:
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    try:
        import ray
        import ray.data
    except ImportError:
        raise MissingExtraError("--engine ray needs Ray. Install it with: pip install 'ezsd[ray]'") from None
    return ray


def _configure(ray: ModuleType) -> None:
    context = ray.data.DataContext.get_current()
    context.enable_progress_bars = context.print_on_execution_start = False
    context.execution_no_progress_timeout_s = -1  # by default half an hour, and a shard may take longer on a CPU
    logging.getLogger("ray.data").setLevel(logging.CRITICAL)  # its errors are raised, too


def _check_answers(address: str) -> None:
    host, _, port = address.rpartition(":")
    if not host or "/" in host or not port.isdecimal():
        raise RecipeError(
            f"--address {address}: expected local, auto or HOST:PORT, and a machine of the cluster. From another "
            "machine, send the whole command to the cluster with ray job submit."
        )
    try:
        socket.create_connection((host, int(port)), _CONNECT_SECONDS).close()
    except OSError as error:
        raise ArtifactError(_not_usable(address, error)) from None


def _not_usable(address: str, error: Exception) -> str:
    return (
        f"Ray at {address} cannot be used: {' '.join(str(error).split())[:300]}. Check --address, and with ray status "
        "that the cluster runs. Ray, Python and ezsd must have the same versions on all machines."
    )


def _ended(error: Exception) -> str:
    reason = (str(error).strip().splitlines() or [type(error).__name__])[0][:200]
    return (
        f"Actors of Ray ended {_RETRIES + 1} times at the same images ({reason}). Often memory is short: give fewer "
        "--actors, or lower the batch size of the stage. Running the same command again resumes."
    )
