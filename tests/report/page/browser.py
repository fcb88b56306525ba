"""A report that is open in a real browser, and everything that goes wrong in it."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

_AXE = Path(__file__).parents[3] / "web/node_modules/axe-core/axe.min.js"
_PATIENCE = 120_000  # milliseconds: the machine may be busy


@dataclass
class Opened:
    """A report in the browser, with everything that went wrong in it."""

    page: Any
    address: str
    faults: list[str] = field(default_factory=list)

    def go(self, place: str, seen: str) -> None:
        self.page.goto(f"{self.address}#{place}")
        self.page.wait_for_selector(seen)

    def at(self, part: str) -> None:
        """Wait until the address has this part."""
        self.page.wait_for_url(lambda url: part in url)

    def wait_for_count(self, places: str, n: int) -> None:
        """Wait until there are `n` of these; without a script, which the page's policy forbids."""
        from playwright.sync_api import expect

        expect(self.page.locator(places)).to_have_count(n, timeout=_PATIENCE)


def opened(browser: Any, place: Path | str, **options: Any) -> Opened:
    """Open a report, or served pages at their address.

    A request to anywhere else, an error and a violation of the policy are faults.
    """
    page = browser.new_page(**options)
    page.set_default_timeout(_PATIENCE)
    one = Opened(page, f"file://{place}" if isinstance(place, Path) else place)
    own = one.address.partition("?")[0]
    page.on("pageerror", lambda error: one.faults.append(f"error: {error}"))
    page.on("console", lambda m: one.faults.append(m.text) if m.type == "error" else None)
    page.on("dialog", lambda d: (one.faults.append("a dialog"), d.dismiss()))
    page.on(
        "request",
        lambda r: None if r.url.startswith(own) else one.faults.append(f"requested {r.url}"),
    )
    one.go("/", "[data-ready]")
    return one


def check_accessible(
    browser: Any, path: Path, scheme: str, width: int, places: Iterable[tuple[str, str]]
) -> None:
    """Check that axe finds no violation at these places, and that none is wider than the screen.

    A place comes with what is seen when it is there.
    """
    if not _AXE.is_file():
        pytest.skip("axe-core is not installed: make web")
    size = {"width": width, "height": 800}
    one = opened(browser, path, viewport=size, color_scheme=scheme)
    for place, seen in places:
        one.go(place, seen)
        one.page.evaluate(_AXE.read_text())
        found = one.page.evaluate("axe.run(document)")
        problems = [
            (v["id"], [n["html"][:150] for n in v["nodes"][:3]]) for v in found["violations"]
        ]
        assert not problems, (place, problems)
        assert one.page.evaluate("document.documentElement.scrollWidth") <= width, place
    one.page.close()
    assert not one.faults
