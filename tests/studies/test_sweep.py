"""The surface: exact against brute force, the rule for the cheapest setting, what is refused,
resumption, and plans that run.
"""

from __future__ import annotations

import itertools
import json
import math
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner, Result
from hypothesis import given, settings
from hypothesis import strategies as st

from orchestrator.cli.main import leadline
from orchestrator.cli.view.plots import surface_picture
from orchestrator.core.errors import EngineError, LeadlineError, PlanError
from orchestrator.core.plan import Model
from orchestrator.core.values import Capability, Usage
from orchestrator.engines.fake.engine import Fake, FakeEngine, problem_number
from orchestrator.plan import registry
from orchestrator.studies.estimates import Estimate, mean_estimates
from orchestrator.studies.sweep.levels import (
    Effort,
    Level,
    agreed_at_k,
    alternatives,
    first_look,
    vote_weight,
)
from orchestrator.studies.sweep.surface import (
    Setting,
    Surface,
    by_drawing,
    by_majority,
    cheapest,
    pareto,
    parse_counts,
    parse_limits,
    surface,
)
from orchestrator.testing.scripted.pools import pool
from strategies.selectors.majority import Majority

RIGHT = frozenset("A")
ONE = Effort(1)
Run = Callable[..., Result]


def brute_majority(words: Sequence[str], k: int) -> float:
    """The chance that k words in random order have "A" as their majority, the first drawn winning a
    tie: over all orders of all parts.
    """
    n_right = n = 0
    for part in itertools.permutations(words, k):
        counts = Counter(word for word in part if word != "-")
        most = max(counts.values(), default=0)
        n_right += next((word for word in part if counts[word] == most and word != "-"), "") == "A"
        n += 1
    return n_right / n


@given(st.lists(st.sampled_from("AABC-"), min_size=1, max_size=6))
@settings(max_examples=40, deadline=None)
def test_every_width_is_the_expectation_over_all_parts_of_the_pool(words: list[str]) -> None:
    """Exact: nothing is drawn, and no part of the pool is preferred."""
    widths = range(1, len(words) + 1)
    found = by_majority("p", pool(" ".join(words)), RIGHT, list(widths))
    assert [value for value, _ in found] == pytest.approx(
        [brute_majority(words, k) for k in widths], abs=1e-12
    )
    assert [error for _, error in found] == [0.0] * len(words)


@given(st.lists(st.sampled_from("AABC-"), min_size=1, max_size=8))
@settings(max_examples=20, deadline=None)
def test_other_selectors_take_every_part_where_there_are_few(words: list[str]) -> None:
    """C(8, 4) = 70 parts and fewer: all are taken, so the share is exact.

    Of one trace, or of all, a majority has no order to depend on.
    """
    n = len(words)
    drawn = by_drawing(Majority())("p", pool(" ".join(words)), RIGHT, [1, n])
    assert drawn[0] == (pytest.approx(words.count("A") / n), 0.0)
    counts = Counter(word for word in words if word != "-")
    leads = max(counts, key=lambda word: (counts[word], -words.index(word)), default="")
    assert drawn[1] == (float(leads == "A"), 0.0)


def test_drawing_comes_within_its_error_of_the_exact_value() -> None:
    """40 pools, each within 4.5 standard errors (P(false alarm) < 40 * 7e-6), and the same the
    second time.

    No tie is possible at width 3 of two answers, so both rules for ties agree.
    """
    words = " ".join("A" * 13 + "B" * 11)
    for id in map(str, range(40)):
        [(value, error)] = by_drawing(Majority())(id, pool(words), RIGHT, [3])
        [(exact, _)] = by_majority(id, pool(words), RIGHT, [3])
        assert error == pytest.approx(math.sqrt(value * (1 - value) / 99))
        assert abs(value - exact) < 4.5 * math.sqrt(exact * (1 - exact) / 100)
        assert by_drawing(Majority())(id, pool(words), RIGHT, [3]) == [(value, error)]


# The rule for the cheapest


