"""Recordings as they lie in files and job directories, and `leadline replay` on them."""

from __future__ import annotations

import gzip
import json
import os
from collections import Counter
from pathlib import Path

import pytest
from click.testing import CliRunner

import orchestrator
from orchestrator.cli.main import leadline
from orchestrator.core.plan import Plan
from orchestrator.core.values import Answer, Finish, PluginSpec, Problem, Result, Status, Trace
from orchestrator.jobs.journal import Arrived, Concluded, Journal, Opened
from orchestrator.plan.execution import Execution
from orchestrator.studies.replay.experiment import Conditions, ReplaySetting, play_all
from orchestrator.studies.replay.files import read_recording
from orchestrator.studies.replay.recording import ReplayError
from orchestrator.studies.replay.simulator import UNLIMITED, Tape, explore
from strategies.sampling.consistency import Consistency
from strategies.selectors.majority import Majority

TRACES = Path(os.environ.get("LEADLINE_TRACES", Path(__file__).parents[4] / "shared" / "traces"))
LEFT_OUT = (
    "that were cut short, dropped or built on others are left out; "
    "the cut ones are mostly the longer ones"
)
PROBED = [
    {
        "question": "?",
        "gold_answer": "4",
        "probe_freq": 500,
        "each_branch": [[["3", "ERR"], 1300, "4"], [["4"], 480, "4"]],
    }
]
POOL = [{"problem_num": 7, "gold_answer": "4", "all_answers": [["4", 10], ["", 20], ["5", 30]]}]
TEXTS = {
    "records": [
        {
            "problem_id": "t0",
            "gold": "70000",
            "traces": [
                {
                    "text": r"So it is \boxed{\$70,000}.",
                    "tokens": 9,
                    "correct": False,
                    "prm_score": 0.7,
                },
                {"text": r"So it is \boxed{7}.", "tokens": 8, "correct": False, "prm_score": 0.1},
            ],
        }
    ]
}


def written(path: Path, rows: object) -> Path:
    path.write_text(
        "\n".join(json.dumps(row) for row in rows) if path.suffix == ".jsonl" else json.dumps(rows)
    )  # type: ignore[attr-defined]
    return path


def test_a_recording_with_probes(tmp_path: Path) -> None:
    """ERR is no answer; a probe past the trace's own end (500 of 480 tokens) is not kept."""
    path = tmp_path / "m.json.gz"
    path.write_bytes(gzip.compress(json.dumps(PROBED).encode()))
    recording = read_recording(path)
    assert recording.name == "m"
    [problem] = recording.problems
    assert problem.right == {"4"}
    assert [t.n_tokens for t in problem.traces] == [1300, 480]
    assert problem.traces[0].probes == {500: Answer("3", "3"), 1000: None}
    assert problem.traces[1].probes == {}


def test_an_answer_pool(tmp_path: Path) -> None:
    [problem] = read_recording(written(tmp_path / "p.jsonl", POOL)).problems
    assert problem.problem.id == "7"
    assert [(t.n_tokens, t.answer.text if t.answer else None) for t in problem.traces] == [
        (10, "4"),
        (20, None),
        (30, "5"),
    ]


def test_full_texts_are_read_and_compared_by_the_domain(tmp_path: Path) -> None:
    r"""The file calls `\$70,000` wrong against 70000; the domain knows better.

    Scores become verdicts.
    """
    [problem] = read_recording(written(tmp_path / "t.json", TEXTS)).problems
    first, second = problem.traces
    assert first.answer is not None
    assert second.answer is not None
    assert first.answer.key in (problem.right or ())
    assert second.answer.key not in (problem.right or ())
    assert [v.score for t in problem.traces for v in t.verdicts] == [0.7, 0.1]


