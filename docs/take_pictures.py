"""Takes the pictures of docs/questions.md that show the jobs of `leadline demo`, with Chromium.

    python docs/take_pictures.py

To be run when these jobs were recorded again, or when a page that is shown has changed. Not taken:
reading.png and failed.png, which show other jobs.
"""

from __future__ import annotations

import shutil
import tempfile
from io import BytesIO
from pathlib import Path
from typing import NamedTuple

from click.testing import CliRunner
from PIL import Image
from playwright.sync_api import FloatRect, Locator, Page, ViewportSize, sync_playwright

from orchestrator.cli.main import leadline

PICTURES = Path(__file__).parent / "questions"
_PROBLEM = "/0/problem/rooms8-51"  # of the pruned job
_WIDTH = 1060  # two panels side by side
_SCALE = 1.5  # pixels of a picture per pixel of the page
_STYLE = ".columns.two { align-items: start }"  # no panel is made as high as the one beside it


class View(NamedTuple):
    """A place in the report, the panels to show, and what is clicked before."""

    place: str
    panels: tuple[str, ...]
    click: str = ""


VIEWS = {
    "why": View(_PROBLEM, ("Why this answer",)),
    "part": View(_PROBLEM, (), ".part >> nth=0"),
    "race": View(_PROBLEM, ("The race",)),
    "dropped": View(_PROBLEM, ("Dropped, cancelled and failed",)),
    "vote": View("/0/problem/rooms8-12", ("Why this answer",)),
    "cost": View("/1", ("Cost by purpose",)),
    "tag": View("/1", ("Accuracy by tag",)),
    "depth": View("/sweep/0", ("The surface", "Accuracy against cost"), "[data-cell='4 0']"),
    "changed": View(
        "/compare/0",
        ("The difference", "What differs in the plans", "By tag", "Tokens of each problem"),
    ),
}


def main() -> None:
    """Write the pictures."""
    with tempfile.TemporaryDirectory() as folder, sync_playwright() as playwright:
        CliRunner(env={"DISPLAY": None, "WAYLAND_DISPLAY": None}).invoke(
            leadline, ["demo", "--out", folder], catch_exceptions=False
        )
        chromium = shutil.which("chromium")
        browser = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        size = ViewportSize(width=_WIDTH, height=900)
        page = browser.new_page(viewport=size, device_scale_factor=_SCALE, bypass_csp=True)
        for name, view in VIEWS.items():
            page.goto("about:blank")
            page.goto(f"file://{folder}/report.html#{view.place}")
            page.add_style_tag(content=_STYLE)
            _save(page, view, PICTURES / f"{name}.png")
        browser.close()


def _save(page: Page, view: View, target: Path) -> None:
    """Save what a view shows, with as few bytes as 256 colours allow."""
    if view.click:
        page.click(view.click)
    shown = [page.locator(f"section[aria-label='{panel}']") for panel in view.panels]
    picture = page.screenshot(clip=_around(shown or [page.locator(".diff")]), full_page=True)
    with Image.open(BytesIO(picture)) as image:
        image.convert("RGB").quantize(256).save(target, optimize=True)


def _around(shown: list[Locator]) -> FloatRect:
    """Return the smallest rectangle that contains all of these."""
    boxes = [box for place in shown if (box := place.bounding_box()) is not None]
    left, top = min(box["x"] for box in boxes), min(box["y"] for box in boxes)
    right = max(box["x"] + box["width"] for box in boxes)
    bottom = max(box["y"] + box["height"] for box in boxes)
    return FloatRect(x=left, y=top, width=right - left, height=bottom - top)


if __name__ == "__main__":
    main()