def setting(value: float, tokens: float, below: float, low: float | None, n: int = 100) -> Setting:
    high = None if low is None else 2 * below - low
    return Setting(
        1, 1, Estimate(value, None, None, n), 0.0, Estimate(below, low, high, n), tokens, 0.0
    )


def test_the_cheapest_is_the_one_of_fewest_tokens_whose_difference_may_be_none() -> None:
    best = setting(0.9, 100, 0.0, None)
    maybe = setting(0.88, 50, 0.02, -0.01)
    surely_worse = setting(0.85, 20, 0.05, 0.01)
    assert cheapest([best, maybe, surely_worse]) == 1
    assert cheapest([best, surely_worse]) == 0


def test_less_than_half_a_problem_is_no_difference() -> None:
    """Of 100 problems: 0.4 points is less than half of one, however sharp; 0.6 points is not.

    A constant difference has no interval.
    """
    best = setting(0.9, 100, 0.0, None)
    assert cheapest([best, setting(0.896, 10, 0.004, 0.003)]) == 1
    assert cheapest([best, setting(0.894, 10, 0.006, 0.005)]) == 0
    assert cheapest([best, setting(0.8, 10, 0.1, None)]) == 0


def test_of_equally_cheap_settings_the_more_accurate_is_named_then_the_first() -> None:
    best = setting(0.9, 100, 0.0, None)
    assert cheapest([best, setting(0.88, 50, 0.02, -0.01), setting(0.89, 50, 0.01, -0.01)]) == 2
    assert cheapest([best, setting(0.89, 50, 0.01, -0.01), setting(0.89, 50, 0.01, -0.01)]) == 1


def test_differences_are_resampled_over_the_same_problems() -> None:
    """Two settings that differ by 1 point on every problem: paired, the difference has no spread,
    though each mean has plenty.
    """
    base = np.linspace(0, 0.9, 50)
    first, second, difference = mean_estimates(
        np.stack([base, base + 0.01, np.full(50, 0.01)], axis=1)
    )
    assert first.low is not None
    assert first.high is not None
    assert first.high - first.low > 0.1
    ends = pytest.approx((first.low + 0.01, first.high + 0.01))
    assert (second.low, second.high) == ends
    assert difference == Estimate(pytest.approx(0.01), None, None, 50)


@given(st.lists(st.tuples(st.integers(1, 5), st.integers(0, 5)), min_size=1, max_size=12))
def test_nothing_on_the_front_is_beaten_and_all_else_is(points: list[tuple[int, int]]) -> None:
    def beaten(point: tuple[int, int]) -> bool:
        return any(
            c <= point[0] and a >= point[1] and (c < point[0] or a > point[1]) for c, a in points
        )

    assert pareto(points) == [not beaten(point) for point in points]


# What a vote is worth


def test_the_weight_of_a_vote_is_its_log_odds() -> None:
    """0.8 right against four wrong answers at 0.05 each: one vote makes the right one 16 times as
    likely as any of them.
    """
    assert vote_weight(0.8, 4.0) == pytest.approx(math.log(16))
    # worse than chance: it does not count, and certainly not against
    assert vote_weight(0.1, 4.0) == 0.0


def test_wrong_answers_in_effect_are_one_over_the_chance_that_two_agree() -> None:
    """Counts 2, 1, 1: of 12 ordered pairs 2 agree."""
    assert alternatives([[2, 1, 1]]) == pytest.approx(6.0)
    assert alternatives([[5]]) == 1.0
    assert alternatives([[1], []]) == 1.0  # no pair to tell from: the most cautious value
    assert alternatives([[1, 1, 1]]) == 3.0  # none agree: no more than were seen


@given(st.lists(st.sampled_from("AABC-"), min_size=3, max_size=7))
def test_agreement_is_counted_over_all_parts(words: list[str]) -> None:
    parts = list(itertools.combinations(words, 3))
    agreed = [part for part in parts if len(set(part)) == 1 and part[0] != "-"]
    counts = Counter(word for word in words if word != "-")
    expected = (len(agreed) / len(parts), sum(part[0] == "A" for part in agreed) / len(parts))
    assert agreed_at_k(counts, len(words), RIGHT, 3) == pytest.approx(expected)


