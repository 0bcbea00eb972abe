"""Synonyms, templates, the cache of embeddings, search by example, and explanations."""

from __future__ import annotations

import logging
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from ezsd.detector.detections import best_phrases
from ezsd.errors import RecipeError
from ezsd.inference.detector import BACKGROUND, Detector
from ezsd.inference.embedded_names import Vocabulary
from ezsd.inference.phrase_embeddings import PhraseEmbeddings
from ezsd.teacher import load_teacher
from tiny import SPLIT
from tiny_run import EMBEDDING_DIM, make_model_of_run


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EZSD_CACHE", str(tmp_path / "cache"))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_model_of_run(tmp_path_factory.mktemp("run"))


@pytest.fixture
def detector(folder: Path) -> Detector:
    return Detector.load(folder, "cpu")


@pytest.fixture(scope="module")
def array() -> np.ndarray[Any, Any]:
    return np.random.default_rng(0).integers(0, 256, (70, 100, 3), dtype=np.uint8)


def test_the_best_phrase_gives_the_logit_of_a_name() -> None:
    logits = torch.tensor([[0.5, 1.0, 3.0, 2.0], [0.5, 4.0, 3.0, 5.0]])
    best, phrases = best_phrases(logits, torch.tensor([0, 0, 1]))
    assert torch.equal(best, torch.tensor([[0.5, 3.0, 2.0], [0.5, 4.0, 5.0]]))
    assert torch.equal(phrases, torch.tensor([[1, 2], [0, 2]]))


def test_a_repeated_phrase_changes_nothing(detector: Detector, array: np.ndarray[Any, Any]) -> None:
    plain = detector.vocabulary(["circle", "bar"])
    twice = Vocabulary(plain.names, plain.embeddings[[0, 1, 1]], torch.tensor([0, 1, 1]))
    assert twice.has_synonyms
    first, second = (detector(array, names, 0.0, multi_label=True) for names in (plain, twice))
    assert list(first["class_name"]) == list(second["class_name"])
    np.testing.assert_allclose(second.xyxy, first.xyxy, atol=1e-3)  # a product with other shapes rounds differently
    np.testing.assert_allclose(second.confidence, first.confidence, atol=1e-5)  # type: ignore[arg-type]


def test_synonyms_score_at_least_as_each_phrase_and_boxes_have_the_name(
    detector: Detector, array: np.ndarray[Any, Any]
) -> None:
    both = detector(array, {"shape": ["circle", "bar"]}, 0.0, multi_label=True)
    alone = [detector(array, [name], 0.0, multi_label=True) for name in ("circle", "bar")]
    assert set(both["class_name"]) == {"shape"}
    assert both.confidence is not None
    assert both.confidence[0] == pytest.approx(max(found.confidence[0] for found in alone))  # type: ignore[index]


def test_templates_are_averaged(detector: Detector, tmp_path: Path) -> None:
    def rows(text: str) -> torch.Tensor:
        path = tmp_path / "names.yaml"
        path.write_text(text)
        return detector.embed(path)

    first, second = (rows(f"names: [cone]\ntemplates: ['{text}']") for text in ("a {name}", "one {name}"))
    both = rows("names: [cone]\ntemplates: ['a {name}', 'one {name}']")
    torch.testing.assert_close(both, torch.nn.functional.normalize(first + second, dim=1))
    assert not torch.allclose(detector.embed(["cone"]), both, atol=0.01)


