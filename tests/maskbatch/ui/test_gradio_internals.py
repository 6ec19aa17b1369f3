"""Each test says what breaks when Gradio changes something that it does not document."""

import asyncio
from collections.abc import Awaitable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import gradio as gr
import httpx
import pytest
from gradio.state_holder import SessionState
from playwright.sync_api import Page

from maskbatch.ui.gradio_internals import ClosedBlocks, Uploads, read_message
from tests.maskbatch.ui.conftest import Server

FILE = {"path": "/etc/hostname", "url": "http://127.0.0.1:1/", "meta": {"_type": "gradio.FileData"}}


def run_async(coroutine: Awaitable[Any]) -> Any:
    """Run it in another thread: the browser's driver runs a loop in this one."""
    with ThreadPoolExecutor() as pool:
        return pool.submit(lambda: asyncio.run(coroutine)).result()


def build_page(folder: Path, component: gr.components.Component, **event: Any) -> ClosedBlocks:
    with ClosedBlocks(Uploads(str(folder)), analytics_enabled=False) as page:
        component.render()
        gr.on(None, lambda value: value, component, component, **event)
    return page


def test_the_page_requests_nothing_that_the_gate_refuses(page: Page, server: Server) -> None:
    answers: list[tuple[int, str]] = []
    page.on("response", lambda answer: answers.append((answer.status, answer.url)))
    page.goto(server.url)
    page.locator("#examples button").first.click()
    page.locator("#picture input[type=file]").set_input_files(
        {"name": "a.jpg", "mimeType": "image/jpeg", "buffer": b"data"}
    )
    page.wait_for_timeout(2000)
    refused = [
        url for status, url in answers if status == 404 and "/file=" not in url
    ]  # no files, on purpose
    assert refused == [], "Gradio requests other paths: the gate blocks parts of the page, see PAGE_PATHS"


def test_gradio_saves_an_upload_in_a_folder_named_by_its_sha256(server: Server) -> None:
    answer = httpx.post(f"{server.url}gradio_api/upload", files={"files": ("a.jpg", b"data")})
    path = Path(answer.json()[0])
    (folder,) = server.temp.glob("maskbatch-ui-*")
    assert path.parent.parent == folder.resolve(), "Gradio saves uploads elsewhere: the page refuses them all"
    path.unlink()


@pytest.mark.parametrize("raw", [True, False])
def test_gradio_checks_files_by_preprocess_data(raw: bool, tmp_path: Path) -> None:
    page = build_page(tmp_path, gr.Image(render=False), preprocess=not raw, postprocess=not raw)
    try:
        run_async(page.process_api(0, [FILE], state=SessionState(page)))
        refused = ""
    except Exception as error:
        refused = str(error)
    assert "not uploaded here" in refused, (
        "Gradio reads files without preprocess_data: visitors can read any file, and fetch any URL"
    )


def test_gradio_keeps_what_visitors_send_only_in_config_values(tmp_path: Path) -> None:
    page = build_page(tmp_path, gr.Textbox(render=False))
    session = SessionState(page)
    assert hasattr(session, "config_values"), "Gradio keeps values elsewhere: ClosedBlocks cannot forget them"
    answer = run_async(page.process_api(0, ["secret"], state=session))
    assert answer["data"] == ["secret"]
    assert "secret" not in repr(vars(session)), (
        "Gradio keeps values elsewhere too: visitors' data stay in memory"
    )


@pytest.mark.parametrize("data", [None, {}, {"message": {"tab": "1"}}])
def test_gradio_keeps_an_events_data_in_a_private_attribute(data: dict[str, Any] | None) -> None:
    try:
        assert read_message(gr.EventData(None, data)) == (data or {}).get("message")
    except AttributeError:
        pytest.fail("Gradio has renamed EventData._data: no judgement arrives")
