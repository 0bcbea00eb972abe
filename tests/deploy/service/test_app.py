"""Tests of the routes: answers, refusals, token, metrics."""

from __future__ import annotations

import base64
import io
import re
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from starlette.testclient import TestClient

from ezsd.deploy.service.limits import Limits
from ezsd.inference.detector import Detector
from ezsd.inference.onnx_detector import OnnxDetector
from ezsd.inference.outputs import detections_json
from ezsd.inference.view import DEFAULT_THRESHOLD
from service import client, image_bytes
from tiny import SPLIT

JPEG = image_bytes()
SMALL = Limits(upload_mb=0.5, megapixels=0.1, images=3, names=5, requests=2, seconds=20)


@pytest.fixture(scope="module")
def service(model: Path) -> Any:
    with client(model, limits=SMALL) as made:
        yield made


def _detect(service: TestClient, data: bytes = JPEG, name: str = "street.jpg", **fields: Any) -> Any:
    return service.post("/v1/detect", files={"image": (name, data)}, data=fields)


def test_several_images_are_detected_like_with_the_detector(
    service: TestClient, model: Path, image_files: list[Path]
) -> None:
    files = [("image", (path.name, path.read_bytes(), "image/jpeg")) for path in image_files[:3]]
    answer = service.post("/v1/detect", files=files, data={"vocabulary": "bar, circle", "threshold": "0.2"})
    assert answer.status_code == 200
    values = answer.json()
    assert (values["vocabulary"], values["threshold"]) == (["bar", "circle"], 0.2)
    detector = Detector.load(model, "cpu")
    for path, result in zip(image_files, values["images"], strict=False):
        found = detector(path, ["bar", "circle"], 0.2)
        assert result["image"] == path.name and len(found)
        assert result["detections"] == detections_json(found)


def test_a_name_with_a_comma_is_put_in_quotes(service: TestClient) -> None:
    assert _detect(service, vocabulary='"cone, orange", bar').json()["vocabulary"] == ["cone, orange", "bar"]


def test_json_gives_the_same_as_a_form(service: TestClient) -> None:
    form = _detect(service, vocabulary="bar", threshold="0.1").json()
    body = {"images": [base64.b64encode(JPEG).decode()], "vocabulary": ["bar"], "threshold": 0.1}
    answer = service.post("/v1/detect", json=body)
    assert answer.status_code == 200
    assert answer.json()["images"][0]["detections"] == form["images"][0]["detections"] != []
    assert answer.json()["images"][0]["image"] == "image 1"


def test_names_of_the_model_are_the_default_and_new_names_work(service: TestClient) -> None:
    assert _detect(service).json()["vocabulary"] == list(SPLIT.names)
    found = _detect(service, vocabulary="traffic cone", threshold="0").json()
    assert {entry["name"] for entry in found["images"][0]["detections"]} == {"traffic cone"}


def test_without_a_threshold_those_of_the_model_are_used(service: TestClient, model: Path) -> None:
    answer = _detect(service).json()
    assert answer["threshold"] is None
    detector = Detector.load(model, "cpu")
    found = detector(Image.open(io.BytesIO(JPEG)), None)
    assert answer["images"][0]["detections"] == detections_json(found)


def test_vocabulary_has_base_and_novel_names_thresholds_and_limits(service: TestClient) -> None:
    answer = service.get("/v1/vocabulary").json()
    assert (answer["base"], answer["novel"], answer["names"]) == (list(SPLIT.base), list(SPLIT.novel), None)
    assert answer["thresholds"] == {"other": DEFAULT_THRESHOLD, "names": {}}
    assert answer["limits"] == SMALL.model_dump()


def test_a_baked_file_is_served_with_its_names_alone(exported: Path) -> None:
    baked = OnnxDetector.load(exported / "baked.onnx", "cpu")
    with client(exported / "baked.onnx") as service:
        known = service.get("/v1/vocabulary").json()
        assert (known["base"], known["novel"]) == (["circle"], ["bar", "cone, orange"])
        assert sorted(known["names"]) == ["bar", "circle", "cone, orange"]
        everything = _detect(service, threshold="0.01").json()
        assert everything["vocabulary"] == ["bar", "circle", "cone, orange"]
        found = baked(Image.open(io.BytesIO(JPEG)), threshold=0.01)
        assert everything["images"][0]["detections"] == detections_json(found) != []
        some = _detect(service, vocabulary='"cone, orange"', threshold="0.01").json()
        assert {entry["name"] for entry in some["images"][0]["detections"]} == {"cone, orange"}
        refused = _detect(service, vocabulary="bar, zebra")
        assert refused.status_code == 422
        assert "zebra: not among the 3 names that are baked into the model" in refused.json()["detail"]


def test_a_file_with_names_is_served_with_the_names_of_its_names_file(exported: Path) -> None:
    with client(exported / "model.onnx") as service:
        known = service.get("/v1/vocabulary").json()
        assert (known["base"], known["novel"]) == (list(SPLIT.base), list(SPLIT.novel))
        assert known["names"] == [*SPLIT.names, "traffic cone", "dog"]
        assert _detect(service, vocabulary="dog, bar").json()["vocabulary"] == ["dog", "bar"]
        refused = _detect(service, vocabulary="dog, zebra")
        assert refused.status_code == 422 and "No text embedding of zebra" in refused.json()["detail"]


