"""The model card of a run: everything in it is read from the run folder."""

from __future__ import annotations

from importlib.resources import files
from pathlib import Path

import jinja2
import yaml

from ezsd._version import __version__
from ezsd.detector.model_folder import read_config
from ezsd.recipe import Recipe, load_run_recipe
from ezsd.run_folder import RunFolder
from ezsd.run_metrics import EvaluateMetrics, TrainMetrics, read_metrics_if_exist
from ezsd.teacher.origin import foreign
from ezsd.utils.files import read_json_if_exists
from ezsd.utils.format import byte_size, duration

_TEACHER_TERMS = {
    "offline": "weights under Apache-2.0, trained on ImageNet, whose own terms are for research",
    "pocket": "weights CC BY-SA 4.0 (OpenMoji)",
    "open_clip": "see the authors of the weights; those of OpenAI are under the MIT license",
}
_SETTINGS = {
    "strict": "the novel names were not known while training",
    "named": "the novel names were known while training, but no boxes of them",
    "few_shot": "the novel names were known while training, and a few boxes of some of them",
    "open": "other data than that below was used, which may contain novel objects",
}

_OF_TOWER = ("timm_model_name", "layers", "width", "patch_size", "image_size")


def model_card(folder: RunFolder, repo_id: str, license_name: str) -> str:
    """Write the model card of a run, in Markdown with the metadata of the hub.

    Args:
        folder: A finished run; a run without stage evaluate gives a card that says "not measured".
        repo_id: "org/name".
        license_name: The license of the weights as the hub names it, such as "apache-2.0" or "other".

    Raises:
        ArtifactError: The run has no model, or a file is damaged.
        RecipeError: The recipe of the run is damaged.
    """
    config, recipe = read_config(folder.model), load_run_recipe(folder.recipe)
    metrics = read_metrics_if_exist(folder.metrics("evaluate"), EvaluateMetrics)
    published = config.published()
    about = {
        "library_name": "ezsd",
        "pipeline_tag": "zero-shot-object-detection",
        "license": license_name,
        "tags": ["object-detection", "zero-shot", "open-vocabulary"],
    }
    return _template().render(
        about=yaml.safe_dump(about, sort_keys=False).strip(),
        repo_id=repo_id,
        config=published,
        recipe=recipe,
        setting=_SETTINGS.get(config.setting, config.setting),
        few_shot=recipe.split.get("few_shot", ()) if isinstance(recipe.split, dict) else (),
        trained=read_metrics_if_exist(folder.metrics("train"), TrainMetrics),
        metrics=metrics,
        foreign=foreign(published.teacher),
        tower=_image_tower(config.teacher),
        teacher_terms=_teacher_terms(recipe),
        environment=read_json_if_exists(folder.done("train")).get("environment", {}),
        version=__version__,
    )


def _teacher_terms(recipe: Recipe) -> str:
    return _TEACHER_TERMS.get(recipe.teacher.partition(":")[0], "see its authors")


def _image_tower(teacher: str) -> str:
    """Describe the image tower of a teacher in a folder of this machine, which no name stands for."""
    kind, _, place = teacher.partition(":")
    if kind != "local-dir":
        return ""
    config = read_json_if_exists(Path(place) / "open_clip_config.json")
    vision = config.get("model_cfg", {}).get("vision_cfg", {})
    return ", ".join(f"{key} {vision[key]}" for key in _OF_TOWER if key in vision)


def _template() -> jinja2.Template:
    environment = jinja2.Environment(undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    environment.filters["number"] = lambda value: "not measured" if value is None else f"{value:.1f}"
    environment.filters["count"] = lambda value: "not measured" if value is None else f"{value:,}"
    environment.filters |= {"duration": duration, "byte_size": byte_size}
    environment.filters["share"] = lambda value: "not measured" if value is None else f"{100 * value:.1f} %"
    return environment.from_string((files("ezsd.hub") / "card.md.j2").read_text(encoding="utf-8"))
