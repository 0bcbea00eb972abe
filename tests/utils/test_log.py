"""Logging on the command line, to a file, and as a library."""

from __future__ import annotations

import logging
import subprocess
import sys
import warnings
from pathlib import Path

import pytest

from ezsd.utils.log import collected_warnings, log_to_file, quiet, show_log

logger = logging.getLogger("ezsd.test")


@pytest.mark.usefixtures("shown_log")
def test_message_is_printed_unchanged_on_stderr(capsys: pytest.CaptureFixture[str]) -> None:
    logger.info("images/[bold]/a.jpg is 100% broken")
    logger.debug("details")
    assert capsys.readouterr().err == "images/[bold]/a.jpg is 100% broken\n"


@pytest.mark.usefixtures("shown_log")
def test_records_below_the_level_are_not_shown(capsys: pytest.CaptureFixture[str]) -> None:
    show_log(logging.WARNING)
    logger.info("one")
    logger.warning("two")
    show_log(logging.DEBUG)
    logger.debug("three")
    assert capsys.readouterr().err == "Warning: two\nthree\n"


@pytest.mark.usefixtures("shown_log")
def test_only_the_first_process_prints(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RANK", "1")
    show_log()
    logger.warning("twice?")
    assert capsys.readouterr().err == ""


@pytest.mark.usefixtures("shown_log")
def test_collected_warnings_are_shown_once_at_the_end(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    with log_to_file(tmp_path / "run.log"), collected_warnings("Warnings of stage train"):
        for _ in range(3):
            logger.warning("an image is dark")
        with warnings.catch_warnings():
            warnings.simplefilter("always")
            warnings.warn("a package is old", stacklevel=1)
        logger.info("train: 1/2")
    lines = capsys.readouterr().err.splitlines()
    assert lines[:3] == ["train: 1/2", "Warnings of stage train:", "  an image is dark (3 times)"]
    assert "a package is old" in lines[3]
    assert (tmp_path / "run.log").read_text().count("an image is dark") == 3


@pytest.mark.usefixtures("shown_log")
def test_collected_warnings_are_shown_after_an_error(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(ValueError), collected_warnings("Warnings"):
        logger.warning("an image is dark")
        raise ValueError
    assert "an image is dark" in capsys.readouterr().err


@pytest.mark.usefixtures("shown_log")
def test_log_file_contains_records_that_are_not_shown(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    with log_to_file(tmp_path / "run.log"), quiet():
        logger.info("one")
    with log_to_file(tmp_path / "run.log"):
        logger.info("two")
    lines = (tmp_path / "run.log").read_text().splitlines()
    assert [line.rpartition(" ")[2] for line in lines] == ["one", "two"]
    assert all("INFO ezsd.test:" in line for line in lines)
    assert capsys.readouterr().err == "two\n"


SCRIPT = """
import logging, sys
from pathlib import Path
from ezsd.utils.log import log_to_file
{setup}
logger = logging.getLogger("ezsd.test")
with log_to_file(Path(sys.argv[1])):
    logger.info("a message")
    logger.warning("a warning")
"""


@pytest.mark.parametrize(
    ("setup", "shown"),
    [
        ("", ""),
        ("logging.basicConfig(level='WARNING', format='%(message)s')", "a warning\n"),
        ("logging.basicConfig(level='INFO', format='%(message)s')", "a message\na warning\n"),
    ],
)
def test_library_use_shows_only_what_the_user_configured(tmp_path: Path, setup: str, shown: str) -> None:
    command = [sys.executable, "-c", SCRIPT.format(setup=setup), str(tmp_path / "run.log")]
    assert subprocess.run(command, capture_output=True, text=True, check=True).stderr == shown
    assert (tmp_path / "run.log").read_text().count("\n") == 2