def test_masks_are_sent_as_rle(tmp_path: Path) -> None:
    from tiny_run import make_model_folder

    with client(make_model_folder(tmp_path, masks=True)) as masked:
        found = _detect(masked, threshold="0").json()["images"][0]["detections"]
    assert found[0]["mask"]["size"] == [64, 96] and found[0]["mask"]["counts"]


@pytest.mark.parametrize(
    ("data", "fields", "status", "reason"),
    [
        (image_bytes((2000, 2000), quality=5), {}, 413, "at most 0.1 million pixels"),
        (image_bytes((500, 500), "PNG"), {}, 413, "too large; at most 0.5 MB"),
        (b"<svg/>", {}, 415, "street.jpg: not a readable JPEG"),
        (JPEG[:-200], {}, 422, "street.jpg"),
        (JPEG, {"threshold": "2"}, 422, "threshold"),
        (JPEG, {"threshold": "nan"}, 422, "threshold"),
        (JPEG, {"threshold": ["0.1", "0.2"]}, 422, "threshold: expected one text"),
        (JPEG, {"vocabulary": "a, b, c, d, e, f"}, 422, "6 names; at most 5"),
        (JPEG, {"vocabulary": "cat, cat"}, 422, "duplicate"),
        (JPEG, {"vocabulary": " "}, 422, "The vocabulary is empty"),
        (JPEG, {"vocabulary": "c" * 101}, 422, "at most 100 characters"),
        (JPEG, {"vocabulary": "a\x00b"}, 422, "printable"),
        (JPEG, {"colour": "red"}, 422, "Unknown field 'colour'"),
    ],
)
def test_forms_beyond_a_limit_are_refused_with_the_reason(
    service: TestClient, data: bytes, fields: dict[str, Any], status: int, reason: str
) -> None:
    answer = _detect(service, data, **fields)
    assert answer.status_code == status, answer.text
    assert reason in answer.json()["detail"]


@pytest.mark.parametrize(
    ("body", "status"),
    [
        (b"{", 422),
        (b"[" * 100_000, 422),
        (b'{"images": []}', 422),
        (b'{"images": ["@@"]}', 422),
        (b'{"images": ["aGVsbG8="]}', 415),
        (b'{"images": ["aGVsbG8="], "vocabulary": "' + b"c" * 200_000 + b'"}', 422),
        (b'{"images": ["aGVsbG8="], "colour": 1}', 422),
        (b'{"images": ["aGVsbG8="], "threshold": NaN}', 422),
        (b'{"images": ["aGVsbG8=", "aGVsbG8=", "aGVsbG8=", "aGVsbG8="]}', 413),
        (b'{"images": ["' + b"a" * 600_000 + b'"]}', 413),
        (b"\xff\xfe", 422),
    ],
)
def test_bad_json_is_refused(service: TestClient, body: bytes, status: int) -> None:
    answer = service.post("/v1/detect", content=body, headers={"content-type": "application/json"})
    assert answer.status_code == status and answer.json()["detail"]


def test_other_content_is_refused(service: TestClient) -> None:
    for kind in ("text/plain", "image/jpeg", "application/x-www-form-urlencoded", "multipart/mixed; boundary=x", ""):
        answer = service.post("/v1/detect", content=JPEG, headers={"content-type": kind})
        assert answer.status_code == 415 and "expected multipart/form-data" in answer.json()["detail"]
    for kind in ("multipart/form-data", "multipart/form-data; boundary=x", "multipart/form-data; boundary="):
        answer = service.post("/v1/detect", content=JPEG, headers={"content-type": kind})
        assert answer.status_code == 422 and answer.json()["detail"]


def test_names_of_files_are_answered_readable(service: TestClient) -> None:
    head = b'--x\r\nContent-Disposition: form-data; name="image"; filename="'
    kind = {"content-type": "multipart/form-data; boundary=x; charset=utf-7"}  # +2AA- is half of a surrogate pair
    for name, shown in (
        (b"a\tb.jpg", "a?b.jpg"),
        (b"+2AA-.jpg", "?.jpg"),
        (b"+ZXU-.jpg", "\N{CJK UNIFIED IDEOGRAPH-6575}.jpg"),
    ):
        answer = service.post("/v1/detect", content=head + name + b'"\r\n\r\n' + JPEG + b"\r\n--x--\r\n", headers=kind)
        assert answer.status_code == 200 and answer.json()["images"][0]["image"] == shown


def test_a_body_without_length_is_limited_while_it_arrives(service: TestClient) -> None:
    sent = []

    def chunks() -> Any:
        for _ in range(100):
            sent.append(1)
            yield b"a" * 100_000

    answer = service.post("/v1/detect", content=chunks(), headers={"content-type": "application/json"})
    assert answer.status_code == 413


