"""Tests of the page in a real browser. Without a Chromium they are skipped, unless EZSD_TEST_BROWSER names one."""

from __future__ import annotations

import json
import os
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from playwright import sync_api

from ezsd.data.categories import split_names
from ezsd.deploy.service.limits import Limits
from service import thread

expect = sync_api.expect
_OPTIONS = ["--no-sandbox", "--use-fake-device-for-media-stream", "--use-fake-ui-for-media-stream"]


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    path = os.environ.get("EZSD_TEST_BROWSER") or shutil.which("chromium") or shutil.which("google-chrome")
    if path is None:
        pytest.skip("no Chromium; install one (Debian: apt-get install chromium) or set EZSD_TEST_BROWSER to its path")
    with sync_api.sync_playwright() as playwright:
        opened = playwright.chromium.launch(executable_path=path, args=_OPTIONS)
        yield opened
        opened.close()


@pytest.fixture(scope="module")
def url(model: Path) -> Iterator[str]:
    with thread(model, limits=Limits(names=6, upload_mb=1)) as address:
        yield address


class Visit:
    """A page that is open; ``requests`` has the method and URL of everything that it asked for."""

    def __init__(self, browser: Any, url: str, **options: Any) -> None:
        self.context = browser.new_context(accept_downloads=True, **options)
        self.context.set_default_timeout(60_000)
        self.context.grant_permissions(["camera"])
        self.page = self.context.new_page()
        self.requests: list[tuple[str, str]] = []
        self.errors: list[str] = []
        self.page.on("request", lambda request: self.requests.append((request.method, request.url)))
        self.page.on("pageerror", lambda error: self.errors.append(str(error)))
        self.page.goto(url)

    def detections(self) -> int:
        return sum(method == "POST" for method, _ in self.requests)

    def show(self, *files: Path) -> None:
        self.page.set_input_files("#files", [str(file) for file in files])
        expect(self.page.locator("#status")).to_contain_text("object")

    def boxes(self) -> int:
        return int(self.page.locator("#boxes > .box").count())

    def threshold(self, value: float) -> None:
        self.page.locator("#threshold").fill(str(value))


@pytest.fixture
def visit(browser: Any, url: str) -> Iterator[Visit]:
    expect.set_options(timeout=60_000)
    opened = Visit(browser, url)
    yield opened
    opened.context.close()
    assert opened.errors == []
    assert all(address.startswith((url, f"blob:{url}")) for _, address in opened.requests)  # nothing leaves the host


def test_an_image_is_detected_at_once_with_the_colors_of_base_and_novel(visit: Visit, image_files: list[Path]) -> None:
    visit.show(image_files[0])
    assert visit.detections() == 1
    visit.threshold(0.05)
    assert visit.boxes() > 0
    name = {"base": "circle", "novel": "triangle"}
    for kind in name:
        expect(visit.page.locator(f"#names .{kind}", has_text=name[kind])).to_have_count(1)
    shown = visit.page.locator("#boxes .box").first
    assert shown.get_attribute("class").split()[1] in ("base", "novel")
    place, image = shown.bounding_box(), visit.page.locator("#image").bounding_box()
    assert place["x"] >= image["x"] - 3 and place["x"] + place["width"] <= image["x"] + image["width"] + 3


