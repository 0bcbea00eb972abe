"""The proposal network: the same regions as the first stage of the detector, in pixels of the image."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from torchvision.ops import box_iou

from ezsd.detector.proposal_network import ProposalNetwork, build_proposal_network
from ezsd.detector.rcnn import batch_images, build_detector
from ezsd.recipe import DetectorConfig

SETTINGS = DetectorConfig(
    backbone="tf_efficientnet_lite0", pretrained=False, image_size=(96, 128), fpn_channels=16,
    anchor_sides=(16, 24, 32, 48, 96), rpn_proposals=50, head_convs=1, head_channels=16, head_features=32,
)  # fmt: skip


@pytest.fixture
def network() -> ProposalNetwork:
    torch.manual_seed(0)
    made = build_proposal_network(SETTINGS, pretrained=False)
    for parameter in made.rpn.head.parameters():
        torch.nn.init.normal_(parameter, std=0.05)  # an untrained head gives almost equal scores everywhere
    return made.eval()


def _image(height: int = 96, width: int = 128) -> Tensor:
    return torch.randint(0, 255, (3, height, width), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))


def test_regions_equal_the_first_stage_of_the_detector_and_have_scores(network: ProposalNetwork) -> None:
    detector = build_detector(SETTINGS, 16, False, pretrained=False).eval()
    detector.load_state_dict(network.state_dict(), strict=False)
    images = batch_images([_image()])
    with torch.no_grad():
        expected = detector.rpn(images, detector.backbone(images.tensors))[0][0]
    boxes, scores = network.propose(_image())
    large = ((expected[:, 2:] - expected[:, :2]) >= 1).all(1)
    assert len(boxes) > 20 and torch.allclose(boxes, expected[large])
    assert torch.equal(scores, scores.sort(descending=True).values)
    assert float(scores.max()) - float(scores.min()) > 0.01 and 0 <= float(scores.min()) <= float(scores.max()) <= 1


def test_regions_are_inside_the_image_in_its_pixels(network: ProposalNetwork) -> None:
    small = _image()
    large = F.interpolate(small[None].float(), scale_factor=3, mode="nearest")[0].to(torch.uint8)
    boxes, _ = network.propose(large)
    assert (boxes >= 0).all() and (boxes <= torch.tensor([384, 288, 384, 288])).all()
    assert float(boxes[:, 2].max()) > 300
    narrow = network.propose(_image(40, 190))[0]
    assert len(narrow) and float(narrow[:, 3].max()) <= 40 < 100 < float(narrow[:, 2].max()) <= 190


def test_regions_smaller_than_a_pixel_are_dropped(network: ProposalNetwork) -> None:
    boxes, scores = network.propose(_image(6, 8))  # upscaled by 16
    assert 0 < len(boxes) == len(scores) < 50
    assert ((boxes[:, 2:] - boxes[:, :2]) >= 1).all()


def test_trained_network_finds_the_training_boxes(network: ProposalNetwork) -> None:
    boxes, nothing = torch.tensor([[10.0, 12, 42, 44], [70, 40, 118, 88]]), torch.zeros(0, 4)
    image = torch.full((3, 96, 128), 60, dtype=torch.uint8)
    for x1, y1, x2, y2 in boxes.int().tolist():
        image[:, y1:y2, x1:x2] = 230
    target = {"boxes": boxes, "labels": torch.ones(2).long(), "crowd_boxes": nothing, "ignored_boxes": nothing}
    optimizer = torch.optim.Adam(network.parameters(), lr=3e-3)
    network.train()
    for _ in range(150):  # enough for any initialization; 40 steps are not
        optimizer.zero_grad()
        torch.stack(list(network([image], [target]).values())).sum().backward()
        optimizer.step()
    found, _ = network.eval().propose(image)
    assert (box_iou(boxes, found[:5]).amax(1) > 0.5).all()
