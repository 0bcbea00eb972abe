"""Training of the Pocket CLIP on single pictograms with their names, a small version of web images with captions.

The training follows CLIP (arXiv 2103.00020, figure 3): a batch of images and captions, with cross-entropy in both
directions. An image shows one pictogram on a smooth background, slightly rotated, resized and toned; its caption is
its name in one of a few prompts. The novel names of the split ``pocket`` are included, because CLIP has seen novel
objects with their names. Detection scenes are not included: no clutter, overlap, strong rotation, dim or tinted light
or strong noise.
"""

from __future__ import annotations

import logging
import math
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import open_clip
import torch
from PIL import Image
from torch import Tensor, nn
from torch.nn import functional as F

from ezsd._version import __version__
from ezsd.data.categories import load_split
from ezsd.pocket.dataset import SPLIT
from ezsd.pocket.pictograms import ATTRIBUTION, PICTOGRAMS, draw, named_pictograms
from ezsd.teacher.pocket import ARCHITECTURE, register_architecture
from ezsd.training.loop import Task, run_loop
from ezsd.utils.device import autocast, new_accelerator
from ezsd.utils.files import digest, write_json, write_tensors
from ezsd.utils.progress import track
from ezsd.utils.seeding import seeded

logger = logging.getLogger(__name__)

STEPS = 1500
BATCH = 128
LR = 2e-3
WEIGHT_DECAY = 0.05
WARMUP = 50
NOTHING = "background"  # the name of an image without a pictogram
EMPTY = 0.08  # fraction of images without a pictogram
COLLAGES = (1, 4)  # pictograms per side of an image; steps alternate between the values
COMMON = 3.0  # sampling weight of pictograms with COCO names; others have 1
PROMPTS = ("a photo of a {}", "{}", "a picture of a {}", "a drawing of a {}", "one {}")
SIDE = 64  # pixels
_TEST_ROUNDS = 4


class Variety(NamedTuple):
    """Ranges of the uniform distributions that a training image is drawn from."""

    size: tuple[float, float] = (0.6, 1.0)  # longer side of the pictogram / side of the image
    turn: float = 25.0  # maximum rotation in either direction, degrees
    shift: float = 0.08  # maximum shift / side of the image
    contrast: tuple[float, float] = (0.7, 1.1)
    gain: tuple[float, float] = (0.7, 1.1)
    tint: tuple[float, float] = (0.85, 1.1)  # factor per channel
    blur: tuple[float, float] = (0.0, 1.0)  # sigma, pixels
    noise: tuple[float, float] = (0.0, 0.02)  # standard deviation, pixel values 0..1


VARIETY = Variety()


class Album:
    """Pictograms with their names, plus an empty one, from which random training images are rendered.

    Args:
        pictograms: Pairs (OpenMoji file, name).

    Raises:
        MissingExtraError: The extra ``pocket`` is not installed.
    """

    def __init__(self, pictograms: list[tuple[str, str]]) -> None:
        self.names = [*dict.fromkeys(name for _, name in pictograms), NOTHING]
        drawn = []
        with track(len(pictograms), "Drawing pictograms") as advance:
            for code, _ in pictograms:
                drawn.append(_centered(draw(code)[0]))
                advance(1, "")
        self.stack = torch.stack([*drawn, torch.zeros_like(drawn[0])])  # [P, 4, SIDE, SIDE], premultiplied alpha
        place = {name: index for index, name in enumerate(self.names)}
        self.labels = torch.tensor([*(place[name] for _, name in pictograms), place[NOTHING]])
        shares = torch.tensor([COMMON if name in PICTOGRAMS else 1.0 for _, name in pictograms])
        empty = shares.sum() * EMPTY / (1 - EMPTY)
        self.shares = torch.cat([shares, empty[None]])  # sampling weights

    def batch(self, numbers: torch.Generator, count: int, collage: int = 1) -> tuple[Tensor, Tensor]:
        """Draw ``count`` pictograms; return their images, see :func:`rendered`, and their labels ``[count]``."""
        places = torch.multinomial(self.shares, count, replacement=True, generator=numbers)
        return rendered(self.stack[places], numbers, collage=collage), self.labels[places]