def level(depth: int, accuracy: float, agreement: float, agreed_accuracy: float | None) -> Level:
    return Level(depth, 100, 10.0 * depth, 0.0, accuracy, 3.0, 1.0, 4, agreement, agreed_accuracy)


def test_a_first_look_must_save_more_than_it_costs() -> None:
    """4 traces at 10 against agreement x 3 traces at 80: from an agreement of 1/6 on it saves.

    One that is seldom right is not worth it.
    """
    deep = level(8, 0.9, 0.7, 1.0)
    assert first_look([level(1, 0.4, 0.17, 0.95), deep], deep) == level(1, 0.4, 0.17, 0.95)
    assert first_look([level(1, 0.4, 0.16, 0.95), deep], deep) is None
    assert first_look([level(1, 0.4, 0.5, 0.85), deep], deep) is None
    assert first_look([level(1, 0.4, 0.5, 0.95), level(2, 0.5, 0.9, 0.95), deep], deep) == level(
        2, 0.5, 0.9, 0.95
    )


# The surface


def test_a_width_of_one_pays_the_prompt_and_the_whole_pool_pays_what_it_did() -> None:
    """The first trace computes 20 prompt tokens, the others find 16 of them cached; 5 tokens are
    generated each, at 2 layers.
    """
    traces = [
        replace(t, usage=Usage(20, 16 if i else 0, 5, 2 * (25 - (16 if i else 0)), 0.5))
        for i, t in enumerate(pool("A A A A"))
    ]
    found = surface({ONE: {"p": traces}}, {ONE: {"p": RIGHT}}, [1, 4], "majority", by_majority)
    assert [s.layer_tokens for s in found.settings] == [
        2 * 25,
        sum(t.usage.layer_tokens for t in traces),
    ]
    assert [s.seconds for s in found.settings] == [0.5, 2.0]


def test_problems_without_enough_attempts_are_left_out_and_counted() -> None:
    whole, short_pool = pool("A A B B"), pool("A A")
    found = surface(
        {ONE: {"p": whole, "q": short_pool}},
        {ONE: {"p": RIGHT, "q": RIGHT}},
        [1, 4],
        "majority",
        by_majority,
    )
    assert (found.n_problems, found.n_left_out) == (1, 1)
    with pytest.raises(
        LeadlineError,
        match="none of 1 problems with a reference answer has 4 attempts at every effort",
    ):
        surface({ONE: {"q": short_pool}}, {ONE: {"q": RIGHT}}, [4], "majority", by_majority)


def test_two_votes_are_on_no_front_beside_one_that_is_as_good() -> None:
    """A majority of two is the first drawn: exactly as accurate as one, though sums of floats may
    differ in the last digit.
    """
    pools = {f"p{i}": pool(" ".join("A" * (i % 7 + 1) + "B" * 5 + "C" * 3)) for i in range(30)}
    found = surface(
        {ONE: pools}, {ONE: dict.fromkeys(pools, RIGHT)}, [1, 2, 4], "majority", by_majority
    )
    assert [s.on_front for s in found.settings][:2] == [True, False]


def made_surface(
    depths: Sequence[int] = (1, 4), n_problems: int = 12, thinking: Sequence[int] = (0,)
) -> Surface:
    words = {1: ["A B C B", "A A B C"], 4: ["A A A B", "A A A A"], 0: ["A B", "A A"]}
    efforts = [Effort(d, t) for d in depths for t in thinking]
    pools = {e: {f"p{i}": pool(words[e.depth][i % 2]) for i in range(n_problems)} for e in efforts}
    right = {e: dict.fromkeys(pools[e], RIGHT) for e in efforts}
    return surface(pools, right, [1, 2], "majority", by_majority)


