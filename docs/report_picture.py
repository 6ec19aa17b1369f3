"""Take docs/report.png, the README's picture, of the demo's report.

python docs/report_picture.py   (needs Chromium)
"""

import json
from pathlib import Path
from shutil import which
from tempfile import TemporaryDirectory

from playwright.sync_api import sync_playwright

from maskbatch import demo
from maskbatch.config import ReportConfig
from maskbatch.page import render
from maskbatch.report import make_report

OUT = Path("maskbatch-demo")

if __name__ == "__main__":
    run = demo.run(OUT, 720)[0].run
    report = make_report([run], run.report, ReportConfig(alert_below=0.8, alert_by="camera"))
    neutral = json.dumps(report.values).replace(str(OUT.absolute()), "/cameras/2026-10")
    with TemporaryDirectory() as folder, sync_playwright() as play:
        file = Path(folder) / "report.html"
        file.write_text(render(json.loads(neutral)), encoding="utf-8")
        browser = play.chromium.launch(executable_path=which("chromium"), args=["--no-sandbox"])
        page = browser.new_page(viewport={"width": 1120, "height": 1000})
        page.goto(file.as_uri())
        page.screenshot(path=Path(__file__).with_name("report.png"))
        browser.close()
