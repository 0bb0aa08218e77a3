"""A page in headless Chromium: what it measures of itself, what it logs, and what it asks of a network."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
FLAGS = [
    *("--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--hide-scrollbars"),
    *("--disable-background-networking", "--disable-component-update", "--disable-sync"),
    *("--enable-logging=stderr", "--allow-file-access-from-files"),
    "--enable-blink-features=ComputedAccessibilityInfo",  # what a screen reader is told of an element
]
WIDTHS = (1280, 375)  # a desk and a phone
MEASURES = """<script>
onload = () => {
  const page = document.querySelector("iframe").contentDocument;
  const text = query => page.querySelector(query) ? page.querySelector(query).textContent : null;
  document.title = JSON.stringify({
    verdict: text("#verdict"),
    wide: page.documentElement.scrollWidth,
    drawn: [...page.querySelectorAll("figure svg")].map(svg => svg.getBoundingClientRect().width > 150),
    titled: [...page.querySelectorAll("figure")].map(one => !!one.querySelector("h2")
      && !!one.querySelector("svg title")
      && !!one.querySelector("figcaption").textContent && one.querySelectorAll("details tbody tr").length > 0),
    // text of a drawing beyond its edge, and what a phone would have to be pushed sideways to show
    clipped: [...page.querySelectorAll(".figures svg")].flatMap(svg => {
      const edge = svg.getBoundingClientRect();
      return [...svg.querySelectorAll("text")].filter(one => {
        const box = one.getBoundingClientRect();
        return box.left < edge.left - 1 || box.right > edge.right + 1;
      }).map(one => one.textContent);
    }).concat([...page.querySelectorAll(".scroll, pre")]
      .filter(one => one.scrollWidth > one.clientWidth + 1)
      .filter(one => page.documentElement.clientWidth < 640 || !one.closest("details"))
      .map(one => one.textContent.trim().slice(0, 60))),
    broken: [...page.querySelectorAll(".gates tbody th:first-child, tbody [data-name=verdict] span")].filter(one => {
      const text = page.createRange();
      text.selectNodeContents(one);
      return text.getClientRects().length > 1;
    }).map(one => one.textContent),
    // words beside many figures, with no width to be read in
    narrow: [...page.querySelectorAll(".wide td:last-child:not(.number) span")]
      .filter(one => one.textContent.length > 40 && one.closest("td").getBoundingClientRect().width < 120)
      .filter(one => !one.closest("details:not([open])") && getComputedStyle(one.closest("td")).display != "contents")
      .map(one => one.textContent),
    // what the layout took from a table, and where the keyboard does not get to; what is closed has no role
    forgotten: [...page.querySelectorAll("table, thead, tbody, tr, th, td")]
      .filter(one => !one.closest("details:not([open])") && one.computedRole !== one.getAttribute("role"))
      .map(one => `${one.tagName} ${one.computedRole} ${one.textContent}`),
    unreached: [...page.querySelectorAll(".scroll")]
      .filter(one => !one.closest("details:not([open])"))
      .filter(one => (one.focus(), page.activeElement !== one) || one.computedRole !== "region" || !one.computedName)
      .map(one => one.textContent.trim().slice(0, 60)),
    pixels: [...page.querySelectorAll(".panel > svg > image, .panel > svg > use")].map(one => one.getBBox().width > 0),
  });
};
</script>"""

needs_chromium = pytest.mark.skipif(CHROMIUM is None, reason="Chromium is not installed")


def browse(page: Path) -> tuple[str, list[str], set[str]]:
    """The page's DOM, its console lines, and what it asked of a network (Chromium's own calls home left out)."""
    log = page.with_suffix(".net.json")
    argv = [str(CHROMIUM), *FLAGS, f"--user-data-dir={page.parent / 'profile'}", f"--log-net-log={log}"]
    done = subprocess.run(
        [*argv, "--dump-dom", page.as_uri()], capture_output=True, text=True, timeout=1200, check=True
    )
    console = [line for line in done.stderr.splitlines() if "CONSOLE" in line]
    asked = set(re.findall(r'"url":"(https?://[^"]+)"', log.read_text()))
    return done.stdout, console, {url for url in asked if not re.match(r"https?://[\w.-]*\.?google(apis)?\.com/", url)}


def looked_at(text: str, folder: Path, width: int) -> dict[str, Any]:
    """Open a page as wide as that and hold it to what every page promises; gives what it measured of itself."""
    (folder / "page.html").write_text(text)
    outer = folder / "outer.html"  # a frame is as narrow as a phone; Chromium's own window is not
    frame = f'<iframe src="page.html" width="{width}" height="900"></iframe>'
    outer.write_text(f'<!doctype html><link rel="icon" href="data:,">{frame}{MEASURES}')
    dom, console, asked = browse(outer)
    found = re.search(r"<title>(.*?)</title>", dom)
    assert found is not None, dom[:500]
    seen = json.loads(found.group(1))
    assert console == [] and asked == set()
    assert seen["wide"] <= width
    assert not seen["clipped"], seen["clipped"]
    assert not seen["broken"], f"names of stages, or verdicts, in pieces: {seen['broken']}"
    assert not seen["narrow"], f"words in a narrow column: {seen['narrow']}"
    assert not seen["forgotten"], f"cells without their role: {seen['forgotten']}"
    assert not seen["unreached"], f"no keyboard reaches {seen['unreached']}"
    for name in ("drawn", "titled", "pixels"):
        assert all(seen[name]), (name, seen[name])
    assert seen["drawn"]
    return seen
