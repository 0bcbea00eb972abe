"""The classifier depends on names only through their embeddings."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F

from ezsd.detector.text_classifier import TextClassifier


def unit(count: int) -> torch.Tensor:
    return F.normalize(torch.randn(count, 8), dim=1)


def test_logits_are_scaled_cosines_with_the_background_first() -> None:
    torch.manual_seed(0)
    classifier, regions, text = TextClassifier(8, logit_scale=50), unit(3), unit(5)
    logits = classifier(regions, text)
    assert logits.shape == (3, 6)
    assert torch.allclose(logits[:, 1:], 50 * regions @ text.T, atol=1e-4)
    assert torch.allclose(
        logits[:, 0], 50 * regions @ F.normalize(classifier.background_embedding, dim=1)[0], atol=1e-4
    )


def test_reordering_the_vocabulary_reorders_the_logits() -> None:
    torch.manual_seed(0)
    classifier, regions, text = TextClassifier(8), unit(3), unit(5)
    order = torch.tensor([4, 2, 0, 1, 3])
    assert torch.allclose(
        classifier(regions, text[order])[:, 1:], classifier(regions, text)[:, 1:][:, order], atol=1e-4
    )


def test_only_background_and_scale_are_learned() -> None:
    classifier = TextClassifier(8)
    assert {name for name, _ in classifier.named_parameters()} == {"background_embedding", "log_logit_scale"}
    classifier(unit(3), unit(5)).sum().backward()
    assert classifier.background_embedding.grad is not None and classifier.log_logit_scale.grad is not None


def test_empty_vocabulary_gives_background_logits_only() -> None:
    assert TextClassifier(8)(unit(2), torch.zeros(0, 8)).shape == (2, 1)


@pytest.mark.parametrize(("given", "expected"), [(0.01, 12.5), (1e6, 200.0), (60.0, 60.0)])
def test_the_logit_scale_stays_near_its_start_in_training(given: float, expected: float) -> None:
    classifier, regions, text = TextClassifier(8, logit_scale=50), unit(3), unit(5)
    classifier.log_logit_scale.data.fill_(math.log(given))
    assert torch.allclose(classifier(regions, text)[:, 1:], expected * regions @ text.T, rtol=1e-3, atol=1e-3)


def test_half_precision_does_not_round_the_cosines_of_inference() -> None:
    torch.manual_seed(0)
    classifier, regions, text = TextClassifier(8).eval(), unit(3), unit(5)
    with torch.autocast("cpu", torch.bfloat16):
        half = classifier(regions, text)
    assert torch.equal(half, classifier(regions, text))
