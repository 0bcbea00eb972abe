"""The weights that a training ends with: the last ones, their moving averages, or the best ones by validation."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from contextlib import nullcontext

import torch
from torch import Tensor, nn

from ezsd.recipe import TrainConfig
from ezsd.run_folder import TrainingFolder
from ezsd.training.averages import WeightAverages
from ezsd.utils.device import process_state
from ezsd.utils.files import read_tensors, write_tensors, write_text

Measure = Callable[[nn.Module], float]


class FinalWeights:
    """Averages the weights of a model, validates them every ``train.validate_steps`` steps and keeps the best ones.

    Args:
        model: The model, on its device.
        config: The recipe's section ``train``.
        steps: Total number of steps of the training. The last step is validated too.
        folder: The folder of the training; gets the results of validations and the best weights.
        measure: Returns the AP50 of base names of a model in evaluation mode, the same in all processes; None = no
            validation.

    Attributes:
        tensors: Averages and results, to be saved in checkpoints and restored in place.
    """

    def __init__(
        self, model: nn.Module, config: TrainConfig, steps: int, folder: TrainingFolder, measure: Measure | None = None
    ) -> None:
        self.model, self.measure, self.patience, self.folder = model, measure, config.patience, folder
        self.tensors: dict[str, Tensor] = {}
        self._averages = WeightAverages(model, config.ema) if config.ema else None
        if self._averages is not None:
            self.tensors |= self._averages.tensors
        self._due = [*range(config.validate_steps, steps, config.validate_steps), steps] if measure else []
        self._results = torch.full((len(self._due),), math.nan, dtype=torch.float64)
        if measure:
            self.tensors["validation.results"] = self._results

    @property
    def results(self) -> list[tuple[int, float]]:
        """Pairs (step, AP50 of base names) of the validations so far."""
        pairs = zip(self._due, self._results.tolist(), strict=True)
        return [(step, result) for step, result in pairs if not math.isnan(result)]

    @property
    def best_step(self) -> int | None:
        """The step of the best weights (of equal results, the last one); None before the first validation."""
        return max(((result, step) for step, result in self.results), default=(0.0, None))[1]

    def after_step(self, steps: int) -> None:
        """Update the averages, and validate the model if a validation is due, after ``steps`` completed steps."""
        if self._averages is not None:
            self._averages.update(steps)
        if self.measure is not None and steps in self._due:
            with nullcontext() if self._averages is None else self._averages.applied():
                self._validate(steps, self.measure)

    def is_finished(self) -> bool:
        """Return whether the last ``train.patience`` validations were worse than the best one before them."""
        best = self.best_step
        if best is None or not self.patience:
            return False
        return sum(step > best for step, _ in self.results) >= self.patience

    def apply(self) -> None:
        """Set the weights of the model."""
        if self.best_step is not None:
            self.model.load_state_dict(read_tensors(self.folder.best)[0])
        elif self._averages is not None:
            self._averages.apply()

    def _validate(self, steps: int, measure: Measure) -> None:
        self.model.eval()
        self._results[self._due.index(steps)] = measure(self.model)
        self.model.train()
        if process_state().is_main_process:
            if self.best_step == steps:
                write_tensors(self.folder.best, self.model.state_dict(), {"step": str(steps)})
            lines = (json.dumps({"step": step, "ap50_base": round(result, 4)}) for step, result in self.results)
            write_text(self.folder.validation, "".join(f"{line}\n" for line in lines))
