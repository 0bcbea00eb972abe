"""Requests that schemathesis makes from the OpenAPI description: none may fail the service or leave the description."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import schemathesis
from hypothesis import HealthCheck, settings

from service import thread


@pytest.fixture(scope="module")
def description(model: Path) -> Iterator[Any]:
    with thread(model) as url:
        yield schemathesis.openapi.from_url(f"{url}/openapi.json")


_REQUESTS = schemathesis.pytest.from_fixture("description")


@_REQUESTS.parametrize()
@settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
def test_answers_are_as_described_and_never_5xx(case: Any) -> None:
    case.call_and_validate()
