"""Losses: values for single regions, and inputs that do not affect them."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st

from ezsd.detector import losses as module
from ezsd.detector.losses import (
    LongTail,
    box_regression_loss,
    classification_losses,
    distillation_loss,
    federated_logits,
    names_loss,
    quality_loss,
    seesaw_logits,
)
from ezsd.training.dataset import mean_one

counts = st.integers(1, 12)
seeds = st.integers(0, 1000)


def unit(count: int, dim: int = 8) -> torch.Tensor:
    return F.normalize(torch.randn(count, dim), dim=1)


@given(counts, seeds)
def test_distillation_sums_over_dimensions_and_averages_over_regions(count: int, seed: int) -> None:
    torch.manual_seed(seed)
    student, teacher = unit(count), unit(count)
    by_hand = sum(float((student[i] - teacher[i]).abs().sum()) for i in range(count)) / count
    assert distillation_loss(student, teacher, torch.ones(count)).item() == pytest.approx(by_hand, rel=1e-4)


def test_distillation_is_zero_for_equal_student_and_teacher() -> None:
    embeddings = unit(5)
    assert distillation_loss(embeddings, embeddings, torch.ones(5)).item() == 0


def test_distillation_without_regions_is_zero_and_differentiable() -> None:
    student = torch.zeros(0, 8, requires_grad=True)
    loss = distillation_loss(student, torch.zeros(0, 8), torch.zeros(0))
    loss.backward()
    assert loss.item() == 0


@given(counts, seeds)
def test_distillation_weights_scale_the_loss_of_each_region(count: int, seed: int) -> None:
    torch.manual_seed(seed)
    student, teacher = unit(count), unit(count)
    weights = torch.zeros(count)
    weights[0] = count
    expected = (student[0] - teacher[0]).abs().sum()
    assert torch.allclose(distillation_loss(student, teacher, weights), expected, rtol=1e-4)


@given(st.lists(st.floats(0, 1, width=32), min_size=1, max_size=30), st.floats(0.1, 10))
def test_weights_have_mean_one_for_any_scale(values: list[float], scale: float) -> None:
    weights = mean_one(torch.tensor(values))
    assert float(weights.mean()) == pytest.approx(1, rel=1e-4)
    if sum(values) > 1e-3:
        assert torch.allclose(mean_one(torch.tensor(values) * scale), weights, rtol=1e-3, atol=1e-5)


def test_empty_weights_stay_empty() -> None:
    assert mean_one(torch.zeros(0)).shape == (0,)


def test_box_loss_ignores_background_regions() -> None:
    labels = torch.tensor([0, 2, 0])
    deltas, targets = torch.randn(3, 4), torch.randn(3, 4)
    moved = deltas.clone()
    moved[[0, 2]] += 100
    assert box_regression_loss(deltas, labels, targets) == box_regression_loss(moved, labels, targets)


def test_box_loss_is_divided_by_the_number_of_all_regions() -> None:
    deltas, targets = torch.ones(1, 4), torch.zeros(1, 4)
    alone = box_regression_loss(deltas, torch.tensor([1]), targets)
    padded = box_regression_loss(deltas.repeat(4, 1), torch.tensor([1, 0, 0, 0]), targets.repeat(4, 1))
    assert padded.item() == pytest.approx(alone.item() / 4)


def test_box_loss_is_smooth_l1_with_a_beta_of_one_ninth() -> None:
    deltas = torch.tensor([[0.05, 0, 0, 0], [0, -1.0, 0, 0]])
    loss = box_regression_loss(deltas, torch.tensor([1, 2]), torch.zeros(2, 4))
    assert loss.item() == pytest.approx((0.05**2 / 2 * 9 + 1 - 1 / 18) / 2)


def test_classification_loss_is_lower_for_the_correct_label() -> None:
    logits = torch.tensor([[0.0, 9.0, 0.0]])
    none = torch.zeros(1, 0, dtype=torch.bool)
    right, wrong = (classification_losses(logits, torch.tensor([label]), none) for label in (1, 0))
    assert right < wrong


@given(st.integers(1, 6), st.integers(0, 5), seeds)
def test_names_without_boxes_affect_the_regions_they_are_meant_for(names: int, others: int, seed: int) -> None:
    torch.manual_seed(seed)
    used = torch.rand(8, others) < 0.5
    logits = torch.randn(8, 1 + names + others, requires_grad=True)
    labels = torch.arange(8) % (1 + names)
    losses = classification_losses(logits, labels, used)
    losses.sum().backward()
    assert logits.grad is not None
    columns = torch.cat([torch.ones(8, 1 + names, dtype=torch.bool), used], dim=1)
    for row in range(8):
        expected = F.cross_entropy(logits[row, columns[row]], labels[row])
        torch.testing.assert_close(losses[row], expected)
        assert (logits.grad[row, ~columns[row]] == 0).all() and (logits.grad[row, columns[row]] != 0).all()


@given(counts, seeds)
def test_names_loss_is_the_weighted_mean_of_cross_entropies(count: int, seed: int) -> None:
    torch.manual_seed(seed)
    logits, targets = torch.randn(count, 5), torch.rand(count, 5)
    by_hand = sum(-float((targets[i] * logits[i].log_softmax(0)).sum()) for i in range(count)) / count
    assert names_loss(logits, targets).item() == pytest.approx(by_hand, rel=1e-4, abs=1e-6)


def test_names_loss_lowers_the_background_of_regions_with_a_name() -> None:
    logits = torch.zeros(1, 3, requires_grad=True)
    names_loss(logits, torch.tensor([[0.0, 0.5, 0.5]])).backward()
    assert logits.grad is not None and logits.grad[0, 0] > 0 and (logits.grad[0, 1:] < 0).all()


def test_names_loss_without_regions_is_zero() -> None:
    assert names_loss(torch.zeros(0, 3), torch.zeros(0, 3)).item() == 0


def test_quality_loss_ignores_boxes_far_from_objects() -> None:
    logits, ious = torch.tensor([3.0, -1.0, 0.5], requires_grad=True), torch.tensor([0.05, 0.3, 0.8])
    loss = quality_loss(logits, ious, 0.1)
    assert loss.item() == pytest.approx(F.binary_cross_entropy_with_logits(logits[1:], ious[1:]).item())
    loss.backward()
    assert logits.grad is not None and logits.grad[0] == 0 and (logits.grad[1:] != 0).all()
    assert quality_loss(logits, torch.zeros(3), 0.1).item() == 0


def test_best_predicted_quality_is_the_true_iou() -> None:
    logits, ious = torch.zeros(1, requires_grad=True), torch.tensor([0.7])
    for _ in range(300):
        (gradient,) = torch.autograd.grad(quality_loss(logits, ious, 0.1), logits)
        logits = (logits - 2 * gradient).detach().requires_grad_()
    assert logits.sigmoid().item() == pytest.approx(0.7, abs=0.01)


@given(counts, seeds)
def test_seesaw_equals_the_published_formula(count: int, seed: int) -> None:
    torch.manual_seed(seed)
    boxes = torch.tensor([1000.0, 30, 2, 0])
    logits, labels = 2 * torch.randn(count, 5), torch.randint(1, 5, (count,))
    found = F.cross_entropy(seesaw_logits(logits, labels, boxes), labels, reduction="none")
    scores, seen = logits.softmax(1), [1.0, *boxes.clamp(min=1).tolist()]
    for row in range(count):
        own = int(labels[row])
        total = logits[row, 0].exp() + logits[row, own].exp()  # background and the name itself have the factor 1
        for other in {1, 2, 3, 4} - {own}:
            mitigation = (seen[other] / seen[own]) ** 0.8 if seen[own] > seen[other] else 1.0
            ratio = float(scores[row, other] / scores[row, own])
            total = total + mitigation * max(1.0, ratio**2) * logits[row, other].exp()
        assert float(found[row]) == pytest.approx(float(total.log() - logits[row, own]), rel=1e-3, abs=1e-5)


def test_seesaw_protects_rare_names_from_frequent_ones_but_not_the_other_way_round() -> None:
    boxes = torch.tensor([1000.0, 1.0])

    def push(label: int, other: int) -> float:
        logits = torch.zeros(1, 3, requires_grad=True)
        F.cross_entropy(seesaw_logits(logits, torch.tensor([label]), boxes), torch.tensor([label])).backward()
        assert logits.grad is not None
        return float(logits.grad[0, other])

    assert push(label=1, other=2) < 0.02 < 0.3 < push(label=2, other=1)


def test_seesaw_does_not_change_background_regions() -> None:
    logits = torch.randn(4, 3)
    assert torch.equal(seesaw_logits(logits, torch.zeros(4, dtype=torch.int64), torch.tensor([9.0, 1.0])), logits)


def test_federated_loss_uses_the_names_of_the_batch_and_draws_the_others(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "FEDERATED_NAMES", 4)
    torch.manual_seed(0)
    boxes, labels = torch.tensor([100.0, 100, 1, 1, 1, 1, 0, 100]), torch.tensor([0, 3, 5, 5])
    drawn = torch.zeros(9)
    for _ in range(200):
        used = federated_logits(torch.zeros(4, 9), labels, boxes).isfinite()
        assert (used == used[0]).all() and used[0, [0, 3, 5]].all() and used[0].sum() == 5
        drawn += used[0]
    assert drawn[7] == 0  # no boxes, so not in the data
    assert drawn[[1, 2, 8]].min() > 2 * drawn[[4, 6]].max()


def test_federated_loss_with_few_names_is_the_plain_loss() -> None:
    logits, labels = torch.randn(6, 4), torch.tensor([0, 1, 1, 0, 2, 1])
    assert torch.equal(LongTail("federated", torch.tensor([5.0, 2, 9]))(logits, labels), logits)


def test_boxes_of_the_long_tail_are_not_saved_with_the_model() -> None:
    assert LongTail("seesaw", torch.ones(3)).state_dict() == {}