def test_a_surface_has_every_setting_in_order() -> None:
    found = made_surface()
    assert [(s.depth, s.width) for s in found.settings] == [(1, 1), (1, 2), (4, 1), (4, 2)]
    assert found.at(Effort(4), 1).accuracy.value == pytest.approx(7 / 8)
    assert found.at(ONE, 1).accuracy.value == pytest.approx(3 / 8)
    assert found.settings[found.best].depth == 4
    assert found.settings[found.best].below_best == Estimate(0.0, None, None, 12)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("depths", "n_problems", "thinking"),
    [((1, 4), 12, (0,)), ((0,), 1, (0,)), ((0,), 12, (64, 0)), ((1, 4), 12, (64, 128, 0))],
)
def test_a_picture_is_drawn_of_any_surface(
    depths: tuple[int, ...], n_problems: int, thinking: tuple[int, ...]
) -> None:
    """One problem, one depth, no intervals and no seconds included."""
    picture = surface_picture(made_surface(depths, n_problems, thinking))
    assert picture.startswith(b"\x89PNG")
    assert len(picture) > 20_000


# The command


@pytest.mark.parametrize(
    ("text", "counts"),
    [
        ("1..64", (1, 2, 4, 8, 16, 32, 64)),
        ("1,4,16", (1, 4, 16)),
        ("1..6", (1, 2, 4, 6)),
        ("3", (3,)),
        ("8, 1..3", (1, 2, 3, 8)),
    ],
)
def test_ranges_double_and_lists_are_taken_as_they_are(text: str, counts: tuple[int, ...]) -> None:
    assert parse_counts(text, "--widths") == counts


@pytest.mark.parametrize("text", ["0", "0..8", "8..1", "x", "1,,2", "-1", "1..", "..8", "1.5", ""])
def test_what_is_no_width_is_refused(text: str) -> None:
    with pytest.raises(
        PlanError,
        match=r"--widths .*whole numbers from 1, "
        r"as a list \(1,4,16\) or as a range that doubles \(1..64\)",
    ):
        parse_counts(text, "--widths")


@pytest.mark.parametrize(
    ("text", "limits"),
    [("512,1024", (512, 1024)), ("0, 8..32", (8, 16, 32, 0)), ("0", (0,))],
)
def test_no_limit_of_thinking_comes_last(text: str, limits: tuple[int, ...]) -> None:
    assert parse_limits(text, "--thinking") == limits


ANSWERS = '["{hash}", "2000", "2001", "2002"]'
PLAN = f"""
problems = "p.jsonl"
domain = "number"
[models.main]
path = "any"
max_depth = 8
[execution.engine]
name = "fake"
answers = {ANSWERS}
weights = [17, 1, 1, 1]
steps = 8
"""


