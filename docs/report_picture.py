"""Take docs/report.png, the README's picture, of the demo's report.

python docs/report_picture.py   (needs Chromium)
"""

from pathlib import Path
from shutil import which

from playwright.sync_api import sync_playwright

from maskbatch import demo
from maskbatch.config import ReportConfig
from maskbatch.report import make_report

if __name__ == "__main__":
    result, _ = demo.run(Path("maskbatch-demo"), 720)
    make_report([result.run], result.run.report, ReportConfig(alert_below=0.8, alert_by="camera"))
    with sync_playwright() as play:
        browser = play.chromium.launch(executable_path=which("chromium"), args=["--no-sandbox"])
        page = browser.new_page(viewport={"width": 1120, "height": 1000})
        page.goto(f"file://{result.run.report}/report.html")
        page.screenshot(path=Path(__file__).with_name("report.png"))
        browser.close()
