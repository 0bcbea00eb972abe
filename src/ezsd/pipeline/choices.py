"""The settings of stage propose that a recipe leaves to be chosen with ``auto``."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any

from ezsd.data.samples import ImageSet
from ezsd.detector.proposal_network import ProposalNetwork
from ezsd.pipeline.context import RunContext
from ezsd.proposals.proposer import Proposer
from ezsd.recipe import DEFAULT_SIZE_POWER, ProposeConfig
from ezsd.run_metrics import ProposeMetrics, read_metrics_if_exist
from ezsd.selection.dense_reading import ReadingChoice, choose_dense_reading
from ezsd.selection.size_power import PowerChoice, choose_size_power
from ezsd.teacher import Teacher, load_teacher, text_embeddings
from ezsd.teacher.base import DEFAULT_READING, with_dense_reading
from ezsd.utils.files import digest


def with_choices(config: ProposeConfig, metrics: ProposeMetrics) -> ProposeConfig:
    """Return ``config`` with the choices of stage propose in the place of ``auto``; the defaults if it made none."""
    power = DEFAULT_SIZE_POWER if metrics.size_power is None else metrics.size_power
    made = {"dense_reading": metrics.dense_reading or DEFAULT_READING, "size_power": power}
    return config.model_copy(update={key: value for key, value in made.items() if getattr(config, key) == "auto"})


def chosen_config(context: RunContext) -> ProposeConfig:
    """Return the config of a run with the choices that its stage propose made; see :func:`with_choices`."""
    metrics = read_metrics_if_exist(context.folder.metrics("propose"), ProposeMetrics)
    return with_choices(context.recipe.propose, metrics)


@dataclass(frozen=True)
class Chooser:
    """Choose settings of stage propose by base boxes; see :mod:`ezsd.selection`.

    The raw teacher is loaded only if there is something to choose.

    Attributes:
        context: The run.
        images: The train images.
        rpn: The RPN of the stage, if it uses one.
    """

    context: RunContext
    images: ImageSet
    rpn: ProposalNetwork | None

    @cached_property
    def raw(self) -> Teacher:
        """The teacher before the adaptation."""
        return load_teacher(self.context.recipe.teacher, self.context.device)

    def choose(self) -> ProposeMetrics:
        """Return the dense reading and the size power, with what they were chosen by."""
        config = self.context.recipe.propose
        reading = self._reading(config)
        power = self._power(config.model_copy(update={"dense_reading": reading.reading}))
        tables: dict[str, Any] = {
            **({"reading_table": reading.table, "reading_seconds": round(reading.seconds, 1)} if reading.table else {}),
            **({"power_table": power.table, "power_seconds": round(power.seconds, 1)} if power.table else {}),
        }
        return ProposeMetrics(dense_reading=reading.reading, size_power=power.power, **tables)

    def _reading(self, config: ProposeConfig) -> ReadingChoice:
        if config.dense_reading != "auto":
            return ReadingChoice(config.dense_reading)
        if config.scoring not in ("dense", "regions"):
            return ReadingChoice(DEFAULT_READING)  # there is no dense pass
        context = self.context
        return choose_dense_reading(
            self.raw, self.images, context.split, context.recipe, context.folder.targets.choices, context.device
        )

    def _power(self, config: ProposeConfig) -> PowerChoice:
        if config.size_power != "auto":
            return PowerChoice(config.size_power)
        if config.scoring == "rpn" or config.ranking != "novel":
            return PowerChoice(DEFAULT_SIZE_POWER)  # the ranking does not use it
        context, recipe = self.context, self.context.recipe
        teacher = with_dense_reading(self.raw, config.dense_reading)
        text = text_embeddings(teacher, context.split.names, recipe.prompt)
        proposer = Proposer(teacher, text, len(context.split.base), config, context.device, self.rpn)
        weights = digest(context.folder.targets.rpn) if config.asks_rpn else ""
        path = context.folder.targets.choices / "size_power.json"
        return choose_size_power(proposer, self.images, context.split, recipe, path, weights)