def test_a_domain_puts_recorded_answers_in_classes(tmp_path: Path) -> None:
    """As texts 0.5 and 1/2 are two answers; as numbers one, and right against 2/4."""
    rows = [
        {"problem_num": 0, "gold_answer": "2/4", "all_answers": [["1/2", 1], ["0.5", 1], ["3", 1]]}
    ]
    path = written(tmp_path / "p.jsonl", rows)
    [as_text], [as_number] = read_recording(path).problems, read_recording(path, "number").problems
    assert len({t.answer.key for t in as_text.traces if t.answer}) == 3
    assert len({t.answer.key for t in as_number.traces if t.answer}) == 2
    assert {
        t.answer.text
        for t in as_number.traces
        if t.answer and t.answer.key in (as_number.right or ())
    } == {"1/2", "0.5"}


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.json", "{", "not JSON"),
        ("b.json", "[]", "contains no questions"),
        (
            "c.jsonl",
            '{"problem_num": 1, "gold_answer": "4", "answer_counts": {"4": 3}}',
            "counts of answers alone",
        ),
        ("d.json", '{"prm": "x"}', "KeyError: 'records'"),
        ("e.json", '[{"question": "?", "each_branch": []}]', "KeyError: 'probe_freq'"),
        ("f.gz", "plain", "Not a gzipped file"),
    ],
)
def test_a_file_that_is_no_recording_is_named_with_what_one_is(
    tmp_path: Path, name: str, content: str, message: str
) -> None:
    path = tmp_path / name
    path.write_text(content)
    with pytest.raises(ReplayError) as error:
        read_recording(path)
    assert str(path) in str(error.value)
    assert message in str(error.value)
    with pytest.raises(ReplayError, match=r"no journal\.db"):
        read_recording(tmp_path)
    with pytest.raises(ReplayError, match="No such file"):
        read_recording(tmp_path / "gone.json")


def job(tmp_path: Path, strategy: PluginSpec) -> Path:
    """Run a job on the fake engine; what is right is known to its problem file."""
    problems = tmp_path / "problems.jsonl"
    problems.write_text(
        "\n".join(
            json.dumps({"id": f"p{i}", "prompt": f"What is {i}?", "answer": "1"}) for i in range(6)
        )
    )
    engine = PluginSpec(
        "fake", {"answers": ("1", "2"), "weights": (2.0, 1.0), "n_tokens": 30, "spread_tokens": 40}
    )
    plan = Plan(strategy=strategy, domain="number")
    list(
        orchestrator.run(
            [Problem(f"p{i}", f"What is {i}?", "number") for i in range(6)],
            plan,
            Execution(engine=engine),
            out=tmp_path / "job",
        )
    )
    return problems


def test_a_job_replayed_gives_what_it_gave(tmp_path: Path) -> None:
    """Same attempts in the recorded order, same vote: same answers, tokens and accuracy as the
    job's own results.
    """
    problems = job(tmp_path, PluginSpec("consistency", {"n": 5}))
    recording = read_recording(tmp_path / "job", problems=str(problems))
    rows = [
        json.loads(line) for line in (tmp_path / "job" / "results.jsonl").read_text().splitlines()
    ]
    assert len(recording.problems) == len(rows) == 6
    for row, recorded in zip(
        sorted(rows, key=lambda r: r["id"]),
        sorted(recording.problems, key=lambda p: p.problem.id),
        strict=True,
    ):
        explored = explore(Tape(recorded, range(5)), Consistency(n=5), Plan(sampling=UNLIMITED))
        clusters = Majority()(list(explored.session.traces.values()))
        assert [(c.answer.text, c.count) for c in clusters] == [
            (v["answer"], v["count"]) for v in row["votes"]
        ]
        assert explored.session.output_tokens == sum(
            u["output_tokens"] for u in row["usage"].values()
        )
    [summary] = play_all(
        [recording],
        [ReplaySetting(PluginSpec("consistency", {"n": 5}))],
        Conditions(draw="recorded"),
        1,
    )
    assert summary.accuracy.value == sum(row["answer"] == "1" for row in rows) / 6


