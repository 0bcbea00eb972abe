"""Training data: regions, targets, augmentation, and the order of batches."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from ezsd.data.formats.coco import load_images
from ezsd.data.samples import ImageSet
from ezsd.data.target_store import Regions, TargetStore, write_index, write_shard
from ezsd.recipe import TrainConfig
from ezsd.training.dataset import (
    DistilledNames,
    TrainingDataset,
    best_regions,
    least_score,
    load_batches,
    name_targets,
    weighted_targets,
)
from ezsd.training.sampler import BatchPlan, PlannedBatches, expected_boxes, repeat_factors
from tiny import CROWD_IMAGE, SPLIT, TinyCoco


def regions(base: int, proposals: int, seed: int = 0) -> Regions:
    generator = torch.Generator().manual_seed(seed)
    count = base + proposals
    corner = torch.rand(count, 2, generator=generator) * 30
    return Regions(
        boxes=torch.cat([corner, corner + 8], dim=1),
        embeddings=F.normalize(torch.randn(count, 16, generator=generator), dim=1).half(),
        weights=torch.cat([torch.rand(proposals, generator=generator), torch.ones(base)]),
        scores=torch.cat([torch.rand(proposals, generator=generator), torch.ones(base)]),
        labels=torch.ones(count, dtype=torch.int64),
        is_base_box=torch.arange(count) >= proposals,
    )


@pytest.fixture
def images(tiny_coco: Callable[..., TinyCoco], tmp_path: Path) -> ImageSet:
    return load_images(tiny_coco(tmp_path / "images").part(), SPLIT.base)


@pytest.fixture
def store(images: ImageSet, tmp_path: Path) -> TargetStore:
    folder = tmp_path / "targets"
    write_shard(folder / "shard-00000.arrow", {image.image_id: regions(2, 9, image.image_id) for image in images}, {})
    write_index(folder, [folder / "shard-00000.arrow"], {})
    return TargetStore(folder)


def training(images: ImageSet, store: TargetStore | None, **changes: Any) -> TrainingDataset:
    return TrainingDataset(images, store, 16, TrainConfig(proposals_per_image=5, **changes), (64, 96), masks=True)


@given(st.integers(0, 6), st.integers(0, 20), st.integers(0, 12), st.integers(0, 99))
def test_all_base_boxes_and_the_best_proposals_are_kept_in_order(base: int, many: int, wanted: int, seed: int) -> None:
    given_regions = regions(base, many, seed)
    kept = best_regions(given_regions, wanted)
    assert kept.is_base_box[:base].all() and not kept.is_base_box[base:].any()
    best = given_regions.scores[~given_regions.is_base_box].sort(descending=True).values[:wanted]
    assert torch.equal(kept.scores[base:], best)


def test_flip_mirrors_boxes_and_masks_and_keeps_embeddings(images: ImageSet, store: TargetStore) -> None:
    plain, plain_target = training(images, store, flip=0.0)[0, 1]
    mirrored, target = training(images, store, flip=1.0)[0, 1]
    assert torch.equal(mirrored, plain.flip(-1))
    width = plain.shape[-1]
    for key in ("boxes", "distill_boxes"):
        expected = plain_target[key].clone()
        expected[:, [0, 2]] = width - plain_target[key][:, [2, 0]]
        assert torch.allclose(target[key], expected, atol=1e-3)
    assert torch.equal(target["distill_embeddings"], plain_target["distill_embeddings"])
    assert torch.equal(target["masks"], plain_target["masks"].flip(-1))


def test_boxes_are_scaled_with_the_image(images: ImageSet, store: TargetStore) -> None:
    big, big_target = TrainingDataset(images, store, 16, TrainConfig(flip=0), (128, 192), masks=False)[0, 1]
    small, small_target = TrainingDataset(images, store, 16, TrainConfig(flip=0), (64, 96), masks=False)[0, 1]
    scale = torch.tensor([small.shape[-1] / big.shape[-1], small.shape[-2] / big.shape[-2]] * 2)
    assert torch.allclose(small_target["boxes"], big_target["boxes"] * scale, atol=1e-3)
    assert torch.allclose(small_target["distill_boxes"], big_target["distill_boxes"] * scale, atol=1e-3)


def test_scale_jitter_keeps_rows_together(images: ImageSet, store: TargetStore) -> None:
    """Each region has its own embedding, weight and label, so that rows can be recognized."""
    lost = 0
    for index in range(len(images)):
        found = regions(2, 9, images[index].image_id)
        for seed in range(6):
            _, target = training(images, store, scale_jitter=(1.5, 2.5), flip=0.0, ignore_top=9)[index, seed]
            rows = [_row(found, embedding) for embedding in target["distill_embeddings"]]
            lost += 7 - len(rows)
            assert len(rows) == len(target["distill_boxes"]) == len(target["distill_weights"])
            if rows:  # scaling and clipping keep the order of coordinates
                before, after = found.boxes[rows], target["distill_boxes"]
                assert ((after[:, None] - after[None])[before[:, None] > before[None]] >= 0).all()
                ratio = target["distill_weights"] / found.weights[rows]
                assert torch.allclose(ratio, ratio[:1].expand_as(ratio), rtol=1e-4)
            proposals = target["distill_boxes"][[not found.is_base_box[row] for row in rows]]
            assert torch.equal(target["ignored_boxes"], proposals)
            objects = ~images[index].crowd
            assert len(target["boxes"]) == len(target["labels"]) == len(target["masks"]) <= int(objects.sum())
            assert set(target["labels"].tolist()) <= set(images[index].labels[objects].tolist())
    assert lost > 0


def _row(found: Regions, embedding: Tensor) -> int:
    (row,) = (found.embeddings.float() == embedding).all(1).nonzero()[:, 0].tolist()
    return row


def test_augmentations_depend_only_on_the_seed_and_change_only_their_part(images: ImageSet, store: TargetStore) -> None:
    plain, plain_target = training(images, store)[0, 1]
    color, color_target = training(images, store, color_jitter=0.4)[0, 1]
    assert plain.shape == color.shape and not torch.equal(plain, color)
    assert all(torch.equal(plain_target[key], color_target[key]) for key in plain_target)
    jittered = training(images, store, scale_jitter=(0.5, 2.0), color_jitter=0.4)
    first, again, other = jittered[0, 1], jittered[0, 1], jittered[0, 2]
    assert torch.equal(first[0], again[0]) and all(torch.equal(first[1][key], again[1][key]) for key in first[1])
    assert first[0].shape != other[0].shape or not torch.equal(first[0], other[0])


def test_crowd_boxes_are_excluded_from_objects_and_returned_separately(images: ImageSet, store: TargetStore) -> None:
    index = [image.image_id for image in images].index(CROWD_IMAGE)
    _, target = training(images, store)[index, 1]
    crowds = int(images[index].crowd.sum())
    assert crowds == len(target["crowd_boxes"]) > 0
    assert len(target["boxes"]) == len(target["labels"]) == len(target["masks"])
    assert len(target["boxes"]) == len(images[index].boxes) - crowds


def test_distillation_weights_have_mean_one(images: ImageSet, store: TargetStore) -> None:
    _, target = training(images, store)[0, 1]
    assert float(target["distill_weights"].mean()) == pytest.approx(1)
    assert len(target["distill_boxes"]) == 2 + 5


@given(st.integers(1, 9), st.floats(0, 1), st.integers(0, 99))
def test_uncertain_regions_get_background(count: int, share: float, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    weights = torch.rand(count, generator=generator) * 0.9 + 0.05
    targets = F.pad(torch.rand(count, 4, generator=generator).softmax(1), (1, 0))
    joined = weighted_targets(targets, weights, share)
    total = weights + share * (1 - weights)
    assert joined.sum(1).mean().item() == pytest.approx(1, abs=1e-4)
    rows = torch.cat([(total - weights)[:, None], weights[:, None] * targets[:, 1:]], dim=1)
    assert torch.allclose(joined / joined.sum(1, keepdim=True) * total[:, None], rows, atol=1e-4)


def test_without_distillation_targets_are_empty_but_regions_can_be_ignored(
    images: ImageSet, store: TargetStore
) -> None:
    _, target = training(images, store, distillation_weight=0.0, ignore_top=3)[0, 1]
    assert len(target["distill_boxes"]) == 0 and len(target["ignored_boxes"]) == 3
    _, target = training(images, None, distillation_weight=0.0)[0, 1]
    assert len(target["distill_boxes"]) == 0 and target["distill_embeddings"].shape == (0, 16)


@given(st.integers(1, 9), st.integers(1, 3), st.integers(1, 3), st.integers(0, 5), st.integers(1, 6))
def test_resumed_plan_yields_the_remaining_batches(
    images: int, batch: int, accumulate: int, start: int, more: int
) -> None:
    plan = BatchPlan(images, 3, batch, accumulate)
    whole = list(plan.batches(0, start + more))
    assert list(plan.batches(start, start + more)) == whole[start * accumulate :]


@given(st.lists(st.booleans(), min_size=1, max_size=20), st.integers(1, 4), st.integers(1, 3))
def test_each_epoch_contains_every_image_once_over_all_processes(
    upright: list[bool], batch: int, processes: int
) -> None:
    seen, images = [], len(upright)
    steps = BatchPlan(images, 0, batch, 1, processes).steps(2)
    for step in range(steps):
        for process in range(processes):
            plan = BatchPlan(images, 0, batch, 1, processes, process, upright=tuple(upright))
            (found,) = plan.batches(step, step + 1)
            seen += [index for index, _ in found]
    assert sorted(seen[:images]) == sorted(seen[images : 2 * images]) == list(range(images))


@given(st.lists(st.booleans(), min_size=1, max_size=60), st.integers(1, 5), st.integers(0, 3))
def test_few_batches_mix_wide_and_upright_images(upright: list[bool], batch: int, seed: int) -> None:
    plan = BatchPlan(len(upright), seed, batch, 1, upright=tuple(upright))
    found = list(plan.batches(0, 4 * len(upright) + 9))
    mixed = [len({upright[index] for index, _ in one}) == 2 for one in found[: 4 * len(upright)]]
    passes = 4 * batch
    assert sum(mixed) <= 2 * passes  # the images left over from both orientations, and a batch of two passes
    assert list(plan.batches(2, 9)) == found[2:9]


def test_wide_and_upright_batches_come_in_random_order() -> None:
    plan = BatchPlan(40, 0, 2, 1, upright=(True, False) * 20)
    first, second = ([index % 2 for ((index, _), _) in plan.batches(at, at + 20)] for at in (0, 20))
    assert sum(first) == sum(second) == 10
    assert first != sorted(first) and first != second


def test_number_of_steps_covers_the_epochs_and_is_at_least_one() -> None:
    plan = BatchPlan(10, 0, batch_size=2, accumulate=2)
    assert [plan.steps(epochs) for epochs in (0.01, 1, 2, 2.5)] == [1, 3, 5, 7]


def test_order_differs_by_epoch_and_seed_and_every_augmentation_seed_is_unique() -> None:
    first, other = (next(BatchPlan(20, seed, 40, 1).batches(0, 1)) for seed in (0, 1))
    orders = [[index for index, _ in keys] for keys in (first[:20], first[20:], other[:20], other[20:])]
    assert len({tuple(order) for order in orders}) == 4
    assert len({seed for _, seed in [*first, *other]}) == 80


def test_augmentation_seeds_are_stable_across_versions() -> None:
    """A run that was started with an older version is resumed with the same augmentations."""
    ((*_, last),) = BatchPlan(3, seed=2, batch_size=2, accumulate=1).batches(1, 2)
    assert last[1] == 2 * 1_000_003 + 3 and isinstance(last[1], int)


@pytest.mark.parametrize("start, stop", [(0, 3), (2, 5)])
def test_planned_batches_have_a_length(start: int, stop: int) -> None:
    batches = PlannedBatches(BatchPlan(7, 0, batch_size=2, accumulate=3), start, stop)
    assert len(batches) == len(list(batches)) == 9


def test_number_of_workers_does_not_change_batches(images: ImageSet, store: TargetStore) -> None:
    dataset, plan = training(images, store), BatchPlan(len(images), 0, 2, 1)
    first, second = (list(load_batches(dataset, plan, 0, 4, workers)) for workers in (0, 2))
    for one, other in zip(first, second, strict=True):
        for (image, target), (again, target_again) in zip(one, other, strict=True):
            assert torch.equal(image, again)
            assert all(torch.equal(target[key], target_again[key]) for key in target)


@given(st.floats(0, 1))
def test_base_boxes_mix_their_label_with_the_teachers_distribution(share: float) -> None:
    text = F.normalize(torch.randn(5, 16, generator=torch.Generator().manual_seed(0)), dim=1)
    known = regions(2, 3)
    found = name_targets(known, DistilledNames(text, 3, 10.0), share)
    assert found.shape == (5, 6) and (found[:, 0] == 0).all()
    torch.testing.assert_close(found.sum(1), torch.ones(5))
    teacher = (10.0 * known.embeddings.float() @ text.T).softmax(1)
    base = known.is_base_box
    torch.testing.assert_close(found[~base, 1:], teacher[~base])
    own = F.one_hot(known.labels[base] - 1, 5).float()
    torch.testing.assert_close(found[base, 1:], share * own + (1 - share) * teacher[base])


@given(st.lists(st.floats(0, 1), max_size=12), st.floats(0, 20))
def test_the_least_score_of_pseudo_boxes_admits_their_number(scores: list[float], count: float) -> None:
    values = torch.tensor(scores)
    least = least_score(values, count)
    wanted = min(round(count), len(scores))
    assert int((values > least).sum()) < max(wanted, 1)
    assert int((values >= least).sum()) >= wanted
    if not wanted:
        assert not (values >= least).any()


def test_repeat_factors_follow_the_rarest_name_of_an_image(images: ImageSet) -> None:
    plain = repeat_factors(images, 0.01)
    assert plain == (1.0,) * len(images)  # every name is in more than 1 % of the images
    found = [set(image.labels[~image.crowd].tolist()) for image in images]
    share = {label: sum(label in own for own in found) / len(images) for label in (1, 2)}
    for own, factor in zip(found, repeat_factors(images, 0.9), strict=True):
        assert factor == pytest.approx(max([1.0, *(max(1.0, (0.9 / share[label]) ** 0.5) for label in own)]))
    assert max(repeat_factors(images, 0.9)) > 1.1


@given(st.lists(st.floats(1, 6), min_size=1, max_size=9), st.integers(1, 3), st.integers(0, 9))
def test_images_are_repeated_as_often_as_their_factor_says(factors: list[float], batch: int, seed: int) -> None:
    length = round(sum(factors))
    plan = BatchPlan(len(factors), seed, batch, 1, repeats=tuple(factors))
    shown = [index for found in plan.batches(0, 40 * length) for index, _ in found]
    scale = length / sum(factors)
    for start in range(0, 40 * length, length):
        seen = [shown[start : start + length].count(index) for index in range(len(factors))]
        assert all(abs(count - factor * scale) < 1.001 for count, factor in zip(seen, factors, strict=True))
    mean = [shown[: 40 * length].count(index) / 40 for index in range(len(factors))]
    assert mean == pytest.approx([factor * scale for factor in factors], abs=0.35)


def test_repeated_images_are_resumed_and_shared_by_processes() -> None:
    factors = (1.0, 2.5, 1.3)
    whole = list(BatchPlan(3, 5, 2, 2, repeats=factors).batches(0, 9))
    assert list(BatchPlan(3, 5, 2, 2, repeats=factors).batches(4, 9)) == whole[8:]
    parts = [list(BatchPlan(3, 5, 1, 2, 2, process, factors).batches(0, 9)) for process in range(2)]
    assert [[*first, *second] for first, second in zip(*parts, strict=True)] == whole
    shown = [index for batch in whole for index, _ in batch]
    assert shown[:5] != sorted(shown[:5]) and shown[:5] != shown[5:10]
    assert BatchPlan(3, 5, 2, 2, repeats=factors).steps(4) == BatchPlan(3, 5, 2, 2).steps(4)


def test_expected_boxes_count_repeated_images(images: ImageSet) -> None:
    labels = torch.cat([image.labels[~image.crowd] for image in images])
    assert expected_boxes(images, ()).tolist() == [int((labels == 1).sum()), int((labels == 2).sum())]
    assert torch.equal(expected_boxes(images, (2.0,) * len(images)), 2 * expected_boxes(images, ()))
