"""Screenshots of the page of a running service: desktop, phone and dark.

    ezsd serve MODEL & python benchmarks/screenshots.py http://127.0.0.1:8000 IMAGE... --out docs [--names NAMES]

Needs playwright and a Chromium (Debian: apt-get install chromium).
"""

from __future__ import annotations

import argparse
import shutil
from pathlib import Path

from playwright.sync_api import Browser, expect, sync_playwright

VIEWS = {
    "service": {"viewport": {"width": 1280, "height": 860}},
    "service_dark": {"viewport": {"width": 1280, "height": 860}, "color_scheme": "dark"},
    "service_phone": {"viewport": {"width": 390, "height": 844}, "has_touch": True, "is_mobile": True},
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("url")
    parser.add_argument("images", nargs="+", type=Path)
    parser.add_argument("--out", type=Path, default=Path("docs"))
    parser.add_argument("--names", help="Names to find, separated by commas; default: those of the model.")
    parser.add_argument("--threshold", type=float, help="One minimum score; default: the calibrated ones.")
    arguments = parser.parse_args()
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=shutil.which("chromium"), args=["--no-sandbox"])
        for name in VIEWS:
            take(browser, name, arguments)
        browser.close()


def take(browser: Browser, name: str, arguments: argparse.Namespace) -> None:
    """Detect in the images in one view, and save a screenshot of the whole page."""
    page = browser.new_context(**VIEWS[name]).new_page()
    page.goto(arguments.url)
    chips = page.locator("#names li")
    expect(chips).not_to_have_count(0)
    if arguments.names:
        while chips.count():
            page.locator("#name").press("Backspace")
        page.locator("#name").fill(arguments.names)
        page.locator("#name").press("Enter")
    page.set_input_files("#files", [str(image) for image in arguments.images])
    if arguments.threshold is not None:
        page.locator("#threshold").fill(str(arguments.threshold))
        page.locator("#threshold").blur()
    expect(page.locator("#strip")).not_to_contain_text("…", timeout=120_000)
    expect(page.locator("#status")).to_contain_text("object", timeout=120_000)
    path = arguments.out / f"{name}.png"
    page.screenshot(path=path, full_page=True)
    print(f"wrote {path}")


if __name__ == "__main__":
    main()
