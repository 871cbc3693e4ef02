"""The page in a browser: what is typed moves the point, a table that is dropped becomes a scatter and a download."""

import shutil
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path

import pandas as pd
import pytest
import torch
from playwright.sync_api import Browser, Page, sync_playwright

from carl import AffectEncoder
from carl.calibration import Calibration
from carl.model import EmotionHead

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="no Chromium on this machine")

DROP = """text => {
    const data = new DataTransfer();
    data.items.add(new File([text], "posts.csv", { type: "text/csv" }));
    document.dispatchEvent(new DragEvent("drop", { dataTransfer: data, cancelable: true }));
}"""


@pytest.fixture(scope="module")
def model(run_folder: Path) -> AffectEncoder:
    model = AffectEncoder.from_pretrained(run_folder, device="cpu")
    model.calibration = Calibration(0.9, (0.2, 0.1), (100, 100))
    model.emotion = EmotionHead(("joy", "fear"), torch.randn(2, model.weight.shape[1]), torch.zeros(2))
    return model


@pytest.fixture(scope="module")
def url(model: AffectEncoder, serve: Callable[..., AbstractContextManager[str]]) -> Iterator[str]:
    with serve(model) as address:
        yield address


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with sync_playwright() as playwright:
        flags = [
            "--no-sandbox",
            "--disable-gpu",
            "--disable-background-networking",
            "--disable-component-update",
        ]
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=flags)
        yield browser
        browser.close()


@pytest.fixture
def page(browser: Browser, url: str) -> Iterator[Page]:
    page = browser.new_page()
    asked, errors = [], []
    page.on("request", lambda request: asked.append(request.url))
    page.on("pageerror", lambda error: errors.append(error))
    page.goto(url)
    yield page
    assert not errors
    assert all(address.startswith((url, "data:", "blob:")) for address in asked)  # no third party
    page.close()


def test_the_point_follows_what_is_typed(page: Page, model: AffectEncoder) -> None:
    assert page.get_attribute("#now", "visibility") == "hidden"
    for text in ("the happy child", "the happy child feared the awful storm"):
        page.keyboard.press("Control+A")
        page.keyboard.type(text)  # the text field has the focus from the start
        valence, arousal = model.predict(text)
        page.wait_for_function(
            "([x, y]) => { const now = document.getElementById('now');"
            " return Math.abs(now.getAttribute('cx') - x) < .1 && Math.abs(now.getAttribute('cy') - y) < .1 }",
            arg=[100 * float(valence), -100 * float(arousal)],
        )
        sign = "\N{MINUS SIGN}" if valence < 0 else "+"
        assert page.inner_text("#valence").startswith(f"{sign}{abs(valence):.2f} (")
    assert float(page.get_attribute("#reach", "width")) > 0
    assert page.inner_text("#emotion").split()[0] in ("joy", "fear")
    assert page.get_attribute("#trail", "d").count("L") >= 1
    page.wait_for_function("text => document.getElementById('tokens').innerText === text", arg=text)
    assert page.locator("#tokens span").count() == len(text.split())


def test_a_dropped_table_is_scored_and_comes_back(page: Page, model: AffectEncoder) -> None:
    texts = ["the happy child", 'they said "no", twice', "two\nlines", "the storm"] * 20
    table = pd.DataFrame({"id": range(80), "text": texts})
    page.evaluate(DROP, table.to_csv(index=False))
    page.wait_for_selector("#download:not([hidden])")
    assert page.locator("#dots circle").count() == 80
    assert page.inner_text("#progress") == "80 of 80 texts"
    with page.expect_download() as download:
        page.click("#download")
    scored = pd.read_csv(download.value.path())
    assert scored["text"].tolist() == texts
    assert scored["id"].tolist() == list(range(80))
    assert scored[["valence", "arousal"]].to_numpy() == pytest.approx(model.predict(texts), abs=1e-3)


def test_a_server_that_refuses_is_heard(page: Page) -> None:
    page.route(
        "**/v1/affect", lambda route: route.fulfill(status=503, json={"error": {"message": "shutting down"}})
    )
    page.keyboard.type("anything")
    page.wait_for_function("document.getElementById('message').textContent === 'shutting down'")


@pytest.mark.parametrize("width", [320, 390, 1200])
def test_nothing_is_wider_than_the_screen(page: Page, width: int) -> None:
    page.set_viewport_size({"width": width, "height": 800})
    assert page.evaluate("document.documentElement.scrollWidth") <= width
