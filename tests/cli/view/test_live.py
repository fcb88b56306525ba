"""The view of a running job: what it shows, how rarely it writes, and what it costs."""

import io
import threading
import time

import pytest
from rich.console import Console

from orchestrator.cli.console import Screen
from orchestrator.cli.view.live import (
    LiveView,
    Meter,
    PlainView,
    RunState,
    Ticker,
    plain_counts,
)
from orchestrator.core.plan import Plan
from orchestrator.core.values import Sampling
from orchestrator.engines.supervised import Outages, Pause
from orchestrator.report.losses import loss_causes, losses_so_far
from orchestrator.runtime.progress import Progress


def console(width: int = 80, *, terminal: bool = False) -> Console:
    return Console(
        file=io.StringIO(),
        width=width,
        height=24,
        force_terminal=terminal,
        color_system=None,
        legacy_windows=False,
    )


def text_of(console: Console) -> str:
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


def running(**counts: object) -> RunState:
    progress = Progress(n_problems=300, n_done=120, n_resumed=20, n_running=64, output_tokens=8000)
    for name, value in counts.items():
        setattr(progress, name, value)
    progress.attempts.update({"unused": 100, "voted": 600, "cut off": 20, "cancelled": 30})
    progress.attempts.update({"failed": 2})
    progress.n_arrived = 760
    state = RunState()
    state.start(progress)
    return state


def drawn(state: RunState, width: int) -> str:
    screen = console(width)
    LiveView(screen, "runs/arithmetic · 300 problems").close(state)
    return text_of(screen)


def test_rates_come_from_the_recent_past_not_from_the_whole_run() -> None:
    """A job that was slow to start must show what it does now: 100 tokens a second in the last
    window, though 10 on the average.
    """
    now = 0.0
    meter = Meter(clock=lambda: now)
    progress = Progress(n_problems=10)
    for second in range(200):
        now = float(second)
        progress.output_tokens = max(0, second - 180) * 100
        reading = meter.read(progress, 0.0)
    assert reading.tokens_per_second == pytest.approx(100, rel=0.1)


def test_the_time_left_counts_only_problems_of_this_run() -> None:
    """Problems resumed from the journal took no time now: 100 done in 50 s leave 180 for 90 s,
    whatever was done before.
    """
    meter = Meter(clock=lambda: 50.0)
    reading = meter.read(Progress(n_problems=300, n_done=120, n_resumed=20), 0.0)
    assert reading.eta_seconds == pytest.approx(90.0)


def test_nothing_is_claimed_before_anything_is_known() -> None:
    """No time left and no savings are shown until there is a problem to tell them from."""
    reading = Meter().read(Progress(n_problems=3), time.monotonic())
    assert reading.eta_seconds is None
    assert reading.saved_share is None


@pytest.mark.parametrize("width", [80, 120])
def test_the_picture_fits_its_terminal(width: int) -> None:
    """A line that wraps would push the picture down the screen at every redraw."""
    state = running(
        last_error="q-17: " + "a very long reason " * 20,
        saved_tokens=4000.0,
        n_problems=1_000_000,
        n_done=999_999,
    )
    text = drawn(state, width)
    assert all(len(line) <= width for line in text.splitlines())
    assert "999,999/1,000,000" in text
    assert "64 running · 760 done" in text
    assert "700 answered · 20 cut off · 30 cancelled · 2 failed" in text
    assert "33% fewer than full sampling" in text


def test_tokens_of_running_requests_count_at_once() -> None:
    """On a slow engine nothing arrives for minutes: it must not look as if nothing happened."""
    now = 10.0
    meter = Meter(clock=lambda: now)
    progress = Progress(n_problems=3, running_tokens=500)
    assert meter.read(progress, 0.0).tokens_per_second == pytest.approx(50.0)
    progress.running_tokens, progress.output_tokens = 0, 500  # they have arrived
    assert meter.read(progress, 0.0).tokens_per_second == pytest.approx(50.0)
    assert "500 tokens" in plain_counts(progress)


def test_a_loss_is_not_called_saved() -> None:
    """More was spent than full sampling takes: "saved -25%" would be read as a gain."""
    text = drawn(running(saved_tokens=-1600.0), 120)
    assert "25% more than full sampling" in text
    assert "-" not in text.split("tokens")[1].split("\n")[0]
    assert "saved" not in text


def test_a_cause_of_lost_accuracy_is_named_while_it_runs() -> None:
    """Whoever waits for a night's run should not learn in the morning that most were cut."""
    state = running()
    state.losses = lambda progress: loss_causes(
        losses_so_far(progress), Plan(sampling=Sampling(max_new_tokens=64)), "runs/x", 10
    )
    assert state.progress is not None
    state.progress.attempts.update({"cut off": 480})
    assert "cut off    500 of 1,232 attempts; raise sampling.max_new_tokens" in drawn(state, 80)
    out = console()
    PlainView(out, "runs/x").close(state)
    assert "; cut off: 500 of 1,232 attempts; raise sampling.max_new_tokens" in text_of(out)


def test_a_starting_engine_shows_what_it_does_and_for_how_long() -> None:
    """Loading a model takes a minute: without a word it would look hung."""
    state = RunState()
    state.enter("starting engine 'ray'", "loading smollm2 takes about a minute")
    assert "starting engine 'ray', 0.0 s (loading smollm2 takes about a minute)" in drawn(state, 80)


