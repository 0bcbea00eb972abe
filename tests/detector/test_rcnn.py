"""The complete detector: parity of batches, empty inputs, semantic regression, training samples."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from torch import Tensor

from ezsd.detector.losses import LongTail
from ezsd.detector.rcnn import Rcnn, batch_images, build_detector
from ezsd.detector.roi_heads import Target
from ezsd.recipe import DetectorConfig

DIM = 16


def settings(**changes: Any) -> DetectorConfig:
    values: dict[str, Any] = {
        "backbone": "tf_efficientnet_lite0", "pretrained": False, "image_size": (96, 128), "fpn_channels": 16,
        "anchor_sides": (16, 24, 32, 48, 96), "rpn_proposals": 50, "head_convs": 1, "head_channels": 16,
        "head_features": 32, "rois_per_image": 32, "score_threshold": 0.0,
    }  # fmt: skip
    return DetectorConfig(**{**values, **changes})


def model(masks: bool = False, **changes: Any) -> Rcnn:
    torch.manual_seed(0)
    detector = build_detector(settings(**changes), DIM, masks, pretrained=False)
    for layer in (detector.roi_heads.box_head.to_embedding[-1], detector.roi_heads.box_head.to_deltas[-1]):
        torch.nn.init.normal_(layer.weight, std=0.3)  # an untrained head gives almost equal outputs for every region
    for layer in (detector.roi_heads.box_head.to_deltas[0][0], detector.roi_heads.box_head.to_deltas[1]):
        torch.nn.init.normal_(layer.weight.detach()[:, 32:], std=0.1)  # and does not depend on the name
    return detector


def text(count: int = 3, seed: int = 0) -> Tensor:
    return F.normalize(torch.randn(count, DIM, generator=torch.Generator().manual_seed(seed)), dim=1)


def image(seed: int = 0, height: int = 96, width: int = 128) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, 255, (3, height, width), dtype=torch.uint8, generator=generator)


def target(boxes: int = 2, distilled: int = 4, masks: bool = False) -> Target:
    corners = torch.tensor([[8.0, 8, 40, 40], [50, 30, 110, 80], [20, 50, 60, 90], [70, 10, 100, 30]])
    made = {
        "boxes": corners[:boxes],
        "labels": torch.arange(1, boxes + 1),
        "crowd_boxes": torch.zeros(0, 4),
        "ignored_boxes": torch.zeros(0, 4),
        "distill_boxes": corners[:distilled],
        "distill_embeddings": text(distilled, seed=1),
        "distill_weights": torch.ones(distilled),
    }
    drawn = {"masks": torch.ones(boxes, 96, 128, dtype=torch.uint8), "has_mask": torch.ones(boxes, dtype=torch.bool)}
    return {**made, **drawn} if masks else made


def test_batched_detections_equal_single_detections() -> None:
    detector, names = model().eval(), text()
    images = [image(0), image(1, 70, 90)]
    together = detector.detect(images, names)
    for one, found in zip(images, together, strict=True):
        alone = detector.detect([one], names)[0]
        assert len(alone.boxes) > 10
        assert torch.allclose(alone.scores, found.scores, atol=1e-4)
        assert torch.allclose(alone.boxes, found.boxes, atol=0.05)


def test_float_and_uint8_images_give_the_same_detections() -> None:
    detector = model().eval()
    as_bytes = detector.detect([image()], text())[0]
    as_floats = detector.detect([image().float() / 255], text())[0]
    assert torch.allclose(as_bytes.scores, as_floats.scores, atol=1e-3)


def test_boxes_are_inside_the_image_and_scores_are_sorted() -> None:
    found = model().eval().detect([image(0, 200, 300)], text())[0]
    assert (found.boxes >= 0).all() and (found.boxes <= torch.tensor([300, 200, 300, 200])).all()
    assert (found.scores[1:] <= found.scores[:-1]).all()
    assert int(found.labels.min()) >= 0 and int(found.labels.max()) <= 2


def test_reordered_names_permute_the_labels() -> None:
    detector, names = model().eval(), text()
    order = torch.tensor([2, 0, 1])
    first, second = detector.detect([image()], names)[0], detector.detect([image()], names[order])[0]
    assert torch.allclose(first.scores, second.scores, atol=1e-5)
    assert torch.equal(first.labels, order[second.labels])


def test_no_scores_over_the_threshold_give_empty_boxes_and_masks() -> None:
    detector = model(masks=True, score_threshold=1.0).eval()
    found = detector.detect([image()], text())[0]
    assert found.boxes.shape == (0, 4) and found.masks is not None and found.masks.shape == (0, 28, 28)


def test_masks_are_probabilities_inside_the_boxes() -> None:
    found = model(masks=True).eval().detect([image(0, 60, 90)], text())[0]
    assert found.masks is not None and found.masks.shape == (len(found.boxes), 28, 28)
    assert 0 <= found.masks.min() < 0.5 < found.masks.max() <= 1


@pytest.mark.parametrize("boxes", [0, 2])
@pytest.mark.parametrize("distilled", [0, 4])
def test_losses_are_finite_and_reach_every_trained_parameter(boxes: int, distilled: int) -> None:
    detector = model(masks=True).train()
    losses = detector([image(), image(1)], [target(boxes, distilled, True), target(2, 4, True)], text())
    assert set(losses) == {
        "loss_objectness", "loss_rpn_box_reg", "loss_classifier", "loss_box", "loss_distillation", "loss_mask"
    }  # fmt: skip
    sum(losses.values()).backward()
    for name, parameter in detector.named_parameters():
        assert parameter.grad is not None and torch.isfinite(parameter.grad).all(), name


def test_losses_of_images_without_boxes_are_finite() -> None:
    losses = model(masks=True).train()([image()], [target(0, 0, True)], text())
    assert all(torch.isfinite(value) for value in losses.values())
    assert losses["loss_box"] == 0 and losses["loss_distillation"] == 0


def test_training_decreases_the_distillation_loss() -> None:
    detector = model().train()
    optimizer = torch.optim.AdamW(detector.parameters(), lr=2e-3)
    history = []
    for step in range(40):
        torch.manual_seed(step)
        loss = detector([image()], [target()], text())["loss_distillation"]
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        history.append(float(loss.detach()))
    assert history[-1] < 0.5 * history[0]


def test_training_does_not_change_batch_norm_statistics() -> None:
    detector = model().train()
    before = {name: value.clone() for name, value in detector.named_buffers() if "running" in name}
    detector([image()], [target()], text())
    assert before and all(torch.equal(value, dict(detector.named_buffers())[name]) for name, value in before.items())


def test_box_depends_on_the_name_with_semantic_regression_only() -> None:
    head = model().roi_heads.box_head
    features = torch.rand(4, 32)
    assert not torch.allclose(head.deltas(features, text(4, 0)), head.deltas(features, text(4, 1)))
    plain = model(semantic_regression=False).roi_heads.box_head
    assert torch.equal(plain.deltas(features, text(4, 0)), plain.deltas(features, text(4, 1)))


@pytest.mark.parametrize("changes", [{}, {"semantic_placement": "after"}, {"semantic_regression": False}])
def test_boxes_of_pairs_are_those_of_each_region_with_its_name(changes: dict[str, Any]) -> None:
    head = model(**changes).roi_heads.box_head
    features, names = torch.rand(4, 32), text(5)
    region, name = torch.tensor([0, 3, 3, 1, 0]), torch.tensor([4, 0, 2, 2, 1])
    together = head.deltas_of_pairs(features, names, region, name)
    assert torch.allclose(together, head.deltas(features[region], names[name]), atol=1e-6)


@given(st.integers(0, 100))
@hypothesis_settings(max_examples=10)
def test_components_orthogonal_to_the_trained_names_do_not_change_boxes(seed: int) -> None:
    torch.manual_seed(seed)
    head = build_detector(settings(), DIM, masks=False, pretrained=False).roi_heads.box_head
    features, goal = torch.rand(6, 32), torch.rand(6, 4)
    orthonormal = torch.linalg.qr(torch.randn(DIM, DIM)).Q
    trained, shared, foreign = orthonormal[:5], orthonormal[:5].sum(0), orthonormal[5:].sum(0)
    optimizer = torch.optim.SGD(head.parameters(), lr=0.1)
    for _ in range(4):
        F.mse_loss(head.deltas(features, trained[[0, 1, 2, 3, 4, 0]]), goal).backward()
        optimizer.step()
        optimizer.zero_grad()
    without = head.deltas(features, torch.zeros(6, DIM))
    assert torch.allclose(head.deltas(features, foreign.expand(6, DIM)), without, atol=1e-6)
    assert not torch.allclose(head.deltas(features, shared.expand(6, DIM)), without, atol=1e-6)


def _pairs(top_k: int) -> tuple[Tensor, Tensor, Tensor]:
    """Return boxes of one region for three names: regressed, one per name, and of the best name."""
    detector = model(semantic_top_k=top_k).eval()
    heads, names = detector.roi_heads, text()
    features, scores = torch.rand(1, 32), torch.tensor([[0.2, 0.5, 0.3]])
    region, proposal = torch.zeros(3, dtype=torch.int64), torch.tensor([[10.0, 10, 60, 60]])
    boxes = heads._regress(features, scores, proposal, (region, torch.arange(3)), names, None)
    apart = heads.box_coder.decode_single(heads.box_head.deltas(features[region], names), proposal[region])
    return boxes, apart, apart[1].expand(3, 4)


def test_top_k_1_gives_every_name_the_box_of_the_best_name() -> None:
    boxes, _, best = _pairs(top_k=1)
    assert torch.allclose(boxes, best)


def test_top_k_2_gives_the_second_name_its_own_box() -> None:
    boxes, apart, best = _pairs(top_k=2)
    assert torch.allclose(boxes[1:], apart[1:]) and torch.allclose(boxes[0], best[0])
    assert not torch.allclose(apart[2], best[2])


def test_predicted_quality_and_objectness_lower_scores_but_keep_most_boxes() -> None:
    plain = model(box_quality=True, quality_power=0.0)
    weighted = model(box_quality=True, quality_power=1.0, objectness_power=0.5)
    weighted.load_state_dict(plain.state_dict())
    (first,), (second,) = (some.eval().detect([image()], text()) for some in (plain, weighted))
    assert len(first.boxes) and second.scores.max() < first.scores.max()
    assert (torch.cdist(second.boxes, first.boxes).amin(1) < 1e-3).sum() > len(second.boxes) / 2


def test_soft_nms_keeps_overlapping_boxes_with_lower_scores() -> None:
    hard, soft = model(nms=0.3), model(nms=0.3, soft_nms=0.3, detections_per_image=300)
    soft.load_state_dict(hard.state_dict())
    (first,), (second,) = (some.eval().detect([image()], text()) for some in (hard, soft))
    assert len(second.boxes) > len(first.boxes)
    assert (second.scores[:-1] >= second.scores[1:]).all() and second.scores[0] == first.scores[0]


def test_name_distillation_adds_a_loss_that_reaches_the_classifier() -> None:
    detector, wanted = model().train(), target()
    wanted["distill_names"] = torch.full((4, 6), 0.2).index_fill(1, torch.tensor([0]), 0.0)
    losses = detector([image()], [wanted], text(3), text(2, seed=5))
    (losses["loss_names"] * 1.0).backward()
    gradient = detector.roi_heads.box_predictor.background_embedding.grad
    assert losses["loss_names"] > 0 and gradient is not None and gradient.abs().sum() > 0


def test_detector_without_the_finest_level_trains_and_detects() -> None:
    detector = model(anchor_sides=(24, 32, 48, 96), anchor_scales=(0.71, 1.0))
    losses = detector.train()([image()], [target()], text())
    assert all(value.isfinite() for value in losses.values())
    (found,) = detector.eval().detect([image()], text())
    assert len(found.boxes)


def test_pseudo_boxes_are_objects_of_rpn_and_box_head() -> None:
    detector = model().train()
    box = torch.tensor([[60.0, 40, 110, 90]])
    wanted = {**target(1, 0), "pseudo_boxes": box, "pseudo_names": torch.tensor([[0, 0.1, 0, 0, 0.9, 0]])}
    samples = detector.roi_heads.select_training_samples([box + 3], [wanted])
    assert samples.labels[0].tolist().count(4) == 2  # the pseudo-box itself and the region on it
    plain = detector([image()], [target(1, 0)], text(3), text(2, seed=5))
    losses = detector([image()], [wanted], text(3), text(2, seed=5))
    assert losses["loss_classifier"].isfinite() and losses["loss_classifier"] != plain["loss_classifier"]
    losses["loss_box"].backward()


def test_pseudo_boxes_have_no_masks() -> None:
    wanted = {
        **target(1, 0, masks=True),
        "pseudo_boxes": torch.tensor([[60.0, 40, 110, 90]]),
        "pseudo_names": torch.tensor([[0, 0.1, 0, 0, 0.9, 0]]),
    }
    losses = model(masks=True).train()([image()], [wanted], text(3), text(2, seed=5))
    assert losses["loss_mask"].isfinite() and losses["loss_mask"] > 0


def test_the_masks_of_boxes_that_have_none_are_not_learned() -> None:
    detector = model(masks=True).train()
    wanted = target(2, 0, masks=True)
    wanted["masks"][0] = 0  # a placeholder

    def loss(seed: int = 0) -> float:
        torch.manual_seed(seed)
        return float(detector([image()], [wanted], text())["loss_mask"].detach())

    with_all = loss()
    wanted["has_mask"][0] = False
    without = loss()
    wanted["masks"][0] = 1
    assert loss() == without != with_all
    wanted["has_mask"][1] = False
    assert loss() == 0


def test_quality_losses_of_images_without_boxes_are_zero() -> None:
    losses = model(box_quality=True).train()([image()], [target(0, 0)], text())
    assert losses["loss_quality"] == 0 and losses["loss_rpn_quality"] == 0


def test_crowd_regions_are_never_sampled_as_background() -> None:
    detector = model().train()
    crowd = {**target(1, 0), "crowd_boxes": torch.tensor([[60.0, 0, 128, 96]])}
    regions = torch.tensor([[70.0, 10, 90, 40], [0, 60, 20, 90], [80, 50, 120, 90]])
    samples = detector.roi_heads.select_training_samples([regions], [crowd])
    sampled, labels = samples.boxes, samples.labels
    background = sampled[0][labels[0] == 0]
    assert torch.equal(background, regions[1:2])


def test_images_are_padded_at_the_right_and_bottom_to_multiples_of_32() -> None:
    batch = batch_images([image(0, 40, 60), image(1, 64, 33)])
    assert batch.tensors.shape == (2, 3, 64, 64) and batch.image_sizes == [(40, 60), (64, 33)]
    assert torch.equal(batch.tensors[0, :, :40, :60], image(0, 40, 60).float() / 255)
    assert batch.tensors[0, :, 40:].abs().sum() == 0


def test_classified_boxes_have_the_scores_of_detections_that_are_not_moved() -> None:
    detector, names = model(nms=1.0, detections_per_image=30).eval(), text()
    torch.nn.init.zeros_(detector.roi_heads.box_head.to_deltas[-1].weight)
    images = [image(1, 192, 256), image(2)]  # the first is twice as large as the input of the model
    found = detector.detect(images, names)
    probabilities = detector.classify_boxes(images, [each.boxes for each in found], names)
    assert probabilities.shape == (60, 4)
    assert torch.allclose(probabilities.sum(dim=1), torch.ones(60))
    labels, scores = torch.cat([each.labels for each in found]), torch.cat([each.scores for each in found])
    assert scores.std() > 0.01
    assert torch.allclose(probabilities[torch.arange(60), labels + 1], scores, atol=1e-3)
    assert detector.classify_boxes(images[:1], [torch.zeros(0, 4)], names).shape == (0, 4)


def test_text_after_the_last_hidden_layer_adds_the_same_offset_to_every_region() -> None:
    features, names = torch.rand(6, 32, generator=torch.Generator().manual_seed(0)), text(2)
    offsets = {}
    for placement in ("before", "after"):
        head = model(semantic_placement=placement).roi_heads.box_head
        first, second = (head.deltas(features, name.expand(6, -1)) for name in names)
        offsets[placement] = first - second
        assert offsets[placement].abs().min(dim=0).values.max() > 1e-3
    assert torch.allclose(offsets["after"], offsets["after"][:1].expand(6, -1), atol=1e-5)
    assert not torch.allclose(offsets["before"], offsets["before"][:1].expand(6, -1), atol=1e-3)


@pytest.mark.parametrize("placement", ["before", "after"])
def test_names_have_no_influence_on_boxes_before_the_training(placement: str) -> None:
    head = build_detector(settings(semantic_placement=placement), DIM, False, pretrained=False).roi_heads.box_head
    features, names = torch.rand(6, 32), text(2)
    first, second = (head.deltas(features, name.expand(6, -1)) for name in names)
    assert torch.equal(first, second)


@pytest.mark.parametrize("kind", ["federated", "seesaw"])
def test_long_tail_changes_only_the_classification_loss(kind: str) -> None:
    detector, wanted, boxes = model().train(), target(), torch.tensor([500.0, 1.0, *[3.0] * 98])
    wanted["distill_names"] = torch.full((4, 103), 1 / 102).index_fill(1, torch.tensor([0]), 0.0)
    found = {}
    for tail in (None, LongTail(kind, boxes)):
        detector.roi_heads.long_tail = tail
        torch.manual_seed(0)
        found[tail is None] = detector([image()], [wanted], text(100), text(2, seed=5), torch.tensor([True, False]))
    assert found[False]["loss_classifier"].isfinite()
    changed = {key for key, value in found[True].items() if not torch.equal(value, found[False][key])}
    assert changed == {"loss_classifier"}
