"""Which names without boxes a region is classified against."""

from __future__ import annotations

import torch

from ezsd.detector.roi_heads import RoiSamples, TrainingNames, contrasted_names


def test_base_objects_and_background_on_them_have_rivals_and_background_has_negatives() -> None:
    base = torch.tensor([[0.0, 0.0, 10.0, 10.0]])
    boxes = torch.tensor([[0.0, 0.0, 10.0, 9.0], [0.0, 0.0, 10.0, 3.0], [0.0, 0.0, 10.0, 1.0], [30.0, 0.0, 40.0, 9.0]])
    labels = torch.tensor([1, 0, 0, 0])
    samples = RoiSamples([boxes, boxes[3:]], [torch.zeros(4).long(), torch.zeros(1).long()],
                         [labels, torch.zeros(1).long()], [boxes, boxes[3:]], [boxes, boxes[3:]])  # fmt: skip
    targets = [{"boxes": base}, {"boxes": torch.zeros(0, 4)}]
    negatives, rivals = torch.tensor([True, False, False]), torch.tensor([False, True, False])
    names = TrainingNames(torch.zeros(1, 4), torch.zeros(3, 4), negatives, rivals)
    assert contrasted_names(samples, targets, names).tolist() == [
        [False, True, False], [True, True, False], [True, False, False], [True, False, False], [True, False, False],
    ]  # fmt: skip