@pytest.fixture
def cli(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    """Run the command in a directory of its own, in this process, with 60 problems and a plan."""
    monkeypatch.chdir(tmp_path)
    rows = [
        {"id": f"q{i}", "prompt": f"What is {i}?", "answer": problem_number(f"q{i}")}
        for i in range(60)
    ]
    Path("p.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    Path("plan.toml").write_text(PLAN)
    return lambda *arguments: CliRunner().invoke(leadline, list(arguments))


@pytest.mark.slow
def test_a_sweep_writes_its_surface_and_plans_that_run(cli: Run, tmp_path: Path) -> None:
    """Half-way depths solve half-way problems: the front ends at depth 8. best.toml repeats its
    setting; deepen.toml spends at most half.

    Problems need 1 to 8 steps; at depth 8 a trace is right 17 times in 20, so four that vote are
    right with probability 1 - P(majority wrong) > .95. The best setting's 60 problems and
    `deepen`'s differ by at most 3 (its confidence allows one, expected).
    """
    done = cli("sweep", "plan.toml", "--depths", "1,2,4,8", "--widths", "1..16")
    assert done.exit_code == 0, done.output
    for words in (
        "Pareto front",
        "Cheapest within one interval",
        "weight",
        "surface.json, best.toml, deepen.toml, surface.png",
    ):
        assert words in done.stdout, words
    folder = tmp_path / "runs/plan-sweep"
    found = json.loads((folder / "surface.json").read_text())
    at = {(s["depth"], s["width"]): s for s in found["settings"]}
    assert at.keys() == set(itertools.product((1, 2, 4, 8), (1, 2, 4, 8, 16)))
    assert (
        at[8, 16]["accuracy"]["value"]
        > 0.95
        > 0.6
        > at[4, 16]["accuracy"]["value"]
        > at[1, 16]["accuracy"]["value"]
    )
    assert at[8, 4]["layer_tokens"] == pytest.approx(4 * 8 * at[1, 1]["layer_tokens"])
    chosen, best = found["settings"][found["cheapest"]], found["settings"][found["best"]]
    assert chosen["layer_tokens"] <= best["layer_tokens"]
    again = json.loads(cli("run", str(folder / "best.toml"), "--json").stdout)["report"]
    assert again["n_traces"] == 60 * chosen["width"]
    assert again["total"]["layer_tokens"] == pytest.approx(60 * chosen["layer_tokens"])
    deepened = json.loads(cli("run", str(folder / "deepen.toml"), "--json").stdout)["report"]
    assert deepened["accuracy"]["value"] >= best["accuracy"]["value"] - 3 / 60
    assert deepened["total"]["layer_tokens"] <= 60 * best["layer_tokens"] / 2


@pytest.fixture
def plain(cli: Run, monkeypatch: pytest.MonkeyPatch) -> Run:
    """The same without matplotlib, whose pictures take most of the time."""
    monkeypatch.setitem(sys.modules, "orchestrator.cli.view.plots", None)
    return cli


def test_each_depth_is_an_ordinary_job(plain: Run) -> None:
    plain("sweep", "plan.toml", "--depths", "2", "--widths", "2", "--out", "s", "-q")
    shown = plain("eval", "s/depth-2")
    assert shown.exit_code == 0, shown.output
    assert "60 results, 120 traces" in shown.output


def test_without_depths_a_sweep_is_of_widths_at_the_models_own(plain: Run) -> None:
    """An ordinary model has a surface of one row, and no plan that deepens."""
    done = plain(
        "sweep",
        "plan.toml",
        "--widths",
        "1,2",
        "--out",
        "s",
        "--execution.engine.steps",
        "0",
        "--limit",
        "10",
        "--json",
    )
    assert json.loads(done.stdout)["depths"] == [0]
    assert sorted(p.name for p in Path("s").iterdir()) == ["best.toml", "depth-own", "surface.json"]
    assert plain("run", "s/best.toml").exit_code == 0


def test_other_selectors_are_swept_by_drawing(plain: Run) -> None:
    done = plain(
        "sweep",
        "plan.toml",
        "--depths",
        "8",
        "--widths",
        "4,16",
        "--limit",
        "8",
        "--selector",
        "weighted",
        "--json",
    )
    at = {s["width"]: s for s in json.loads(done.stdout)["settings"]}
    assert at[4]["drawing_error"] > 0.0 == at[16]["drawing_error"]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (
            ["--depths", "1,16"],
            [
                "sampling.depth requests latent depth 16",
                "serves 1 to 8",
                "raise models.main.max_depth",
            ],
        ),
        (["--depths", "0"], ["--depths '0'", "whole numbers from 1"]),
        (["--widths", "0..8"], ["--widths '0..8'", "whole numbers from 1"]),
        (
            ["--depths", "2", "--execution.engine", "openai"],
            ["engine 'openai' runs models as they ship", "use an engine that offers 'depth'"],
        ),
        (["--budget.traces", "8"], ["budget.traces would cut it short", "--budget.traces 0"]),
        (["--problems", "bare.jsonl"], ["bare.jsonl has no reference answers", "`answer`"]),
        (["--out", "job"], ["job is the directory of a job", "--out"]),
    ],
)
def test_what_cannot_be_swept_is_refused_before_anything_starts(
    cli: Run, arguments: list[str], words: list[str]
) -> None:
    Path("bare.jsonl").write_text('{"id": "q", "prompt": "What?"}\n')
    cli("run", "plan.toml", "--out", "job", "--limit", "1", "--strategy.n", "1")
    refused = cli("sweep", "plan.toml", *arguments)
    assert refused.exit_code == 2, refused.output
    for word in words:
        assert word in refused.stderr, refused.stderr
    assert not Path("runs").exists()