def test_embeddings_on_disk_are_used_without_loading_the_teacher(
    detector: Detector, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    names = {"cone": ["cone", "pylon"]}
    known = detector.set_vocabulary(names)
    monkeypatch.setattr("ezsd.inference.model_teacher.load_teacher", lambda *_, **__: 1 / 0)
    again = Detector.load(folder, "cpu").set_vocabulary(names)
    assert torch.equal(known.embeddings, again.embeddings)


def test_known_names_do_not_wait_for_the_teacher_and_one_thread_loads_it(
    detector: Detector, array: np.ndarray[Any, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    loading, go, loads = threading.Event(), threading.Event(), []

    def load(*arguments: Any, **options: Any) -> Any:
        loads.append(arguments)
        loading.set()
        assert go.wait(60)
        return load_teacher(*arguments, **options)

    monkeypatch.setattr("ezsd.inference.model_teacher.load_teacher", load)
    with ThreadPoolExecutor(3) as pool:
        try:
            new = [pool.submit(detector.embed, names) for names in (["cone", "circle"], ["pylon"])]
            assert loading.wait(60)
            assert len(pool.submit(detector, array, ["bar", "circle"], 0.0).result(20))
            assert detector.knows(["bar", "circle"]) and not detector.knows(["bar", "cone"])
            time.sleep(0.1)  # the other thread would load the teacher now
        finally:
            go.set()
        assert [each.result(60).shape for each in new] == [(2, EMBEDDING_DIM), (1, EMBEDDING_DIM)]
    assert len(loads) == 1 and detector.knows(["cone", "pylon"])


def test_set_vocabulary_is_the_default_of_later_calls(detector: Detector, array: np.ndarray[Any, Any]) -> None:
    detector.set_vocabulary(["circle"])
    assert set(detector(array, threshold=0.0)["class_name"]) == {"circle"}
    detector.set_vocabulary(None)
    assert detector.vocabulary().names == SPLIT.names


def test_names_that_the_teacher_cannot_tell_apart_are_named(
    detector: Detector, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    same = torch.nn.functional.normalize(torch.ones(1, EMBEDDING_DIM), dim=1)
    monkeypatch.setattr(PhraseEmbeddings, "_encode", lambda _, phrases, *__: same.repeat(len(phrases), 1))
    with caplog.at_level(logging.WARNING, "ezsd"):
        detector.vocabulary(["cone", "pylon"])
        assert caplog.text.count('"cone" and "pylon"') == 1
        detector.vocabulary(["cone", "pylon"])
        assert caplog.text.count('"cone" and "pylon"') == 1  # once is enough
        caplog.clear()
        detector._phrases._rows = dict.fromkeys(detector.config.names, same[0])  # all are known
        detector.vocabulary()
    assert f'"{SPLIT.names[0]}" and "{SPLIT.names[1]}"' in caplog.text


def test_explain_gives_the_nearest_names_of_a_region(detector: Detector, array: np.ndarray[Any, Any]) -> None:
    explained = detector.explain(array, [10, 10, 60, 60], top=10)
    assert {name for name, _ in explained} == {BACKGROUND, *SPLIT.names}
    values = [value for _, value in explained]
    assert values == sorted(values, reverse=True) and sum(values) == pytest.approx(1)
    assert len(detector.explain(array, [10, 10, 60, 60], ["cone"], top=1)) == 1
    for wrong in ([10, 10, 5, 60], [10, 10], "box", [200, 200, 300, 300], [0, 0, float("nan"), 5]):
        with pytest.raises(RecipeError, match="expected"):
            detector.explain(array, wrong)


def test_an_example_finds_its_own_region_best(detector: Detector, array: np.ndarray[Any, Any]) -> None:
    box = [10, 10, 60, 60]
    known = detector.vocabulary_from_crops({"part A": [array, box], "part B": [[array, [50, 0, 99, 30]], [array, box]]})
    assert known.names == ("part A", "part B") and known.owners.tolist() == [0, 1, 1]
    torch.testing.assert_close(known.embeddings.norm(dim=1), torch.ones(3))
    assert detector.explain(array, box, known)[0][0] in ("part A", "part B")
    mixed = known + detector.vocabulary(["circle"])
    assert set(detector(array, mixed, 0.0, multi_label=True)["class_name"]) <= {"part A", "part B", "circle"}
    with pytest.raises(RecipeError, match="duplicate"):
        known + known
    for wrong in ({"a": array}, {"a": [array]}, {}, {"a": []}):
        with pytest.raises(RecipeError):
            detector.vocabulary_from_crops(wrong)  # type: ignore[arg-type]


def test_a_stream_batches_and_numbers_the_problems(detector: Detector, tmp_path: Path) -> None:
    rng = np.random.default_rng(1)
    images = [rng.integers(0, 256, (height, 90, 3), dtype=np.uint8) for height in (64, 96, 64, 200, 96)]
    (tmp_path / "bad.png").write_text("")
    found = list(detector.stream([*images, tmp_path], None, 0.0, batch_size=2, multi_label=True))
    assert [len(each.detections) for each in found] == [
        len(detector(each, None, 0.0, multi_label=True)) for each in images
    ]
