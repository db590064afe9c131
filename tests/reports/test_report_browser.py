"""The page in a real browser: it renders, and at no width does it scroll sideways."""

import html
import json
import re
import shutil
import subprocess

import pytest
from synthetic_run import write_run, write_shifted

from inure.reports import write_report

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
FLAGS = [
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]
# Elements may be wider than the window only inside a box that scrolls by itself.
PROBE = """<script>addEventListener("load", () => {
  const width = document.documentElement.clientWidth
  const wide = [...document.querySelectorAll("body *")].filter(e =>
    !e.closest(".scroll, pre, svg") && e.getBoundingClientRect().right > width + 1)
  parent.document.body.dataset.probe = JSON.stringify({
    width, scroll: document.documentElement.scrollWidth, wide: wide.map(e => e.outerHTML.slice(0, 80)),
    pictures: [...document.images].every(i => i.naturalWidth > 0),
    figures: [...document.querySelectorAll("svg")].every(s => s.getBoundingClientRect().height > 100),
  })
})</script>"""


@pytest.fixture(scope="module")
def pages(tmp_path_factory):
    folder = tmp_path_factory.mktemp("pages")
    names = ["airplane", "an_automobile_with_a_very_long_name_without_spaces", *"bcdefghi"]
    one = write_run(folder / "digits_pgd_at-seed0-20260101-120000-with-a-very-long-name", class_names=names)
    two = write_run(folder / "digits_standard", method="standard", seed=1, epochs=12)
    write_shifted(one / "evaluations" / "corruptions+quick")
    write_shifted(two / "evaluations" / "shifts", "shifts")
    return {"one": write_report([one]), "two": write_report([one, two], folder / "two.html")}


@pytest.mark.skipif(CHROMIUM is None, reason="no chromium binary on PATH (apt-get install chromium)")
@pytest.mark.parametrize("width", [1280, 390])
@pytest.mark.parametrize("which", ["one", "two"])
def test_the_page_fits_laptop_and_phone(pages, tmp_path, which, width):
    source = pages[which].read_text(encoding="utf-8").replace("<details>", "<details open>")
    source = re.sub(r'<meta http-equiv="Content-Security-Policy"[^>]*>', "", source)
    framed = html.escape(source.replace("</body>", PROBE + "</body>"))
    # A frame, because no window of Chromium gets narrower than 500 pixels.
    outer = tmp_path / "outer.html"
    style = f"border: 0; width: {width}px; height: 900px"
    outer.write_text(
        f'<!doctype html><meta charset="utf-8"><iframe style="{style}" srcdoc="{framed}"></iframe>', "utf-8"
    )
    command = [CHROMIUM, *FLAGS, f"--user-data-dir={tmp_path / 'profile'}", "--window-size=1400,1000", "--dump-dom"]
    done = subprocess.run([*command, outer.as_uri()], capture_output=True, text=True, timeout=120, check=True)
    probe = json.loads(html.unescape(re.search(r'<body data-probe="([^"]*)"', done.stdout)[1]))
    assert probe["width"] == pytest.approx(width, abs=20)
    assert probe["scroll"] <= probe["width"]
    assert probe["wide"] == []
    assert probe["pictures"]
    assert probe["figures"]
