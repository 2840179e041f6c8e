"""The page on a phone: the manifest, the icon, and the code that leads there."""

from __future__ import annotations

import io

import pytest
from PIL import Image
from starlette.testclient import TestClient

from qwen_asr.service.service import Service
from qwen_asr.web.app import create_app
from qwen_asr.web.page.icon import icon_png
from qwen_asr.web.page.phone import ICON_SIZES, NOT_SECURE, THIS_COMPUTER_ONLY, phone_address
from tests.support.browser import small_config


@pytest.fixture
def client() -> TestClient:
    """A client of the app; its checkpoint is not loaded."""
    config = small_config()
    return TestClient(create_app(config, Service(config)), base_url="http://localhost")


@pytest.mark.slow
def test_the_manifest_names_icons_that_are_there(client: TestClient) -> None:
    manifest = client.get("/manifest.json").json()
    assert (manifest["display"], manifest["start_url"]) == ("standalone", "./")
    assert {icon["purpose"] for icon in manifest["icons"]} == {"any", "maskable"}
    for icon in manifest["icons"]:
        answer = client.get("/" + icon["src"])
        assert answer.headers["content-type"] == "image/png"
        width, height = Image.open(io.BytesIO(answer.content)).size
        assert icon["sizes"] == f"{width}x{height}"
    assert client.get("/favicon.ico").headers["content-type"] == "image/png"
    assert client.get("/icons/7.png").status_code == 404


@pytest.mark.parametrize("size", ICON_SIZES)
def test_nothing_of_the_icon_lies_where_a_phone_may_cut(size: int) -> None:
    image = Image.open(io.BytesIO(icon_png(size))).convert("L")
    bright = image.point(lambda value: 255 if value > 200 else 0).getbbox()
    assert bright is not None
    assert min(bright[0], bright[1], size - bright[2], size - bright[3]) >= size // 10


def test_a_page_that_is_open_at_its_public_address_keeps_it() -> None:
    found = phone_address("https://captions.example.org/asr/", "127.0.0.1", 8000)
    assert (found["address"], found["note"]) == ("https://captions.example.org/asr/", "")
    assert found["code"].startswith("<svg")


def test_localhost_becomes_the_address_on_the_network(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        "qwen_asr.web.page.phone.page_urls", lambda *_: ("https://localhost:8000", "https://192.0.2.7:8000")
    )
    assert phone_address("https://localhost:8000/", "0.0.0.0", 8000)["address"] == "https://192.0.2.7:8000"


@pytest.mark.parametrize(
    ("shown", "host", "note"),
    [
        ("http://localhost:8000/", "127.0.0.1", THIS_COMPUTER_ONLY),
        ("http://192.0.2.7:8000/", "0.0.0.0", NOT_SECURE),
        ("", "0.0.0.0", THIS_COMPUTER_ONLY),
        ("javascript:alert(1)", "0.0.0.0", THIS_COMPUTER_ONLY),
        ("https://[::bad", "0.0.0.0", THIS_COMPUTER_ONLY),
    ],
)
def test_what_else_a_phone_needs(shown: str, host: str, note: str) -> None:
    found = phone_address(shown, host, 8000)
    assert found["note"] == note
    assert bool(found["code"]) == bool(found["address"]) == (note == NOT_SECURE)


def test_the_address_stands_in_the_code_as_text() -> None:
    code = phone_address("https://host/<script>alert(1)</script>", "0.0.0.0", 8000)["code"]
    assert "<script>" not in code