def test_without_matplotlib_the_sweep_says_how_to_get_pictures(plain: Run) -> None:
    done = plain(
        "sweep", "plan.toml", "--depths", "2", "--widths", "2", "--out", "s", "--limit", "5"
    )
    assert done.exit_code == 0, done.output
    assert "pip install 'leadline[plot]'" in done.stdout
    assert not Path("s/surface.png").exists()


@pytest.mark.slow
def test_a_killed_sweep_goes_on_where_it_was(plain: Run, tmp_path: Path) -> None:
    """Kill -9 in the second depth, then the same command: the first depth's journal is untouched,
    and the numbers are those of one go.

    A trace of 8 tokens at depth d takes 40 d ms, 64 are in flight: the second depth takes at least
    240 / 64 * 80 ms = 300 ms.
    """
    command = [
        "sweep",
        "plan.toml",
        "--depths",
        "1,2",
        "--widths",
        "1..4",
        "--execution.engine.seconds_per_token",
        "0.005",
    ]
    child = subprocess.Popen(
        [sys.executable, "-m", "orchestrator", *command, "--out", "a"],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    first, second = tmp_path / "a/depth-1/journal.db", tmp_path / "a/depth-2/journal.db"
    deadline = time.monotonic() + 60
    while not second.exists() and time.monotonic() < deadline and child.poll() is None:
        time.sleep(0.005)
    child.send_signal(signal.SIGKILL)
    assert child.wait() == -signal.SIGKILL
    assert not (tmp_path / "a/surface.json").exists()
    done_before = first.with_name("results.jsonl").read_bytes()
    assert plain(*command, "--out", "a", "-q").exit_code == 0
    assert plain(*command, "--out", "b", "-q").exit_code == 0
    assert first.with_name("results.jsonl").read_bytes() == done_before
    one, other = (json.loads(Path(f"{name}/surface.json").read_text()) for name in "ab")
    assert one == other


@registry.engine("test-never-up")
@dataclass(frozen=True)
class NeverUp:
    """Cannot start."""

    def capabilities(self) -> frozenset[Capability]:
        return Fake().capabilities()

    @asynccontextmanager
    async def open(self, models: Mapping[str, Model]) -> AsyncIterator[FakeEngine]:
        raise EngineError("no engine today")
        yield FakeEngine(Fake())


def test_an_engine_that_does_not_start_ends_the_sweep_with_its_reason(plain: Run) -> None:
    """The engine is opened in a task of its own: its error must come out, and nothing may hang."""
    failed = plain(
        "sweep", "plan.toml", "--depths", "1,2", "--out", "s", "--execution.engine", "test-never-up"
    )
    assert failed.exit_code == 1
    assert "no engine today" in failed.stderr


def test_a_sweep_opens_one_engine_for_all_depths(plain: Run) -> None:
    """The fake engine counts the requests it has served: it dies at the fifth, which the second
    depth alone does not reach.
    """
    flags = ("--depths", "1,2", "--widths", "4", "--limit", "1", "--execution.engine.crash_after")
    assert plain("sweep", "plan.toml", *flags, "8", "--out", "a", "-q").exit_code == 0
    broken = plain("sweep", "plan.toml", *flags, "5", "--out", "b", "-q")
    assert broken.exit_code == 1
    assert "dies on purpose after 5 requests" in broken.stderr
    assert Path("b/depth-2/journal.db").exists()
    assert plain("sweep", "plan.toml", *flags, "5", "--out", "b", "-q").exit_code == 0
