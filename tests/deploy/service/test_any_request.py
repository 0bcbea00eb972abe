"""Requests that schemathesis makes from the OpenAPI description: none may fail the service or leave the description."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import schemathesis
from hypothesis import HealthCheck, given, settings
from schemathesis.specs.openapi.checks import positive_data_acceptance

from service import thread


@pytest.fixture(scope="module")
def operations(model: Path) -> Iterator[list[Any]]:
    with thread(model) as url:
        description = schemathesis.openapi.from_url(f"{url}/openapi.json")
        yield [result.ok() for result in description.get_all_operations()]


def test_answers_are_as_described_and_never_5xx(operations: list[Any]) -> None:
    assert len(operations) == 5
    for operation in operations:

        @settings(max_examples=60, suppress_health_check=list(HealthCheck))
        @given(case=operation.as_strategy())
        def check(case: Any) -> None:
            # A schema cannot say that a text is an image, so texts that fit it are refused.
            case.call_and_validate(excluded_checks=[positive_data_acceptance])

        check()
