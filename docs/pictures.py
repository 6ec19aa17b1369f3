"""Take the pictures of README.md and docs/review.md, report.png and review.png, of the demo's run.

python docs/pictures.py   (needs Chromium)
"""

import json
import re
import subprocess
import sys
from pathlib import Path
from shutil import which
from tempfile import TemporaryDirectory

from playwright.sync_api import Browser, sync_playwright

from maskbatch.config import ReportConfig
from maskbatch.demo.run import run_demo
from maskbatch.report.make import make_report
from maskbatch.report.page import render
from maskbatch.runs.directory import RunDir

OUT = Path("maskbatch-demo")
SHOWN_AS = "/cameras/2026-10"


def report(browser: Browser, run: RunDir) -> None:
    """The first screen of the report."""
    made = make_report([run], run.report, ReportConfig(alert_below=0.8, alert_by="camera"))
    neutral = json.dumps(made.values).replace(str(OUT.absolute()), SHOWN_AS)
    with TemporaryDirectory() as folder:
        file = Path(folder) / "report.html"
        file.write_text(render(json.loads(neutral)), encoding="utf-8")
        page = browser.new_page(viewport={"width": 1120, "height": 1000})
        page.goto(file.as_uri())
        page.screenshot(path=Path(__file__).with_name("report.png"))


def review(browser: Browser, run: RunDir, corrections: Path) -> None:
    """An uncertain image that is to be judged, after some that were."""
    options = ["--run", str(run.path), "--corrections", str(corrections)]
    command = [sys.executable, "-m", "maskbatch", "ui", *options]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as server:
        assert server.stderr
        url = next(filter(None, (re.search(r"http://\S+", line) for line in server.stderr)))[0]
        page = browser.new_page(viewport={"width": 1120, "height": 760})
        page.goto(url)
        page.get_by_role("tab", name="Review").click()
        page.locator("#review input[name=name]").fill("Ann")
        page.locator("#review img").wait_for()
        page.locator("#review img").click()
        while not page.get_by_text("The classifier is unsure").is_visible():
            before = page.locator("#review img").get_attribute("src")
            page.wait_for_timeout(300)
            page.keyboard.press("1")
            page.wait_for_function(
                "before => document.querySelector('#review img')?.src !== before", arg=before
            )
        page.wait_for_timeout(300)
        shown = page.locator("#review")
        shown.evaluate(
            "(node, [from, to]) => { node.innerHTML = node.innerHTML.replaceAll(from, to) }",
            [str(OUT.absolute()), SHOWN_AS],
        )
        page.screenshot(path=Path(__file__).with_name("review.png"))
        server.terminate()


if __name__ == "__main__":
    run = run_demo(OUT, 720)[0].run
    with sync_playwright() as play, TemporaryDirectory() as folder:
        browser = play.chromium.launch(executable_path=which("chromium"), args=["--no-sandbox"])
        report(browser, run)
        review(browser, run, Path(folder))
        browser.close()
