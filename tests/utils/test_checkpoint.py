from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from ezsd.errors import ArtifactError
from ezsd.utils import checkpoint
from ezsd.utils.checkpoint import load_latest, save_checkpoint
from ezsd.utils.seeding import seeded

OPTIMIZERS = {
    "sgd": lambda parameters: torch.optim.SGD(parameters, lr=0.1, momentum=0.9),
    "plain sgd": lambda parameters: torch.optim.SGD(parameters, lr=0.1),
    "adamw": lambda parameters: torch.optim.AdamW(parameters, lr=0.1),
}


def _model(width: int = 3) -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, width), nn.BatchNorm1d(width), nn.Linear(width, 1))


def _steps(model: nn.Module, optimizer: torch.optim.Optimizer, first: int, last: int) -> None:
    for step in range(first, last):
        optimizer.zero_grad()
        model(torch.randn(8, 4, generator=seeded(7, step))).square().mean().backward()
        optimizer.step()


def _tensors(model: nn.Module) -> dict[str, Tensor]:
    return model.state_dict()


@pytest.mark.parametrize("kind", OPTIMIZERS)
def test_resumed_training_gives_bit_identical_weights(tmp_path: Path, kind: str) -> None:
    uninterrupted = _model()
    _steps(uninterrupted, OPTIMIZERS[kind](uninterrupted.parameters()), 0, 6)
    interrupted = _model()
    optimizer = OPTIMIZERS[kind](interrupted.parameters())
    _steps(interrupted, optimizer, 0, 3)
    save_checkpoint(tmp_path, 3, _tensors(interrupted), optimizer, {"loss": 0.5})

    resumed = _model()
    optimizer = OPTIMIZERS[kind](resumed.parameters())
    assert load_latest(tmp_path, _tensors(resumed), optimizer) == (3, {"loss": 0.5})
    _steps(resumed, optimizer, 3, 6)
    for name, tensor in _tensors(uninterrupted).items():
        assert torch.equal(tensor, _tensors(resumed)[name]), name


def test_optimizer_prepared_by_accelerate_is_restored(tmp_path: Path) -> None:
    from accelerate import Accelerator

    model = _model()
    model, optimizer = Accelerator(cpu=True).prepare(model, torch.optim.AdamW(model.parameters(), lr=0.1))
    _steps(model, optimizer, 0, 2)
    save_checkpoint(tmp_path, 2, _tensors(model), optimizer, {})
    other = _model()
    other_optimizer = torch.optim.AdamW(other.parameters(), lr=0.3)
    assert load_latest(tmp_path, _tensors(other), other_optimizer) is not None
    assert other_optimizer.param_groups[0]["lr"] == 0.1
    _steps(model, optimizer, 2, 3)
    _steps(other, other_optimizer, 2, 3)
    assert torch.equal(model[0].weight, other[0].weight)


def test_only_the_latest_checkpoint_is_kept(tmp_path: Path) -> None:
    model = _model()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    assert load_latest(tmp_path / "nothing", _tensors(model), optimizer) is None
    for step in (500, 1000):
        save_checkpoint(tmp_path, step, _tensors(model), optimizer, {})
    assert [path.name for path in tmp_path.iterdir()] == ["step-001000"]


def test_failed_write_keeps_the_older_checkpoint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = _model()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    save_checkpoint(tmp_path, 1, _tensors(model), optimizer, {})

    def full(path: Path, value: object) -> None:
        raise ArtifactError(f"Cannot write {path}: no space left.")

    monkeypatch.setattr(checkpoint, "write_checked_json", full)
    with pytest.raises(ArtifactError, match="no space left"):
        save_checkpoint(tmp_path, 2, _tensors(model), optimizer, {})
    assert [path.name for path in tmp_path.iterdir()] == ["step-000001"]


def test_checkpoint_of_another_shape_raises_with_file_tensor_shapes_and_advice(tmp_path: Path) -> None:
    model = _model()
    save_checkpoint(tmp_path, 1, _tensors(model), torch.optim.SGD(model.parameters(), lr=0.1), {})
    wider = _model(5)
    before = wider[0].weight.clone()
    with pytest.raises(ArtifactError) as caught:
        load_latest(tmp_path, _tensors(wider), torch.optim.SGD(wider.parameters(), lr=0.1))
    message = str(caught.value)
    for part in ("step-000001/tensors.safetensors", "0.weight", "[3, 4]", "[5, 4]", "--overwrite"):
        assert part in message
    assert torch.equal(wider[0].weight, before)


def test_checkpoint_with_other_tensors_or_another_optimizer_raises(tmp_path: Path) -> None:
    model = _model()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    save_checkpoint(tmp_path, 1, _tensors(model), optimizer, {})
    with pytest.raises(ArtifactError, match="only this run has tensor new"):
        load_latest(tmp_path, {**_tensors(model), "new": torch.zeros(1)}, optimizer)
    with pytest.raises(ArtifactError, match="groups of"):
        load_latest(tmp_path, _tensors(model), torch.optim.SGD([model[0].weight], lr=0.1))


def test_damaged_checkpoint_raises_with_the_file_name(tmp_path: Path) -> None:
    model = _model()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    save_checkpoint(tmp_path, 1, _tensors(model), optimizer, {})
    (tmp_path / "step-000001" / "tensors.safetensors").write_bytes(b"damaged")
    with pytest.raises(ArtifactError, match="tensors.safetensors cannot be read"):
        load_latest(tmp_path, _tensors(model), optimizer)


def test_seeded_numbers_depend_on_the_seed_and_every_key() -> None:
    def draw(*keys: int) -> float:
        return torch.rand(1, generator=seeded(*keys)).item()

    assert draw(0, 1, 2) == draw(0, 1, 2)
    assert len({draw(0), draw(1), draw(0, 0), draw(0, 1), draw(1, 0), draw(0, 0, 1)}) == 6


@pytest.mark.parametrize("name", ["tensors.safetensors", "checkpoint.json"])
@pytest.mark.parametrize("damage", ["a changed byte", "half of it"])
def test_damaged_checkpoint_is_named_and_refused(tmp_path: Path, name: str, damage: str) -> None:
    model = _model()
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.1)
    _steps(model, optimizer, 0, 2)
    save_checkpoint(tmp_path, 2, _tensors(model), optimizer, {})
    path = tmp_path / "step-000002" / name
    content = path.read_bytes()
    if damage == "half of it":
        path.write_bytes(content[: len(content) // 2])
    else:
        place = content.index(b'"step"') + 1 if path.suffix == ".json" else len(content) - 2
        path.write_bytes(content[:place] + bytes([content[place] ^ 1]) + content[place + 1 :])
    with pytest.raises(ArtifactError, match=name):
        load_latest(tmp_path, _tensors(model), optimizer)
