"""The page in a real browser, wide and narrow: it fits, its numbers can be read; the screenshots are kept.

Screenshots go to $TEST_ARTIFACTS where that is set.
"""

import os
import shutil
import subprocess

import pytest
from report_kit import full_run

from rft.report.page import POLICY
from rft.report.run_report import write

MEASURE = """<script>onload = () => {
  const heights = [...document.querySelectorAll("svg text")].map(t => t.getBoundingClientRect().height);
  document.body.dataset.width = document.documentElement.scrollWidth;
  document.body.dataset.text = Math.min(...heights);
}</script>"""
READ = """<script>onload = () => {
  const of = document.getElementById("page").contentDocument.body.dataset;
  document.title = of.width + " " + of.text;
}</script>"""


@pytest.mark.parametrize("width", [1280, 400])
def test_the_page_fits_its_width(tmp_path, width):
    """Laid out in a frame of that width (a window is never narrower than 500); a script beside it measures."""
    browser = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    if browser is None:
        pytest.skip("no chromium: apt-get install chromium to look at the page in a browser")
    page = write([str(full_run(tmp_path))], tmp_path / "out")[0].read_text()
    assert page.count(POLICY) == 1  # it would stop the script that measures
    page = page.replace(POLICY, "").replace("</body>", f"{MEASURE}</body>")
    (tmp_path / "measured.html").write_text(page)
    frame = f'<iframe id="page" style="border:0;width:{width}px;height:1600px" src="measured.html"></iframe>'
    (tmp_path / "frame.html").write_text(f'<body style="margin:0">{frame}{READ}')
    flags = [browser, "--headless=new", "--no-sandbox", "--disable-gpu", f"--user-data-dir={tmp_path / 'profile'}"]
    flags += ["--allow-file-access-from-files", f"--window-size={max(width, 500)},1600", "--virtual-time-budget=5000"]
    where, shot = (tmp_path / "frame.html").as_uri(), tmp_path / f"report-{width}.png"
    dom = subprocess.run([*flags, "--dump-dom", where], capture_output=True, text=True, timeout=120).stdout
    scroll, text = dom.split("<title>")[1].split("</title>")[0].split()
    assert int(scroll) <= width, f"the page is {scroll} wide in a window of {width}"
    assert float(text) >= 9, f"numbers on the charts are {text} px high"
    subprocess.run([*flags, f"--screenshot={shot}", where], capture_output=True, timeout=120)
    assert shot.read_bytes().startswith(b"\x89PNG") and shot.stat().st_size > 10_000
    if keep := os.environ.get("TEST_ARTIFACTS"):
        shutil.copy(shot, keep)
