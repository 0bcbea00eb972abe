"""Tests of recipes: validation messages, changes, shipped recipes and their documentation."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import yaml

from ezsd.errors import RecipeError
from ezsd.recipe import RENAMED_KEYS, Recipe, load_recipe, load_run_recipe, parse_recipe, recipe_keys, save_recipe
from ezsd.recipe_files import find_recipe, recipe_header, shipped_recipes

ROOT = Path(__file__).parents[1]
GOOD = """
split: {base: [cat], novel: [dog]}
teacher: offline
data:
  train: {images: a, annotations: a.json}
  val: {images: b, annotations: b.json}
"""


def _load(folder: Path, more: str = "", changes: tuple[str, ...] = ()) -> Recipe:
    path = folder / "recipe.yaml"
    path.write_text(GOOD + more)
    return load_recipe(path, changes)


def _problems(folder: Path, more: str = "", changes: tuple[str, ...] = ()) -> str:
    with pytest.raises(RecipeError) as caught:
        _load(folder, more, changes)
    return str(caught.value)


@pytest.mark.parametrize(
    "more, expected",
    [
        ("train: {epoch: 3}", "unknown key train.epoch. Did you mean train.epochs?"),
        ("color: red", "unknown key color. Remove it"),
        ("train: {epochs: true}", "train.epochs = True: expected a valid number"),
        ("train: {batch_size: true}", "train.batch_size = True: expected a valid integer"),
        ("train: {batch_size: 2.5}", "train.batch_size = 2.5: expected a valid integer"),
        ("train: {lr: '0.1'}", "train.lr = '0.1': expected a valid number"),
        ("train: {lr: .inf}", "train.lr = inf: expected a finite number"),
        ("adapt: {enabled: 1}", "adapt.enabled = 1: expected a valid boolean"),
        ("detector: {masks: 3}", "detector.masks = 3: expected 'auto' or expected a valid boolean"),
        ("detector: {image_size: [800, 400]}", "detector.image_size = [800, 400]: expected the short side first"),
        ("detector: {anchor_sides: [1, 2]}", "detector.anchor_sides = [1, 2]"),
        ("propose: {ratios: [1, -1]}", "propose.ratios.1 = -1: expected greater than 0"),
        ("propose: {scoring: rnp}", "propose.scoring = 'rnp': expected 'dense', 'regions', 'exhaustive' or 'rpn'"),
        ("propose: {rpn_epochs: 0}", "propose.rpn_epochs = 0: expected greater than 0"),
        ("prompt: an image", "prompt = 'an image': expected a text with {name}"),
        ("prompt: '{name} in {place}'", "no other braces"),
        ("train: fast", "train = 'fast'"),
    ],
)
def test_invalid_key_or_value_is_reported_with_the_expected_value(tmp_path: Path, more: str, expected: str) -> None:
    problems = _problems(tmp_path, more)
    assert expected in problems
    assert len(problems) < 300
    assert len(problems.splitlines()) == 1


def test_prompt_problem_does_not_print_the_other_keys(tmp_path: Path) -> None:
    assert "teacher" not in _problems(tmp_path, "prompt: an image")


def test_all_problems_are_reported_together(tmp_path: Path) -> None:
    problems = _problems(tmp_path, "train: {lr: -1, epoch: 3}\nseed: x", ("adapt.epochs", "propose.nms=2"))
    for key in ("train.lr", "train.epoch", "seed", "--set adapt.epochs", "propose.nms"):
        assert key in problems
    assert len(problems.splitlines()) == 5


def test_missing_keys_are_reported(tmp_path: Path) -> None:
    path = tmp_path / "recipe.yaml"
    path.write_text("split: coco_48_17\ndata: {train: {images: a}}")
    with pytest.raises(RecipeError) as caught:
        load_recipe(path)
    problems = str(caught.value)
    for key in ("teacher", "data.train.annotations", "data.val"):
        assert f"{key} is missing" in problems


@pytest.mark.parametrize("split", ["3", "{base: cat, novel: [dog]}", "{base: [on]}"])
def test_invalid_split_is_reported_without_type_names(tmp_path: Path, split: str) -> None:
    path = tmp_path / "recipe.yaml"
    path.write_text(GOOD.replace("{base: [cat], novel: [dog]}", split))
    with pytest.raises(RecipeError) as caught:
        load_recipe(path)
    assert "split" in str(caught.value)
    assert "dict[" not in str(caught.value)
    assert "tuple" not in str(caught.value).split(":")[1]


def test_scientific_notation_is_read_as_a_number(tmp_path: Path) -> None:
    recipe = _load(tmp_path, "train: {lr: 1e-4, epochs: 3, clip_norm: 1e+1}")
    assert (recipe.train.lr, recipe.train.epochs, recipe.train.clip_norm) == (1e-4, 3.0, 10.0)


def test_empty_section_has_its_defaults(tmp_path: Path) -> None:
    assert _load(tmp_path, "train:\n  # lr: 0.1\n").train == _load(tmp_path).train


def test_duplicate_key_is_rejected(tmp_path: Path) -> None:
    assert "train is given twice" in _problems(tmp_path, "train: {lr: 0.1}\ntrain: {epochs: 2}")


def test_set_changes_nested_new_and_list_values(tmp_path: Path) -> None:
    recipe = _load(
        tmp_path,
        "train: {lr: 0.1}\nadapt:",
        (
            "train.lr=1e-3",
            "propose.sides=[16, 32]",
            "data.train.limit=5",
            "prompt=a {name}",
            "adapt.epochs=2",
            "split={base: [a=b], novel: []}",
        ),
    )
    assert recipe.train.lr == 1e-3
    assert recipe.propose.sides == (16, 32)
    assert recipe.data.train.limit == 5
    assert recipe.prompt == "a {name}"
    assert recipe.adapt.epochs == 2
    assert recipe.split == {"base": ("a=b",), "novel": ()}


@pytest.mark.parametrize("change", ["train.lr", "=3", "train..lr=3", "train.lr=[1", "seed.a=3"])
def test_invalid_set_option_is_reported(tmp_path: Path, change: str) -> None:
    assert f"--set {change}" in _problems(tmp_path, "seed: 0", (change,))


@pytest.mark.parametrize("content", [b"", b"- a", b"a: [", b"\xff\xfe", None])
def test_invalid_file_is_reported_with_its_path(tmp_path: Path, content: bytes | None) -> None:
    path = tmp_path / "recipe.yaml"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(RecipeError, match=re.escape(str(path))):
        load_recipe(path)


def test_saved_recipe_loads_as_the_same_recipe(tmp_path: Path) -> None:
    recipe = _load(tmp_path, "train: {milestones: [0.5], lr: 1e-5}\nprompt: 'ein Bild: {name} für Ü'")
    save_recipe(recipe, tmp_path / "out.yaml", {"ezsd": "1.2", "torch": "2"})
    assert load_recipe(tmp_path / "out.yaml") == recipe
    assert (tmp_path / "out.yaml").read_text().startswith("# ezsd: 1.2\n# torch: 2\n")


def test_multiline_note_is_written_as_one_comment(tmp_path: Path) -> None:
    recipe = _load(tmp_path)
    save_recipe(recipe, tmp_path / "out.yaml", {"command": "a\nseed: 7"})
    assert load_recipe(tmp_path / "out.yaml") == recipe


def test_tilde_is_expanded_to_the_home_folder(tmp_path: Path) -> None:
    assert _load(tmp_path, changes=("data.train.images=~/x",)).data.train.images == Path.home() / "x"


@pytest.mark.parametrize("path", sorted((ROOT / "recipes").glob("*.yaml")), ids=lambda path: path.stem)
def test_shipped_recipe_loads_and_has_command_and_figure_in_its_header(path: Path) -> None:
    load_recipe(path)
    header = [line for line in path.read_text().splitlines() if line.startswith("#")]
    assert any(f"ezsd run {path.stem} --out " in line for line in header)
    assert any("AP50" in line for line in header)


def test_documented_keys_are_the_keys_of_a_recipe() -> None:
    documented = re.findall(r"^\| `([a-z0-9_.]+)` \|", (ROOT / "docs/recipes.md").read_text(), re.MULTILINE)
    assert documented == recipe_keys()


def test_documented_defaults_match_the_code() -> None:
    rows = re.findall(r"^\| `([a-z0-9_.]+)` \| (.+?) \|", (ROOT / "docs/recipes.md").read_text(), re.MULTILINE)
    images = {"images": "i", "annotations": "a"}
    recipe = parse_recipe({"split": "s", "teacher": "t", "data": {"train": images, "val": images}}, "test")
    plain = recipe.model_dump(mode="json")
    for key, shown in rows:
        value = plain
        for part in key.split("."):
            value = value[part]
        if shown != "required":
            assert yaml.safe_load(shown.strip("`")) == _rounded(value), key


def _rounded(value: object) -> object:
    if isinstance(value, list):
        return [_rounded(entry) for entry in value]
    return float(f"{value:.4g}") if isinstance(value, float) else value


@pytest.mark.parametrize("old, new", RENAMED_KEYS.items())
def test_renamed_key_is_an_error_with_the_new_name(old: str, new: str, tmp_path: Path) -> None:
    path = tmp_path / "recipe.yaml"
    section, _, key = old.partition(".")
    path.write_text(
        yaml.safe_dump({**yaml.safe_load((ROOT / "recipes" / "smoke.yaml").read_text()), section: {key: 5}})
    )
    with pytest.raises(RecipeError, match=f"{old} is now {new}"):
        load_recipe(path)
    assert getattr(getattr(load_run_recipe(path), section), new.partition(".")[2]) == 5


def test_recipes_are_found_by_name_and_by_path(tmp_path: Path) -> None:
    assert find_recipe("smoke") == shipped_recipes()["smoke"] == ROOT / "recipes" / "smoke.yaml"
    assert load_recipe("smoke") == load_recipe(ROOT / "recipes" / "smoke.yaml")
    assert find_recipe(tmp_path / "smoke") == tmp_path / "smoke"


def test_unknown_recipe_name_suggests_the_closest_and_lists_all() -> None:
    with pytest.raises(RecipeError, match='neither a file nor a shipped recipe. Did you mean "smoke"?') as raised:
        load_recipe("smok")
    assert all(name in str(raised.value) for name in shipped_recipes())


def test_recipe_header_has_command_and_figures() -> None:
    for name, path in shipped_recipes().items():
        header = recipe_header(path)
        assert f"ezsd run {name} --out " in header and "AP50" in header and not header.startswith("#")
