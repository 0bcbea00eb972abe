"""Images with squares of known colors, for choices by base names."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tiny_teacher import COLORS

IMAGES = 15


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """Images with a square of each of three colors; the annotations are ``instances.json``."""
    numbers = np.random.default_rng(0)
    folder, annotations, images = tmp_path / "data", [], []
    folder.mkdir()
    for place in range(IMAGES):
        pixels = numbers.integers(90, 150, (32, 96, 3), dtype=np.uint8)
        for slot in range(3):
            label = (place + 2 * slot) % 6
            pixels[4:28, 32 * slot + 4 : 32 * slot + 28] = list(COLORS.values())[label]
            ids = {"id": 3 * place + slot + 1, "image_id": place + 1, "category_id": label + 1}
            annotations.append({**ids, "bbox": [32 * slot + 4, 4, 24, 24], "area": 576, "iscrowd": 0})
        Image.fromarray(pixels).save(folder / f"{place}.png")
        images.append({"id": place + 1, "file_name": f"{place}.png", "width": 96, "height": 32})
    categories = [{"id": key, "name": name} for key, name in enumerate(COLORS, start=1)]
    content = {"images": images, "annotations": annotations, "categories": categories}
    (folder / "instances.json").write_text(json.dumps(content))
    return folder
