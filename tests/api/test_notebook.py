"""What a notebook shows of a solution: its votes and its race, and no text as markup."""

from __future__ import annotations

from dataclasses import replace
from html.parser import HTMLParser

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestrator import Solution
from orchestrator.api.race import CHECKPOINT, PROBED, Lane, Mark, race
from orchestrator.core.values import Answer, Cluster, Finish, Purpose, Result, Status
from orchestrator.core.votes import AttemptState
from orchestrator.studies.estimates import Estimate
from orchestrator.studies.sweep.levels import Level
from orchestrator.studies.sweep.surface import Setting, Surface
from orchestrator.testing import trace

TAGS = {"div", "table", "caption", "thead", "tbody", "tr", "th", "td"}
TAGS |= {"svg", "rect", "circle", "line", "text"}
EVIL = ("<script>alert(1)</script>", '"><img src=x onerror=alert(1)>', "</svg><b>", "&lt;&#60;")


class Reader(HTMLParser):
    """Collects the tags, attributes and texts of a document, and checks that tags nest."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.attributes: set[str] = set()
        self.tags: set[str] = set()
        self.text = ""
        self.feed(html)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.handle_startendtag(tag, attrs)
        self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        self.attributes |= {name for name, _ in attrs}

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += data


def solution(first: str, second: str = "7") -> Solution:
    """Return a solution with two answers, a checkpoint, a probe and a dropped attempt."""
    pool = (
        trace(0, None, finish=Finish.RULE, tokens=10),
        trace(1, "7", tokens=5, purpose=Purpose.PROBE, parent=0),
        trace(2, first, tokens=20, parent=0),
        trace(3, second, tokens=40),
        trace(4, None, finish=Finish.CANCELLED, tokens=15),
    )
    clusters = tuple(
        Cluster(Answer(text, text), (n,), 1.0) for n, text in ((2, first), (3, second))
    )
    result = Result("p", Status.ANSWERED, clusters[0].answer, clusters, dropped={4: 2})
    return Solution(result, pool)


def test_the_race_has_a_lane_for_each_attempt() -> None:
    one = solution("6")
    assert race(one.result, one.traces) == [
        Lane(2, AttemptState.VOTED, "6", 30, (Mark(10, PROBED), Mark(10, CHECKPOINT))),
        Lane(3, AttemptState.VOTED, "7", 40),
        Lane(4, AttemptState.DROPPED, None, 15, (), 2),
    ]


def test_a_solution_shows_its_votes_and_its_race() -> None:
    html = solution("6")._repr_html_()
    text = Reader(html).text
    assert all(part in text for part in ("6", "50%", "2 voted", "4 dropped", "15 · no answer"))
    assert html.count("<rect") == 2 + 3
    assert len(html) < 5_000


@given(st.one_of(st.sampled_from(EVIL), st.text(max_size=300)), st.text(max_size=60))
def test_no_text_of_a_model_is_markup(first: str, second: str) -> None:
    """Whatever an answer is, the tags and attributes are ours, they nest, and nothing is loaded."""
    read = Reader(solution(first, second + "x")._repr_html_())
    assert read.tags <= TAGS
    assert not {a for a in read.attributes if a.startswith("on") or a in ("href", "src")}


def test_plots_draw_what_the_notebook_shows() -> None:
    mpl = pytest.importorskip("matplotlib")
    mpl.use("Agg")
    from matplotlib import pyplot

    from orchestrator.api.plots import plot_race, plot_votes

    one = solution("$6")
    votes, lanes = plot_votes(one), plot_race(one)
    votes.figure.canvas.draw()
    assert [bar.get_width() for bar in votes.patches] == [1.0, 1.0]
    assert [bar.get_width() for bar in lanes.patches] == [30, 40, 15]
    assert [t.get_text() for t in lanes.get_yticklabels()] == ["2 voted", "3 voted", "4 dropped"]
    pyplot.close("all")


def test_an_accuracy_and_a_surface_show_themselves() -> None:
    one = Estimate(0.75, 0.5, 0.9, 12)
    assert Reader(one._repr_html_()).text == "0.75, 95% interval 0.5 to 0.9 (n = 12)"
    level = Level(1, 8, 1.0, 1.0, 0.5, 2.0, 1.0, 2, 0.5, None)
    settings = tuple(Setting(1, k, replace(one, value=k / 4), 0, one, 1, 1) for k in (1, 2))
    made = Surface((1,), (0,), (1, 2), "<b>", "tokens", 12, 0, settings, (level,), 1, 0)
    read = Reader(made._repr_html_())
    assert "accuracy of <b>, 12 problems" in read.text
    assert "<b>50.0%</b>" in made._repr_html_()
    assert "25.0%" in read.text