def test_the_slider_filters_without_a_request(visit: Visit, image_files: list[Path]) -> None:
    visit.show(image_files[0])
    visit.threshold(0.05)
    many = visit.boxes()
    scores = [float(text) for text in visit.page.locator("#found i").all_text_contents()]
    middle = sorted(scores)[len(scores) // 2] + 0.001
    visit.threshold(round(middle, 2))
    assert visit.boxes() == sum(score >= round(middle, 2) for score in scores) or 0 < visit.boxes() < many
    visit.threshold(1)
    assert visit.boxes() == 0
    expect(visit.page.locator("#nothing")).to_have_text("Nothing at this score.")
    assert visit.detections() == 1


def test_calibrated_scores_of_each_name_are_shown_until_the_slider_is_moved(
    browser: Any, model: Path, image_files: list[Path], tmp_path: Path
) -> None:
    least = {"circle": 0.27, "square": 0.25, "bar": 0.9, "triangle": 0.02}
    shutil.copytree(model, tmp_path / "model")
    (tmp_path / "model" / "thresholds.json").write_text(json.dumps({"other": 0.2, "names": least}))

    def rows(visit: Visit) -> list[tuple[str, float]]:
        names = visit.page.locator("#found b").all_text_contents()
        return list(zip(names, map(float, visit.page.locator("#found i").all_text_contents()), strict=True))

    with thread(tmp_path / "model") as url:
        visit = Visit(browser, url)
        page = visit.page
        with page.expect_response("**/v1/detect") as answer:
            visit.show(image_files[0])
        found = answer.value.json()
        assert found["threshold"] == 0.02  # as low as anything that can be shown
        expect(page.locator("#names li", has_text="bar")).to_contain_text("0.90")
        expect(page.locator("#threshold-value")).to_have_text("0.02 to 0.90")
        expect(page.locator("#threshold-help")).to_contain_text("Calibrated for each name")
        objects = [[entry, *entry.get("other_names", [])] for entry in found["images"][0]["detections"]]
        passing = [[each for each in names if each["score"] >= least[each["name"]]] for names in objects]
        expected = sorted((names[0] for names in passing if names), key=lambda each: -each["score"])
        assert rows(visit) == [(each["name"], pytest.approx(each["score"], abs=0.006)) for each in expected]
        assert {"circle", "triangle"} <= {each["name"] for each in expected}
        with page.expect_download() as download:
            page.click("#save-json")
        saved = json.loads(download.value.path().read_text())
        assert saved["threshold"] is None and len(saved["images"][0]["detections"]) == len(expected)
        visit.threshold(0.24)
        expect(page.locator("#threshold-value")).to_have_text("0.24")
        expect(page.locator("#threshold-help")).to_have_text("One minimum for all names.")
        assert len(rows(visit)) == sum(names[0]["score"] >= 0.24 for names in objects) != len(expected)
        page.click("#calibrated")
        expect(page.locator("#threshold-value")).to_have_text("0.02 to 0.90")
        assert len(rows(visit)) == len(expected) and visit.detections() == 1
        assert visit.errors == []
        visit.context.close()


def test_a_file_with_fixed_names_offers_no_others(browser: Any, exported: Path, image_files: list[Path]) -> None:
    with thread(exported / "baked.onnx") as url:
        visit = Visit(browser, url)
        page, names = visit.page, visit.page.locator("#names li span")
        expect(names).to_have_text(["circle", "bar", "cone, orange"])
        expect(page.locator("#only")).to_have_text("This model was exported with 3 names and finds no others.")
        expect(page.locator("#name")).to_be_hidden()
        visit.show(image_files[0])
        with page.expect_response("**/v1/detect") as answer:
            page.get_by_role("button", name="Remove bar").click()
        assert answer.value.json()["vocabulary"] == ["circle", "cone, orange"]
        assert page.locator("#known option").evaluate_all("options => options.map(({ value }) => value)") == ["bar"]
        page.fill("#name", "zebra, Bar")
        page.keyboard.press("Enter")
        expect(names).to_have_text(["circle", "cone, orange", "bar"])
        expect(page.get_by_role("alert")).to_have_text(
            "zebra: not among the names that this model was exported with. Export it with these names."
        )
        assert page.evaluate("document.activeElement.ariaLabel") == "Remove bar"
        expect(page.locator("#status")).to_contain_text("object")
        assert visit.detections() == 3 and visit.errors == []
        visit.context.close()


@pytest.mark.parametrize(
    ("text", "names"),
    [
        ('"cone, orange", bar', ["cone, orange", "bar"]),
        ('"say ""hi"", now",x', ['say "hi", now', "x"]),
        (' , ,5" pipe ,', ['5" pipe']),
        ('"open, z', ['"open', "z"]),
    ],
)
def test_names_in_a_text_are_split_and_joined_as_by_the_service(visit: Visit, text: str, names: list[str]) -> None:
    split, joined = visit.page.evaluate(
        """async (text) => {
            const { splitNames, joinNames } = await import("/page/names.js");
            return [splitNames(text), joinNames(splitNames(text))];
        }""",
        text,
    )
    assert split == names and split_names(joined) == names


def test_changed_names_are_detected_again(visit: Visit, image_files: list[Path]) -> None:
    visit.show(image_files[0])
    visit.threshold(0.05)
    for name in ("circle", "square", "triangle"):
        visit.page.get_by_role("button", name=f"Remove {name}").click()
    visit.page.fill("#name", "traffic cone,  CIRCLE, traffic cone")
    visit.page.click("text=Add")
    expect(visit.page.locator("#names li span")).to_have_text(["bar", "traffic cone", "circle"])
    expect(visit.page.locator("#boxes")).to_contain_text("traffic cone")
    found = set(visit.page.locator("#found b").all_text_contents())
    assert found <= {"bar", "traffic cone", "circle"}
    visit.page.fill("#name", '"cone, orange"')
    with visit.page.expect_response("**/v1/detect") as answer:
        visit.page.click("text=Add")
    names = ["bar", "traffic cone", "circle", "cone, orange"]
    expect(visit.page.locator("#names li span")).to_have_text(names)
    assert answer.value.json()["vocabulary"] == names
    visit.page.click("#reset")
    expect(visit.page.locator("#names li")).to_have_count(4)
    expect(visit.page.locator("#reset")).to_be_hidden()


def test_problems_are_shown_and_go_away(visit: Visit, image_files: list[Path], tmp_path: Path) -> None:
    broken, text, large = (tmp_path / name for name in ("broken.jpg", "notes.txt", "large.png"))
    broken.write_bytes(image_files[0].read_bytes()[:-300])
    text.write_text("notes")
    large.write_bytes(bytes(1_100_000))
    visit.page.set_input_files("#files", [str(text), str(large)])
    expect(visit.page.get_by_role("alert")).to_contain_text("notes.txt: not a JPEG, PNG or WebP image")
    expect(visit.page.get_by_role("alert")).to_contain_text("large.png: larger than 1 MB")
    visit.page.set_input_files("#files", str(broken))
    expect(visit.page.get_by_role("alert")).to_contain_text("broken.jpg")
    visit.show(image_files[0])
    expect(visit.page.get_by_role("alert")).to_be_hidden()
    visit.page.fill("#name", "a, b, c, d, e")
    visit.page.keyboard.press("Enter")
    expect(visit.page.get_by_role("alert")).to_contain_text("9 names; at most 6 are accepted")
    visit.page.click("#reset")
    expect(visit.page.locator("#status")).to_contain_text("object")
    expect(visit.page.get_by_role("alert")).to_be_hidden()


def test_the_page_works_with_the_keyboard_alone(visit: Visit, image_files: list[Path]) -> None:
    page = visit.page

    def tab_to(element: str) -> None:
        for _ in range(40):
            if page.locator(element).evaluate("element => element === document.activeElement"):
                return
            page.keyboard.press("Tab")
        raise AssertionError(f"{element} cannot be reached with the Tab key")

    expect(page.locator("#names li")).to_have_count(4)
    tab_to("#files")
    with page.expect_file_chooser() as chooser:
        page.keyboard.press("Space", delay=100)
    chooser.value.set_files([str(image_files[0]), str(image_files[1])])
    expect(page.locator("#status")).to_contain_text("object")
    expect(page.locator("#strip span").nth(1)).to_have_text(re.compile(r"\d+"))
    tab_to("#strip li:nth-child(2) button")
    page.keyboard.press("Enter")
    expect(page.locator("#caption")).to_contain_text(image_files[1].name)
    tab_to("#names li:first-child button")
    page.keyboard.press("Enter")
    expect(page.locator("#names li")).to_have_count(3)
    assert page.evaluate_handle("document.activeElement").evaluate("element => element.ariaLabel") == "Remove square"
    tab_to("#name")
    page.keyboard.type("ring")
    page.keyboard.press("Enter")
    expect(page.locator("#names li")).to_have_count(4)
    page.keyboard.press("Backspace")
    expect(page.locator("#names li")).to_have_count(3)
    tab_to("#threshold")
    page.keyboard.press("Home")
    expect(page.locator("#threshold-value")).to_have_text("0.05")
    found, before = page.locator("#found"), ""
    while not before or before != found.inner_html():  # the answer for the changed names draws the list anew
        before = found.inner_html()
        page.wait_for_timeout(1000)
    tab_to("#found li:first-child button")
    expect(page.locator("#boxes .box.on")).to_have_count(1)
    page.keyboard.press("ArrowDown")
    assert page.locator("#found li:nth-child(2) button").evaluate("row => row === document.activeElement")
    expect(page.locator("#boxes .box.on")).to_have_count(1)
    tab_to("#save-json")
    with page.expect_download() as download:
        page.keyboard.press("Enter")
    assert download.value.suggested_filename == "detections.json"


def test_downloads_have_what_is_shown(visit: Visit, image_files: list[Path], tmp_path: Path) -> None:
    visit.show(*image_files[:2])
    expect(visit.page.locator("#strip span").nth(1)).to_have_text(re.compile(r"\d+"))
    visit.threshold(0.1)
    counts = [int(text) for text in visit.page.locator("#strip span").all_text_contents()]
    saved = []
    for button in ("#save-json", "#save-coco"):
        with visit.page.expect_download() as download:
            visit.page.click(button)
        download.value.save_as(tmp_path / "saved.json")
        saved.append(json.loads((tmp_path / "saved.json").read_text()))
    plain, coco = saved
    assert [entry["image"] for entry in plain["images"]] == [path.name for path in image_files[:2]]
    assert [len(entry["detections"]) for entry in plain["images"]] == counts
    assert len(coco["annotations"]) == sum(counts) > 0
    first, own = coco["annotations"][0], plain["images"][0]["detections"][0]
    names = {entry["id"]: entry["name"] for entry in coco["categories"]}
    x, y, width, height = first["bbox"]
    assert names[first["category_id"]] == own["name"]
    assert [x, y, x + width, y + height] == pytest.approx(own["box"], abs=0.02)
    assert [entry["file_name"] for entry in coco["images"]] == [path.name for path in image_files[:2]]


def test_the_camera_takes_an_image(visit: Visit) -> None:
    visit.page.click("#camera-open")
    visit.page.wait_for_timeout(500)
    expect(visit.page.locator("#video")).to_be_visible()
    visit.page.click("#shoot")
    expect(visit.page.locator("#caption")).to_contain_text("camera")
    expect(visit.page.locator("#status")).to_contain_text("object")
    expect(visit.page.locator("#camera")).to_be_hidden()


def test_dropped_files_are_detected(visit: Visit, image_files: list[Path]) -> None:
    data = visit.page.evaluate_handle(
        """async (bytes) => {
            const data = new DataTransfer();
            data.items.add(new File([new Uint8Array(bytes)], "dropped.jpg", {type: "image/jpeg"}));
            return data;
        }""",
        list(image_files[0].read_bytes()),
    )
    visit.page.dispatch_event("body", "drop", {"dataTransfer": data})
    expect(visit.page.locator("#caption")).to_contain_text("dropped.jpg")
    expect(visit.page.locator("#status")).to_contain_text("object")


def test_a_service_with_a_token_asks_for_it(browser: Any, model: Path, image_files: list[Path]) -> None:
    with thread(model, token="secret") as url:
        visit = Visit(browser, url)
        for text in ("wrong", "secret"):
            visit.page.fill("#token-text", text)
            visit.page.keyboard.press("Enter")
        expect(visit.page.locator("#token")).to_be_hidden()
        visit.show(image_files[0])
        visit.context.close()


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_a_phone_needs_no_sideways_scrolling_and_both_schemes_are_readable(
    browser: Any, url: str, image_files: list[Path], scheme: str
) -> None:
    visit = Visit(
        browser, url, viewport={"width": 360, "height": 740}, is_mobile=True, has_touch=True, color_scheme=scheme
    )
    visit.show(*image_files)
    page = visit.page
    assert page.evaluate("() => document.documentElement.scrollWidth") <= 360
    for text in ("#status", "h1", "#name-help", ".key.novel", "#names li span", ".sources .main"):
        assert page.locator(text).first.evaluate(_CONTRAST) >= 4.5, text
    for target in page.locator("button:visible, .button:visible").all():
        assert target.bounding_box()["height"] >= 24
    visit.context.close()


# The contrast of an element's text with the first opaque background behind it (WCAG 2).
_CONTRAST = """element => {
    const parts = (color) => color.match(/[\\d.]+/g).map(Number);
    const linear = (value) => value <= 0.03928 ? value / 12.92 : ((value + 0.055) / 1.055) ** 2.4;
    const light = (color) => {
        const [r, g, b] = parts(color).map((value) => linear(value / 255));
        return 0.2126 * r + 0.7152 * g + 0.0722 * b;
    };
    let behind = element;
    while (behind && parts(getComputedStyle(behind).backgroundColor)[3] === 0) behind = behind.parentElement;
    const back = getComputedStyle(behind ?? document.body).backgroundColor;
    const values = [light(getComputedStyle(element).color), light(back)];
    return (Math.max(...values) + 0.05) / (Math.min(...values) + 0.05);
}"""