def test_a_job_of_checkpoints_is_put_together_again(tmp_path: Path) -> None:
    """Stretches of 16 tokens, probes beside them: each attempt is whole again, its probes at
    multiples of 16.
    """
    spec = PluginSpec(
        "sounding", {"n": 4, "width": 2, "interval": 16, "patience": 99, "risk": 0.001}
    )
    problems = job(tmp_path, spec)
    recording = read_recording(tmp_path / "job", problems=str(problems))
    traces = [t for p in recording.problems for t in p.traces]
    assert len(traces) == 24
    assert all(30 <= t.n_tokens <= 70 and t.finish is Finish.STOP and t.answer for t in traces)
    probed = [n for t in traces for n in t.probes]
    assert probed
    assert all(n % 16 == 0 for n in probed)
    assert all(t.text is not None and t.text.endswith(".") for t in traces)


def test_eval_says_that_a_pool_of_checkpoints_stopped_early(tmp_path: Path) -> None:
    """Two attempts of eight, in stretches of 16 tokens, are more than eight traces: it is attempts
    that were not sampled in full.
    """
    problems = job(
        tmp_path,
        PluginSpec("sounding", {"n": 8, "width": 2, "interval": 4, "patience": 0, "risk": 0.99}),
    )
    shown = CliRunner().invoke(
        leadline, ["eval", str(tmp_path / "job"), "--problems", str(problems)]
    )
    assert shown.exit_code == 0, shown.output
    assert "6 problems were not sampled in full" in " ".join(shown.stdout.split())


def test_a_replayed_job_asks_what_the_job_asked(tmp_path: Path) -> None:
    """The question is in the problem file: a judge or strategy that reads it sees what it saw.

    A changed file is said, not believed.
    """
    problems = job(tmp_path, PluginSpec("consistency", {"n": 2}))
    recording = read_recording(tmp_path / "job", problems=str(problems))
    assert {p.problem.id: p.problem.prompt for p in recording.problems} == {
        f"p{i}": f"What is {i}?" for i in range(6)
    }
    problems.write_text(problems.read_text().replace("What is 3?", "What is three?"))
    changed = read_recording(tmp_path / "job", problems=str(problems))
    assert [p.problem.prompt for p in changed.problems if p.problem.id == "p3"] == [""]
    assert changed.notes == (
        (
            f"{problems} words 1 problems otherwise than the job did; "
            "they are taken without their prompts"
        ),
    )
    unknown = read_recording(tmp_path / "job")
    assert {p.problem.prompt for p in unknown.problems} == {""}


def test_what_a_job_cut_short_is_left_out_and_said(tmp_path: Path) -> None:
    """short-1@4: the attempts it cancelled hold no end; a replay on what is left must say so."""
    problems = job(tmp_path, PluginSpec("short-m@k", {"m": 1, "k": 4}))
    recording = read_recording(tmp_path / "job", problems=str(problems))
    n_kept = sum(len(p.traces) for p in recording.problems)
    if n_kept == 24:  # the fake engine was through with all of them before any could be cancelled
        assert recording.notes == ()
    else:
        assert recording.notes == (f"{24 - n_kept} attempts {LEFT_OUT}",)


def test_pruned_prefixes_and_revisions_are_no_attempts(tmp_path: Path) -> None:
    """Whole: 0, 1-2 and the cut 8, which hit the job's own limit.

    Not: a stop by rule, a dropped prefix or chain, a revision.
    """
    answer = Answer("4", "4")
    pool = [
        Trace(0, text="whole", answer=answer),
        Trace(1, text="in ", finish=Finish.RULE),
        Trace(2, text="two", parent=1, answer=answer),
        Trace(3, text="prefix", finish=Finish.RULE),
        Trace(4, text="prefix", finish=Finish.LENGTH),
        Trace(5, text="pre", finish=Finish.LENGTH),
        Trace(6, text="fix", parent=5),
        Trace(7, text="revised", subjects=(0,), answer=answer),
        Trace(8, text="limit", finish=Finish.LENGTH),
        Trace(9, text="revised, too", subjects=(7,), finish=Finish.LENGTH),
        Trace(10, text=" and on", parent=9, answer=answer),
    ]
    with Journal(tmp_path / "journal.db") as journal:
        journal.append(
            [
                Opened("p", ""),
                *[Arrived("p", t, 0.0) for t in pool],
                Concluded(Result("p", Status.ANSWERED, dropped={4: 0, 5: None})),
            ]
        )
    recording = read_recording(tmp_path)
    assert [t.text for t in recording.problems[0].traces] == ["whole", "in two", "limit"]
    assert recording.notes == (f"5 attempts {LEFT_OUT}",)