def _centered(image: Image.Image) -> Tensor:
    factor = SIDE / max(image.size)
    size = (max(1, round(image.width * factor)), max(1, round(image.height * factor)))
    canvas = Image.new("RGBA", (SIDE, SIDE))
    canvas.paste(image.resize(size, Image.Resampling.BILINEAR), ((SIDE - size[0]) // 2, (SIDE - size[1]) // 2))
    values = torch.from_numpy(np.asarray(canvas).copy()).permute(2, 0, 1).float() / 255
    return torch.cat([values[:3] * values[3:], values[3:]])


def rendered(stack: Tensor, numbers: torch.Generator, variety: Variety = VARIETY, collage: int = 1) -> Tensor:
    """Render images of pictograms with random size, rotation, flip and position, and random background and tone.

    Size, rotation, flip and position are drawn for each pictogram, background and tone for each image.

    Args:
        stack: Pictograms ``[n, 4, S, S]``, values 0..1, colors premultiplied by alpha.
        numbers: The random generator of all choices.
        variety: The ranges.
        collage: Pictograms per side of an image; n must be a multiple of its square.

    Returns:
        Images ``[n / collage**2, 3, S * collage, S * collage]``, values 0..1; pictograms row by row in the order of
        ``stack``.
    """
    placed = _placed(stack, numbers, variety)
    side = placed.shape[-1] * collage
    placed = placed.unflatten(0, (-1, collage, collage)).permute(0, 3, 1, 4, 2, 5).reshape(-1, 4, side, side)
    count = len(placed)

    def drawn(low: float, high: float, channels: int = 1) -> Tensor:
        return torch.rand(count, channels, 1, 1, generator=numbers) * (high - low) + low

    base = drawn(0.43, 0.96, 3)
    base = base.mean(1, keepdim=True) + 0.5 * (base - base.mean(1, keepdim=True))  # muted, as in pocket/scenes.py
    cells = base + 0.05 * torch.randn(count, 3, 4 * collage, 4 * collage, generator=numbers)
    pixels = placed[:, :3] + (1 - placed[:, 3:]) * F.interpolate(cells, (side, side), mode="bicubic")
    mean = pixels.mean((2, 3), keepdim=True)
    pixels = mean + drawn(*variety.contrast) * (pixels - mean)
    pixels = _blurred(pixels * drawn(*variety.gain) * drawn(*variety.tint, 3), drawn(*variety.blur).flatten())
    return (pixels + drawn(*variety.noise) * torch.randn(pixels.shape, generator=numbers)).clamp(0, 1)


def _placed(stack: Tensor, numbers: torch.Generator, variety: Variety) -> Tensor:
    """Apply a random affine transform to each pictogram: ``[n, 4, S, S]`` -> same shape."""
    count = len(stack)

    def drawn(low: float, high: float, *shape: int) -> Tensor:
        return torch.rand(count, *shape, generator=numbers) * (high - low) + low

    angle = drawn(-variety.turn, variety.turn) * math.pi / 180
    flip = (torch.rand(count, generator=numbers) < 0.5) * 2.0 - 1
    zoom = 1 / drawn(*variety.size)
    rows = torch.stack([torch.stack([angle.cos() * flip, -angle.sin()], 1) * zoom[:, None],
                        torch.stack([angle.sin() * flip, angle.cos()], 1) * zoom[:, None]], 1)  # fmt: skip
    moves = drawn(-2 * variety.shift, 2 * variety.shift, 2, 1)
    grid = F.affine_grid(torch.cat([rows, moves], 2), list(stack.shape), align_corners=False)
    return F.grid_sample(stack, grid, align_corners=False)


def _blurred(pixels: Tensor, sigma: Tensor) -> Tensor:
    """Apply a separable Gaussian blur with five taps and one sigma per image."""
    taps = torch.exp(-(torch.arange(-2, 3) ** 2) / (2 * sigma.clamp(min=0.2)[:, None] ** 2))
    taps = (taps / taps.sum(1, keepdim=True)).repeat_interleave(3, 0)
    flat = F.pad(pixels.flatten(0, 1)[None], (2, 2, 2, 2), mode="replicate")
    flat = F.conv2d(flat, taps[:, None, :, None], groups=len(taps))
    return F.conv2d(flat, taps[:, None, None, :], groups=len(taps)).view_as(pixels)


def train_pocket_teacher(out: Path, seed: int = 0, steps: int = STEPS, album: Album | None = None) -> dict[str, Any]:
    """Train the Pocket CLIP. An interrupted training resumes from its last checkpoint.

    Args:
        out: The weights file to write (.safetensors, fp16). A card with the same name (.json) records how the weights
            were made. Load them with ``teacher: open_clip:ezsd_pocket/OUT``.
        seed: The seed of weights, images and captions.
        steps: The number of training steps, each with ``BATCH`` images.
        album: The pictograms; default: all pictograms with a name.

    Returns:
        The content of the card.

    Raises:
        MissingExtraError: The extra ``pocket`` is not installed.
        ArtifactError: A file cannot be written, or the checkpoint next to ``out`` belongs to a different training.
    """
    album = album or Album(named_pictograms())
    register_architecture()
    torch.manual_seed(seed)
    model: Any = open_clip.create_model(ARCHITECTURE).to(memory_format=torch.channels_last).train()
    logger.info(f"Pocket CLIP: {len(album.labels)} pictograms of {len(album.names)} names, {steps} steps of {BATCH}.")
    checkpoints = out.with_name(f".{out.stem}.checkpoint")
    seconds = _learn(model, album, seed, steps, checkpoints)
    state = {key: value.half() if value.is_floating_point() else value for key, value in model.state_dict().items()}
    model.load_state_dict(state)
    figures = measure(model, album, seed)
    write_tensors(out, state)
    card = _card(model, album, seed, steps, seconds) | figures
    write_json(out.with_suffix(".json"), card)
    shutil.rmtree(checkpoints, ignore_errors=True)
    return card


def _learn(model: Any, album: Album, seed: int, steps: int, checkpoints: Path) -> float:
    """Train from the last checkpoint to the end; return the total seconds, including interrupted attempts."""
    accelerator = new_accelerator("fp32")  # autocast is used for the towers only; logits are float32
    optimizer = accelerator.prepare_optimizer(_optimizer(model), device_placement=False)
    tokens = open_clip.get_tokenizer(ARCHITECTURE)(
        [prompt.format(name) for name in album.names for prompt in PROMPTS]
    ).view(len(album.names), len(PROMPTS), -1)

    def losses(step: int) -> Iterator[Mapping[str, Tensor]]:
        numbers = seeded(seed, step)
        images, labels = album.batch(numbers, BATCH, COLLAGES[step % len(COLLAGES)])
        named, own = labels.unique(return_inverse=True)
        prompts = torch.randint(len(PROMPTS), (len(named),), generator=numbers)
        yield {"loss_contrastive": contrastive_loss(model, images, tokens[named, prompts], own)}

    @torch.no_grad()
    def limit_scale(steps: int) -> None:
        model.logit_scale.clamp_(max=math.log(100))

    task = Task(
        name="Pocket CLIP",
        parameters=list(model.parameters()),
        tensors=model.state_dict(),
        optimizer=optimizer,
        losses=losses,
        steps=steps,
        rate=lambda step: LR * _rate(step, steps),
        clip_norm=1.0,
        checkpoints=checkpoints,
        key=digest(*album.names, str(album.labels.tolist()), str([seed, steps, BATCH, LR, VARIETY])),
        after_step=limit_scale,
    )
    return run_loop(task, accelerator, seed).seconds


def contrastive_loss(model: Any, images: Tensor, tokens: Tensor, own: Tensor) -> Tensor:
    """Return the cross-entropy in both directions, image to text and text to image.

    Args:
        model: The CLIP model.
        images: Images ``[B, 3, S, S]``, values 0..1.
        tokens: Tokens of the captions ``[C, ...]``.
        own: Index ``[n]`` of the caption of each pictogram.
    """
    with autocast("cpu", "bf16"):
        image_embeddings = _embedded(model, images).float()
        texts = model.encode_text(tokens).float()
    logits = model.logit_scale.exp() * F.normalize(image_embeddings, dim=-1) @ F.normalize(texts, dim=-1).T
    others = own[:, None] != torch.arange(len(tokens))
    # A caption can have several images: the sum of their probabilities is maximized.
    of_texts = (logits.logsumexp(0) - logits.masked_fill(others, -torch.inf).logsumexp(0)).mean()
    return (F.cross_entropy(logits, own) + of_texts) / 2


def _embedded(model: Any, images: Tensor) -> Tensor:
    """Embed every cell of ``SIDE`` x ``SIDE`` pixels within its context: ``[n, D]``, row by row.

    A single pictogram is embedded in the same way as by open_clip. Cells of a collage are pooled from the feature map
    of the full image, as boxes are in stage propose, so that the map learns to separate neighboring objects.
    """
    visual = model.visual
    features = visual.trunk.forward_features(_normalized(model, images))
    parts = F.avg_pool2d(features, SIDE * features.shape[-1] // images.shape[-1])
    return visual.head(parts.permute(0, 2, 3, 1).flatten(0, 2))


def _normalized(model: Any, images: Tensor) -> Tensor:
    settings = open_clip.get_model_preprocess_cfg(model)
    mean, std = (torch.tensor(settings[key]).view(3, 1, 1) for key in ("mean", "std"))
    return ((images - mean) / std).contiguous(memory_format=torch.channels_last)


def _optimizer(model: nn.Module) -> torch.optim.Optimizer:
    matrices = [value for key, value in model.named_parameters() if value.ndim > 1 and "embedding" not in key]
    others = [value for key, value in model.named_parameters() if value.ndim <= 1 or "embedding" in key]
    groups = [{"params": matrices, "weight_decay": WEIGHT_DECAY}, {"params": others, "weight_decay": 0.0}]
    return torch.optim.AdamW(groups, lr=LR, betas=(0.9, 0.98))


def _rate(step: int, steps: int) -> float:
    """Return the factor on the learning rate: linear warmup, then cosine decay."""
    warmup = min(WARMUP, steps // 4)
    if step < warmup:
        return (step + 1) / warmup
    return 0.5 * (1 + math.cos(math.pi * (step - warmup) / max(1, steps - warmup)))


@torch.no_grad()
def measure(model: Any, album: Album, seed: int) -> dict[str, float | None]:
    """Measure the accuracy on new images of single pictograms, drawn from the training distribution.

    Returns:
        Accuracies (0..1). ``accuracy_all``: all pictograms, classified among all names. ``accuracy_base`` and
        ``accuracy_novel``: pictograms of the split ``pocket``, classified among its names; None if the album has no
        such pictogram.
    """
    model.eval()
    tokens = open_clip.get_tokenizer(ARCHITECTURE)([PROMPTS[0].format(name) for name in album.names])
    texts = F.normalize(model.encode_text(tokens), dim=-1)
    image_embeddings = []
    for test in range(_TEST_ROUNDS):
        images = torch.split(rendered(album.stack, seeded(seed, -1, test)), BATCH)
        image_embeddings += [F.normalize(model.encode_image(_normalized(model, part)), dim=-1) for part in images]
    cosines, labels = torch.cat(image_embeddings) @ texts.T, album.labels.repeat(_TEST_ROUNDS)
    split = load_split(SPLIT)
    base, novel = (torch.tensor([name in side for name in album.names]) for side in (split.base, split.novel))
    among = cosines.masked_fill(~(base | novel), -2)
    return {
        "accuracy_all": _share(cosines, labels, torch.ones_like(base)),
        "accuracy_base": _share(among, labels, base),
        "accuracy_novel": _share(among, labels, novel),
    }


def _share(cosines: Tensor, labels: Tensor, wanted: Tensor) -> float | None:
    chosen = wanted[labels]
    right = cosines[chosen].argmax(1) == labels[chosen]
    return round(float(right.float().mean()), 4) if len(right) else None


def _card(model: Any, album: Album, seed: int, steps: int, seconds: float) -> dict[str, Any]:
    return {
        "what": "Pocket CLIP: open_clip weights (fp16) that know OpenMoji pictograms by their names.",
        "command": f"ezsd pocket-teacher --out weights.safetensors --seed {seed}",
        "license": f"Derived from OpenMoji, CC BY-SA 4.0. {ATTRIBUTION}",
        "seed": seed,
        "steps": steps,
        "batch": BATCH,
        "pictograms": len(album.labels),
        "names": len(album.names),
        "image_parameters": sum(value.numel() for value in model.visual.parameters()),
        "parameters": sum(value.numel() for value in model.parameters()),
        "seconds": round(seconds),
        "threads": torch.get_num_threads(),
        "versions": {"ezsd": __version__, "torch": torch.__version__, "open_clip": open_clip.__version__},
    }
