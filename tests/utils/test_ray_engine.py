from __future__ import annotations

import socket
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from ezsd.errors import ArtifactError, DataError, EzsdError, MissingExtraError, RecipeError
from ezsd.utils import ray_engine
from ezsd.utils.ray_engine import RayEngine
from tiny_teacher import kill_once


def _load(device: str) -> Callable[[int], int]:
    def work(job: int) -> int:
        if job == 2:
            kill_once()
        if job < 0:
            raise DataError(["the first problem", "the second problem"])
        return job * 10

    return work


def _read(path: str) -> str:
    return Path(path).read_text()


@pytest.mark.slow
def test_job_of_a_killed_actor_is_done_again(local_ray: Path) -> None:
    local_ray.touch()
    assert sorted(RayEngine(actors=2).run(_load, range(5))) == [0, 10, 20, 30, 40]
    assert not local_ray.exists(), "no actor was killed"


@pytest.mark.slow
def test_actors_read_relative_paths_as_the_command_does(
    local_ray: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "new").write_text("content")
    monkeypatch.chdir(tmp_path)  # a cluster was started elsewhere
    assert list(RayEngine(actors=1).run(lambda device: _read, ["new"])) == ["content"]


def test_an_actor_works_where_the_folder_of_the_command_is_missing(tmp_path: Path) -> None:
    actor = ray_engine._Actor(_load, "cpu", str(tmp_path / "missing"))
    assert actor({"job": 1}) == {"done": 10, "error": None}


@pytest.mark.slow
def test_error_of_a_job_arrives_as_it_was_raised(local_ray: Path) -> None:
    with pytest.raises(DataError, match="the first problem\nthe second problem"):
        list(RayEngine(actors=1).run(_load, [-1]))


@pytest.mark.slow
def test_job_whose_actors_are_always_killed_is_an_error(local_ray: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ray_engine, "_RETRIES", 0)
    local_ray.touch()
    with pytest.raises(ArtifactError, match=r"Actors of Ray ended 1 times at the same images .*resumes"):
        list(RayEngine(actors=1).run(_load, [2]))


def test_without_jobs_ray_is_not_started() -> None:
    assert list(RayEngine().run(_load, [])) == []


def test_missing_ray_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(MissingExtraError, match=r"pip install 'ezsd\[ray\]'"):
        RayEngine().check()


@pytest.mark.parametrize(
    ("engine", "kind", "message"),
    [
        (RayEngine(gpus_per_actor=1.5), RecipeError, "--gpus-per-actor 1.5: expected a fraction of one GPU"),
        (RayEngine("cluster"), RecipeError, "--address cluster: expected local, auto or HOST:PORT"),
        (RayEngine("ray://head:10001"), RecipeError, "ray job submit"),
        (RayEngine("ezsd.invalid:6379"), ArtifactError, "Ray at ezsd.invalid:6379 cannot be used"),
    ],
)
def test_settings_that_cannot_work_are_refused(engine: RayEngine, kind: type[EzsdError], message: str) -> None:
    with pytest.raises(kind, match=message):
        engine.check()


def test_address_without_a_cluster_is_refused_at_once() -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))  # bound, but nobody listens
        address = f"127.0.0.1:{unused.getsockname()[1]}"
        with pytest.raises(ArtifactError, match=f"Ray at {address} cannot be used: .*refused.*ray status"):
            RayEngine(address).check()


@pytest.mark.parametrize(
    ("resources", "engine", "expected"),
    [
        ({"CPU": 8.0}, RayEngine(), (8, 0)),
        ({"CPU": 8.0, "GPU": 4.0}, RayEngine(), (4, 1)),
        ({"CPU": 8.0, "GPU": 4.0}, RayEngine(gpus_per_actor=0.5), (8, 0.5)),
        ({"CPU": 8.0, "GPU": 4.0}, RayEngine(gpus_per_actor=0), (8, 0)),
        ({"CPU": 8.0, "GPU": 4.0}, RayEngine(actors=3), (3, 1)),
        ({"CPU": 8.0}, RayEngine("auto", actors=16, gpus_per_actor=0.25), (16, 0.25)),
    ],
)
def test_actors_and_gpus_follow_the_cluster(
    resources: dict[str, float], engine: RayEngine, expected: tuple[int, float]
) -> None:
    assert engine.pool(resources) == expected


def test_gpus_that_this_machine_does_not_have_are_an_error() -> None:
    with pytest.raises(RecipeError, match="--gpus-per-actor 1: Ray finds 0 GPUs here"):
        RayEngine(gpus_per_actor=1).pool({"CPU": 8.0})