def test_a_run_that_ends_while_it_starts_is_not_reported_as_still_starting() -> None:
    """The line would stand right above the error, or after Ctrl-C above "stopped"."""
    out = console()
    state = RunState()
    state.enter("starting engine 'ray'")
    view = PlainView(out, "runs/x")
    view.show(state)
    view.close(state)
    assert text_of(out).splitlines() == ["runs/x", "starting engine 'ray'"]


def test_plain_lines_come_only_when_something_changed() -> None:
    """A log file of a night's run must not fill with lines that say the same."""
    out = console()
    view = PlainView(out, "runs/x · 300 problems", seconds=0.0)
    state = running()
    for _ in range(5):
        view.show(state)
    assert state.progress is not None
    state.progress.n_done = 121
    view.show(state)
    view.close(state)
    lines = text_of(out).splitlines()
    assert lines[0] == "runs/x · 300 problems"
    assert [line.split(";")[0] for line in lines[1:]] == ["120/300 problems", "121/300 problems"]


def paused() -> RunState:
    outages = Outages(lambda: 100.0, reason="u: HTTP 503: overloaded")
    outages.pause = Pause(40.0, 108.0, 640.0)
    return running(outages=outages)


def test_a_pause_is_explained_in_every_view() -> None:
    """What it waits for, since when, when it tries again and when it gives up."""
    text = "for 1 min 00 s; next try in 8.0 s; gives up in 9 min 00 s"
    drawing = drawn(paused(), 80)
    assert text in drawing
    assert "u: HTTP 503: overloaded" in drawing
    out = console()
    view = PlainView(out, "runs/x", seconds=0.0)
    view.show(paused())
    view.show(paused())
    assert f"paused {text}: u: HTTP 503: overloaded" in text_of(out)


def test_what_an_engine_lacks_is_named_in_every_view_while_it_lacks_it() -> None:
    """A replica that waits for a node makes the job slow, and nothing else would say why."""
    notice = "1 of 4 replicas of 'main' without a place for 80 s: it needs 1 GPU"
    state = running(notices=(notice,))
    assert notice in " ".join(drawn(state, 120).split())
    out = console()
    view = PlainView(out, "runs/x", seconds=0.0)
    for _ in range(3):
        view.show(state)
    assert text_of(out).count(f"; {notice}") == 2  # though no count has changed


def test_a_reason_has_room_behind_a_long_address() -> None:
    """In a terminal of 80 columns, too, where a line ends in the middle of it."""
    state = paused()
    assert state.progress is not None
    reason = "https://inference.example.com/project/v1 refuses: HTTP 429: the quota is used up"
    state.progress.outages.reason = reason
    text = drawn(state, 80)
    assert "quota is used up" in " ".join(text.split())
    assert all(len(line) <= 80 for line in text.splitlines())
    state.progress.outages.reason = "x" * 5000
    assert len(drawn(state, 80).splitlines()) < 12


def test_plain_lines_are_not_wrapped() -> None:
    """One event, one line: logs are searched with grep."""
    out = console(40)
    PlainView(out, "x" * 200).show(RunState())
    assert text_of(out).splitlines() == ["x" * 200, "starting"]


def test_a_terminal_that_went_away_does_not_end_the_job() -> None:
    """The person closes the window, or the disk with the log is full: the job continues."""

    class Gone(io.StringIO):
        def write(self, text: str) -> int:
            raise BrokenPipeError

    with Ticker(PlainView(Screen(file=Gone()), "x"), running()):
        pass


@pytest.mark.slow
def test_the_live_view_costs_little_whatever_the_rate_of_traces() -> None:
    """At 4 Hz, while another thread counts as fast as it can, drawing takes under a tenth of a core
    (measured: about 0.02).
    """
    state = running()
    progress = state.progress
    assert progress is not None
    stop = threading.Event()

    def count() -> None:
        while not stop.is_set():
            for _ in range(100):
                progress.attempts["unused"] += 1
                progress.output_tokens += 8
            time.sleep(0.005)

    worker = threading.Thread(target=count)
    worker.start()
    try:
        ticker = Ticker(LiveView(console(120, terminal=True), "runs/x"), state)
        with ticker:
            began = time.monotonic()
            time.sleep(2.1)  # the subject of the test is a rate in time
            spent = time.monotonic() - began
    finally:
        stop.set()
        worker.join()
    assert 0 < ticker.cpu_seconds < 0.1 * spent


def test_reading_does_not_grow_with_the_run() -> None:
    """The meter keeps a window, not a history."""
    now = 0.0
    meter = Meter(clock=lambda: now)
    for tick in range(10_000):
        now = tick * 0.25
        meter.read(Progress(n_problems=1), 0.0)
    assert len(meter._past) < 100


def test_counts_are_one_line() -> None:
    """What plain lines are compared by."""
    state = running()
    assert state.progress is not None
    assert plain_counts(state.progress) == (
        "120/300 problems; requests: 64 running, 760 done; attempts: 700 answered, 20 cut off, "
        "30 cancelled, 2 failed; 8,000 tokens"
    )