def test_requests_beyond_the_queue_are_refused_and_the_others_answered(model: Path) -> None:
    with client(model, limits=SMALL) as service:
        app: Any = service.app
        started, go = threading.Event(), threading.Event()
        _slow_down(app, started, go)
        with ThreadPoolExecutor(3) as pool:
            first = [pool.submit(_detect, service) for _ in range(2)]
            started.wait(10)
            while _metric(service, "ezsd_requests_in_progress") < 2:
                time.sleep(0.01)
            refused = _detect(service)
            go.set()
            assert [each.result().status_code for each in first] == [200, 200]
        assert refused.status_code == 429 and int(refused.headers["retry-after"]) > 0
        assert "2 requests are in progress" in refused.json()["detail"]
        assert _metric(service, "ezsd_requests_in_progress") == 0


def test_a_request_that_waits_too_long_is_refused(model: Path) -> None:
    with client(model, limits=Limits(seconds=0.2)) as service:
        started, go = threading.Event(), threading.Event()
        _slow_down(service.app, started, go)
        answer = _detect(service)
        go.set()
        assert answer.status_code == 429 and "waited for 0.2 seconds" in answer.json()["detail"]


def test_other_requests_are_answered_while_masks_are_encoded(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    started, go = threading.Event(), threading.Event()

    def slow(found: Any) -> Any:
        started.set()
        assert go.wait(5)
        return detections_json(found)

    monkeypatch.setattr("ezsd.deploy.service.app.detections_json", slow)
    with client(model) as service, ThreadPoolExecutor(1) as pool:
        answer = pool.submit(_detect, service)
        assert started.wait(10)
        assert service.get("/health").status_code == 200
        go.set()
        assert answer.result().status_code == 200


def _slow_down(app: Any, started: threading.Event, go: threading.Event) -> None:
    """Make the detector of an application wait for ``go``."""
    batcher = app.state.service.batcher
    plain = batcher._detect

    def slow(*arguments: Any) -> Any:
        started.set()
        go.wait(10)
        return plain(*arguments)

    batcher._detect = slow


def _metric(service: TestClient, name: str) -> float:
    found = re.search(rf"^{name}(?:{{[^}}]*}})? ([\d.e+-]+)$", service.get("/metrics").text, re.MULTILINE)
    assert found, name
    return float(found[1])


def test_metrics_count_images_and_known_routes_only(model: Path) -> None:
    with client(model) as service:
        _detect(service)
        service.get("/nowhere/123")
        service.request("BREW", "/v1/detect")
        text = service.get("/metrics").text
        assert _metric(service, "ezsd_images_total") == 1 and _metric(service, "ezsd_batch_images_count") == 1
    assert 'ezsd_requests_total{method="POST",route="/v1/detect",status="200"} 1.0' in text
    assert "123" not in re.sub(r" [\d.e+-]+$", "", text, flags=re.MULTILINE) and "BREW" not in text


def test_an_unexpected_error_is_a_500_without_details(model: Path) -> None:
    with client(model) as service:
        service.app.state.service.batcher._detect = lambda *_: 1 / 0  # type: ignore[attr-defined]
        quiet = TestClient(service.app, raise_server_exceptions=False)
        quiet.portal = service.portal
        answer = _detect(quiet)
        assert answer.status_code == 500 and answer.json()["detail"] == "The service failed; its log has the reason."
        assert _metric(service, "ezsd_requests_in_progress") == 0


def test_a_token_protects_detection_and_metrics_but_not_the_page(model: Path) -> None:
    with client(model, token="secret") as service:
        for path in ("/v1/vocabulary", "/metrics"):
            assert service.get(path).status_code == 401
            assert service.get(path, headers={"Authorization": "Bearer wrong"}).status_code == 401
            assert service.get(path, headers={"Authorization": "Basic secret"}).status_code == 401
            assert service.get(path, headers={"Authorization": "Bearer secret"}).status_code == 200
        assert _detect(service).status_code == 401
        assert "Bearer" in _detect(service).headers["www-authenticate"]
        assert [service.get(path).status_code for path in ("/", "/health", "/ready", "/openapi.json")] == [200] * 4


def test_other_origins_get_no_permission(service: TestClient) -> None:
    asked = service.options(
        "/v1/detect", headers={"Origin": "http://elsewhere", "Access-Control-Request-Method": "POST"}
    )
    answer = service.get("/v1/vocabulary", headers={"Origin": "http://elsewhere"})
    assert asked.status_code == 405
    assert not any(header.startswith("access-control") for header in [*asked.headers, *answer.headers])
    assert "default-src 'none'" in answer.headers["content-security-policy"]


def test_the_description_names_the_fields_of_both_kinds_of_request(service: TestClient) -> None:
    description = service.get("/openapi.json").json()
    content = description["paths"]["/v1/detect"]["post"]["requestBody"]["content"]
    assert set(content["multipart/form-data"]["schema"]["properties"]) == {"image", "vocabulary", "threshold"}
    assert set(content["application/json"]["schema"]["properties"]) == {"images", "vocabulary", "threshold"}
    assert {"200", "408", "413", "415", "422", "429"} == set(description["paths"]["/v1/detect"]["post"]["responses"])
    assert service.get("/docs").status_code == 404  # it would load scripts from elsewhere