def test_a_job_of_deepprune_holds_what_finished(tmp_path: Path) -> None:
    """Every attempt of the fake engine runs beyond 8 tokens, so whatever is shorter is a pruned
    prefix.
    """
    job(
        tmp_path,
        PluginSpec(
            "deepprune",
            {"n": 6, "judge": "lexical", "n_words": 0, "prefix_tokens": 8, "keep": "every"},
        ),
    )
    traces = [t for p in read_recording(tmp_path / "job").problems for t in p.traces]
    assert traces
    assert all(t.n_tokens > 8 for t in traces)


def test_a_job_without_problems_is_no_recording(tmp_path: Path) -> None:
    """It was stopped before any was opened; a mean over nothing is no figure."""
    with Journal(tmp_path / "journal.db"):
        pass  # it is created
    with pytest.raises(ReplayError, match="its journal contains no problems"):
        read_recording(tmp_path)


def test_the_command_prints_a_table_or_json(tmp_path: Path) -> None:
    """Two values of n make two rows, and each strategy brings its own selector."""
    path = str(written(tmp_path / "p.jsonl", POOL))
    arguments = [
        "replay",
        path,
        "--strategy",
        "consistency n=1,3",
        "--strategy",
        "sounding n=3 patience=0",
        "--seeds",
        "4",
        "--processes",
        "1",
    ]
    shown = CliRunner().invoke(leadline, arguments)
    assert shown.exit_code == 0, shown.output
    assert "consistency n=1" in shown.output
    assert "consistency n=3" in shown.output
    rows = json.loads(CliRunner().invoke(leadline, [*arguments, "--json"]).stdout)
    assert [row["setting"]["selector"] for row in rows] == [
        "majority",
        "majority",
        "discounted slope=0.5",
    ]
    assert rows[1]["tokens"]["value"] == 60


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--strategy", "consistency n=4"], "contains 3 traces, and one more was requested"),
        (["--strategy", "consistency 4"], "after the name come options as KEY=VALUE, not '4'"),
        (["--strategy", "consistensy"], "did you mean 'consistency'"),
        (["--strategy", "consistency n=x"], "n = 'x': it must be a whole number"),
        (["--strategy", "consistency n=2", "--selector", "best"], "carries no 'mean_confidence'"),
        (["--strategy", "consistency n=2", "--domain", "maths"], "did you mean 'math'"),
    ],
)
def test_what_is_wrong_is_said_and_nothing_is_printed(
    tmp_path: Path, arguments: list[str], message: str
) -> None:
    path = str(written(tmp_path / "p.jsonl", POOL))
    result = CliRunner().invoke(
        leadline, ["replay", path, "--seeds", "1", "--processes", "1", *arguments]
    )
    assert result.exit_code == 2
    assert message in result.stderr
    assert result.stdout == ""


@pytest.mark.skipif(
    not (TRACES / "qwen3-aime24").is_dir(),
    reason=f"needs the recorded traces in {TRACES} (LEADLINE_TRACES)",
)
def test_self_consistency_on_recorded_traces_is_a_plain_count() -> None:
    """64 of 128 attempts, shuffled as published; the vote and its tokens, counted here without the
    project's engine.
    """
    recording = read_recording(TRACES / "qwen3-aime24" / "0.6B.json.gz")
    [row] = play_all(
        [recording], [ReplaySetting(PluginSpec("consistency", {"n": 64}))], Conditions(2), 1
    )
    import random

    right, tokens = 0, 0
    for seed in range(2):
        for problem in recording.problems:
            order = list(range(128))
            random.Random(seed).shuffle(order)
            drawn = [problem.traces[i] for i in order[:64]]
            counts = Counter(t.answer.key for t in drawn if t.answer)
            right += counts.most_common(1)[0][0] in (problem.right or ())
            tokens += sum(t.n_tokens for t in drawn)
    assert row.accuracy.value == pytest.approx(right / 60)
    assert row.tokens.value == pytest.approx(tokens / 60)
