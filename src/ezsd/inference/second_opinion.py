"""A detector whose scores take the teacher's reading of each detection into account."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor, nn

from ezsd.detector.detections import Detections, best_phrases
from ezsd.detector.rcnn import Rcnn
from ezsd.teacher import Teacher
from ezsd.teacher.encode import encode_regions
from ezsd.utils.device import autocast

Reading = Literal["dense", "crops"]
MOST_CROPS = 100  # per image; later detections keep their order behind them
_SAME = 0.999  # cosine of a name's text embedding with itself
_CROP_BATCH = 256


class SecondOpinion(nn.Module):
    """A detector with scores ``detector ** (1 - power) * teacher ** power``.

    The teacher's probability is that of the detected name among the vocabulary, on the box of the detection. It is used
    in place of an :class:`Rcnn` for inference.

    Args:
        model: The detector.
        teacher: Its teacher, adapted, on the device of the detector.
        reading: ``dense``, from the features of the whole image, or ``crops``, one teacher pass for each of the best
            100 detections.
        powers: The powers of base names and of all other names.
        base: [B, D], the text embeddings of the base names.
        sides: Long sides (pixels) of the whole image as input of the teacher, for reading ``dense``.
        precision: fp32, bf16 or fp16, of the teacher.
    """

    def __init__(
        self,
        model: Rcnn,
        teacher: Teacher,
        reading: Reading,
        powers: tuple[float, float],
        base: Tensor,
        sides: Sequence[int],
        precision: str = "fp32",
    ) -> None:
        super().__init__()
        self.model = model
        self.teacher = teacher
        self.reading = reading
        self.powers = powers
        self.base = base
        self.sides = sides
        self.precision = precision

    @property
    def image_size(self) -> tuple[int, int]:
        """Short side and maximum long side of resized images."""
        return self.model.image_size

    @torch.inference_mode()
    def detect(
        self, images: Sequence[Tensor], text_embeddings: Tensor, owners: Tensor | None = None
    ) -> list[Detections]:
        """Detect the objects of a vocabulary; see :meth:`ezsd.detector.rcnn.Rcnn.detect`."""
        found = self.model.detect(images, text_embeddings, owners)
        if owners is None:
            owners = torch.arange(len(text_embeddings), device=text_embeddings.device)
        is_base = (text_embeddings @ self.base.to(text_embeddings).T > _SAME).any(dim=1)
        bases = owners[is_base]  # a name is a base name if one of its phrases is
        powers = text_embeddings.new_full((int(owners.max()) + 1,), self.powers[1])
        powers[bases] = self.powers[0]
        return [
            self._reordered(detections, image, (text_embeddings, owners), powers)
            for detections, image in zip(found, images, strict=True)
        ]

    def _reordered(
        self, found: Detections, image: Tensor, vocabulary: tuple[Tensor, Tensor], powers: Tensor
    ) -> Detections:
        if not len(found.boxes):
            return found
        embeddings = self._embed(image, found.boxes)
        count = len(embeddings)
        text, owners = vocabulary
        cosines = embeddings @ text.T
        best, _ = best_phrases(torch.cat([torch.zeros_like(cosines[:, :1]), cosines], dim=1), owners)
        probabilities = (self.teacher.logit_scale * best[:, 1:]).softmax(dim=1)
        labels = found.labels[:count]
        said = probabilities.gather(1, labels[:, None])[:, 0]
        scores = found.scores[:count] ** (1 - powers[labels]) * said ** powers[labels]
        rest = found.scores[count:] * (scores.min() / found.scores[count - 1]).clamp(max=1)
        scores, order = torch.cat([scores, rest]).sort(descending=True, stable=True)
        masks = None if found.masks is None else found.masks[order]
        return Detections(found.boxes[order], found.labels[order], scores, masks)

    def _embed(self, image: Tensor, boxes: Tensor) -> Tensor:
        """Return the teacher's embeddings [n, D] of the first n boxes."""
        device = image.device.type
        if self.reading == "dense":
            pixels = image.float().div_(255) if image.dtype == torch.uint8 else image
            with autocast(device, self.precision):
                return self.teacher.dense_embeddings(pixels, boxes, self.sides).float()
        parts = encode_regions(self.teacher, [(image, boxes[:MOST_CROPS])], _CROP_BATCH, device, self.precision)
        return next(parts).to(boxes)
