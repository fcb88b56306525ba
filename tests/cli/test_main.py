"""The command line as a user meets it: what it accepts, what it prints, how it ends; bad input gets
a clear error and nothing is lost.
"""

import asyncio
import io
import json
import os
import signal
import subprocess
import sys
import textwrap
import threading
import time
import tomllib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from hashlib import blake2b
from pathlib import Path

import click
import pytest
from click.testing import CliRunner, Result
from rich.console import Console

from orchestrator.cli.foreground import Signals
from orchestrator.cli.main import leadline
from orchestrator.core.steps import Steps, next_trace, submit
from orchestrator.core.values import Problem, Request
from orchestrator.plan import registry
from orchestrator.plan.keys import keys

FAKE = ("--execution.engine", "fake", "--domain", "number")
COMMANDS = leadline.list_commands(click.Context(leadline))
Run = Callable[..., Result]


@pytest.fixture
def cli(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    """Run the command in a directory of its own, in this process."""
    monkeypatch.chdir(tmp_path)
    return lambda *arguments: CliRunner().invoke(leadline, list(arguments))


def answer_of(problem_id: str) -> str:
    """What `{hash}` stands for in the fake engine's answers."""
    return str(int.from_bytes(blake2b(problem_id.encode(), digest_size=4).digest(), "big") % 1000)


def write_problems(path: Path, n: int, *more: str, answers: bool = True) -> Path:
    rows = [
        {
            "id": f"q{i}",
            "prompt": f"What is {i}?",
            **({"answer": answer_of(f"q{i}")} if answers else {}),
        }
        for i in range(n)
    ]
    path.write_text(
        "".join(json.dumps(row) + "\n" for row in rows) + "".join(f"{line}\n" for line in more)
    )
    return path


def results(directory: Path) -> list[dict[str, object]]:
    return [json.loads(line) for line in (directory / "results.jsonl").read_text().splitlines()]


def spawn(tmp_path: Path, *arguments: str, **settings: object) -> subprocess.Popen[str]:
    environment = {**os.environ, "COLUMNS": "100"}
    return subprocess.Popen(
        [sys.executable, "-m", "orchestrator", *arguments],
        cwd=tmp_path,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        **settings,  # type: ignore[call-overload]  # what a test adds
    )


# The commands and their help


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_explains_itself_with_an_example(cli: Run, command: str) -> None:
    """A newcomer reads `--help` first, and copies from it."""
    text = cli(command, "--help").output
    assert "Example" in text
    assert f"  leadline {command}" in text
    assert command in cli("--help").output


def test_the_former_name_of_a_command_works_with_a_notice(cli: Run) -> None:
    """Scripts of version 0.1 call `leadline judge train`; the help text no longer lists it."""
    former = cli("judge", "train", "nowhere", "-o", "x.json", "--judge", "trained")
    assert former.exit_code == 2
    assert "`leadline judge` is now called `leadline similarity`" in former.stderr
    assert "there is no job in nowhere" in former.stderr
    assert "judge" not in cli("--help").output
    assert "judge" not in cli("similarity", "train", "--help").output


def test_help_lists_every_key_of_a_plan(cli: Run) -> None:
    """Every key is a flag; that of `sinks`, which is given once for each, is --sink."""
    text = cli("run", "--help").output
    assert [info.name for info in keys() if f"--{info.name} " not in text] == ["sinks"]
    assert "--sink TEXT" in text


def test_help_is_quick_and_loads_nothing_heavy() -> None:
    """`--help` answers before the reader wonders: no engine, checker, table or array library is
    imported, and of our own modules only those that parse (measured: 0.05 s of CPU time).
    """
    code = """
        import sys
        from orchestrator.cli.main import leadline
        try: leadline(["--help"])
        except SystemExit: pass
        heavy = {"torch", "vllm", "ray", "transformers", "sympy", "scipy", "openai", "pyarrow"}
        heavy |= {"numpy", "rich", "msgspec", "asyncio"}
        assert not heavy & set(sys.modules), heavy & set(sys.modules)
        print(*(name for name in sys.modules if name.startswith("orchestrator.")))
    """
    out = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code)], capture_output=True, text=True, check=True
    ).stdout
    assert set(out.splitlines()[-1].split()) == {
        "orchestrator.cli",
        "orchestrator.cli.main",
        "orchestrator.cli.options",
        "orchestrator.core",
        "orchestrator.core.errors",
    }


def test_a_plugin_flag_that_is_repeated_is_a_list(cli: Run) -> None:
    """The last one alone would be used, in silence."""
    pools = ("--models.one", "smollm2", "--models.two", "sounder")
    models = ("--strategy.models", "one", "--strategy.models", "two", "--strategy.n", "2")
    done = cli("solve", "?", *FAKE, "--strategy", "ensemble", *pools, *models, "--show-traces")
    assert done.exit_code == 0, done.output
    refused = cli("solve", "?", *FAKE, "--strategy.n", "2", "--strategy.n", "3")
    assert refused.exit_code == 2
    assert "n = ['2', '3']" in refused.stderr


def test_solve_prints_attempts_as_exports_have_them(cli: Run, tmp_path: Path) -> None:
    """One schema of an attempt everywhere."""
    done = cli("solve", "2 + 2?", *FAKE, "--strategy.n", "3", "--show-traces", "--json")
    document = json.loads(done.stdout)
    assert document["result"]["n_attempts"] == 3
    assert document["others"] == []
    write_problems(tmp_path / "p.jsonl", 1)
    assert cli("run", "--problems", "p.jsonl", *FAKE, "--out", "job").exit_code == 0
    assert cli("export", "job", "--to", "jsonl").exit_code == 0
    exported = json.loads((tmp_path / "job/export/attempts.jsonl").read_text().splitlines()[0])
    assert [list(row) for row in document["attempts"]] == [list(exported)] * 3
    assert "attempts" not in json.loads(cli("solve", "2 + 2?", *FAKE, "--json").stdout)


def test_a_run_of_two_problems_imports_nothing_heavy(tmp_path: Path) -> None:
    """With its closing tables it takes half a second of CPU time, most of it for what is imported
    (measured: 0.5 s, 1.1 s with scipy).
    """
    write_problems(tmp_path / "p.jsonl", 2)
    code = """
        import sys
        from orchestrator.cli.main import leadline
        try: leadline("run --problems p.jsonl --execution.engine fake".split())
        except SystemExit as end: assert end.code == 0
        heavy = {"torch", "vllm", "ray", "transformers", "sympy", "scipy", "openai", "pyarrow"}
        heavy |= {"sklearn", "matplotlib", "mpmath", "httpx", "IPython"}
        assert not heavy & set(sys.modules), heavy & set(sys.modules)
    """
    program = [sys.executable, "-c", textwrap.dedent(code)]
    done = subprocess.run(program, capture_output=True, text=True, cwd=tmp_path, check=False)
    assert done.returncode == 0, done.stderr
    assert "accuracy" in done.stdout


# The life of a job


def test_a_run_writes_results_and_summarises_them(cli: Run, tmp_path: Path) -> None:
    """The end of a run names problems, accuracy with interval and n, traces, tokens, time, savings
    and where the results lie.
    """
    write_problems(tmp_path / "sums.jsonl", 20)
    done = cli(
        "run",
        "--problems",
        "sums.jsonl",
        *FAKE,
        "--strategy",
        "adaptive",
        "--strategy.n",
        "12",
        "--execution.engine.weights",
        "[8,1,1]",
    )
    assert done.exit_code == 0, done.output
    assert len(results(tmp_path / "runs/sums")) == 20
    for word in (
        "20 answered",
        "95% interval",
        "n = 20",
        "voted",
        "tokens",
        "wall-clock",
        "estimate",
        "runs/sums/results.jsonl",
    ):
        assert word in done.stdout, word
    assert "runs/sums · 20 problems · adaptive n=12 · smollm2 on fake" in done.stderr


def test_the_same_command_again_does_no_work_twice(cli: Run, tmp_path: Path) -> None:
    """The same command continues a job; a job that is done starts no engine."""
    write_problems(tmp_path / "p.jsonl", 3)
    cli("run", "--problems", "p.jsonl", *FAKE)
    before = (tmp_path / "runs/p/results.jsonl").read_bytes()
    again = cli("run", "--problems", "p.jsonl", *FAKE, "--json")
    assert again.exit_code == 0
    assert json.loads(again.stdout)["n_resumed"] == 3
    assert (tmp_path / "runs/p/results.jsonl").read_bytes() == before


def test_a_problem_file_in_the_place_of_the_plan_is_named_as_one(cli: Run) -> None:
    """Not as malformed TOML: who names it so has no plan yet."""
    done = cli("run", "questions.jsonl", *FAKE)
    assert done.exit_code == 2
    assert "for problems: --problems questions.jsonl" in done.stderr


def test_a_plan_file_and_flags_make_one_plan(cli: Run, tmp_path: Path) -> None:
    """Flags win over the file; the job directory is named after the file; its plan.toml records
    what was run.
    """
    write_problems(tmp_path / "p.jsonl", 2)
    (tmp_path / "small.toml").write_text(
        'problems = "p.jsonl"\nstrategy = "consistency"\n'
        '[sampling]\ntemperature = 0.3\n[execution]\nengine = "fake"\n'
    )
    done = cli(
        "run",
        "small.toml",
        "--sampling.temperature=0.9",
        "--sampling.stop",
        "###",
        "--sampling.stop",
        "END",
        "--strategy.n",
        "3",
    )
    assert done.exit_code == 0, done.output
    kept = tomllib.loads((tmp_path / "runs/small/plan.toml").read_text())
    assert kept["sampling"]["temperature"] == 0.9
    assert kept["sampling"]["stop"] == ["###", "END"]
    assert kept["strategy"]["n"] == 3


def test_the_closing_table_names_the_listing_of_what_went_wrong(cli: Run, tmp_path: Path) -> None:
    """Attempts that are all cut off give no wrong answer, and `--wrong` would list nothing."""
    problems = write_problems(tmp_path / "p.jsonl", 3)
    run = ("run", "--problems", str(problems), "--domain", "number", "--execution.engine", "fake")
    done = cli(*run, "--out", "cut", "--sampling.max_new_tokens", "4")
    command = ("show", "cut", "--abstained")
    assert f"leadline {' '.join(command)}" in done.stdout
    assert "q2" in cli(*command).stdout


def test_limit_takes_the_first_rows_and_a_later_run_the_rest(cli: Run, tmp_path: Path) -> None:
    """Try a few first, then run all: what was tried is not done again."""
    write_problems(tmp_path / "p.jsonl", 6)
    cli("run", "--problems", "p.jsonl", *FAKE, "--limit", "2")
    assert [r["id"] for r in results(tmp_path / "runs/p")] == ["q0", "q1"]
    whole = json.loads(cli("run", "--problems", "p.jsonl", *FAKE, "--json").stdout)
    assert (whole["n_resumed"], len(results(tmp_path / "runs/p"))) == (2, 6)


def test_json_is_all_that_is_on_the_standard_output(cli: Run, tmp_path: Path) -> None:
    """A script reads it with a JSON parser."""
    write_problems(tmp_path / "p.jsonl", 4)
    summary = json.loads(cli("run", "--problems", "p.jsonl", *FAKE, "--json").stdout)
    assert summary["report"]["n_by_status"]["answered"] == 4
    assert summary["report"]["accuracy"]["n"] == 4
    assert summary["results"] == "runs/p/results.jsonl"


def test_quiet_is_quiet(cli: Run, tmp_path: Path) -> None:
    """Nothing but errors."""
    write_problems(tmp_path / "p.jsonl", 2)
    done = cli("run", "--problems", "p.jsonl", *FAKE, "--quiet")
    assert (done.exit_code, done.output) == (0, "")


def test_an_openai_batch_is_answered_with_one(cli: Run, tmp_path: Path) -> None:
    """Batch in, batch out: one line per request, by custom_id."""
    body = {"messages": [{"role": "user", "content": "What is 2?"}]}
    rows = [
        {"custom_id": f"r{i}", "method": "POST", "url": "/v1/chat/completions", "body": body}
        for i in range(3)
    ]
    (tmp_path / "batch.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    done = cli("run", "--problems", "batch.jsonl", *FAKE)
    assert done.exit_code == 0, done.output
    lines = [
        json.loads(line)
        for line in (tmp_path / "runs/batch/batch_output.jsonl").read_text().splitlines()
    ]
    assert [line["custom_id"] for line in lines] == ["r0", "r1", "r2"]
    assert all(
        "The answer is" in line["response"]["body"]["choices"][0]["message"]["content"]
        for line in lines
    )
    assert "batch_output.jsonl" in done.stdout


def test_solve_shows_the_answer_and_the_vote(cli: Run) -> None:
    """One question: answer, votes with shares, traces, tokens."""
    done = cli(
        "solve",
        "What is 1 + 1?",
        *FAKE,
        "--strategy.n",
        "8",
        "--execution.engine.answers",
        '["2"]',
        "--show-traces",
    )
    assert done.exit_code == 0, done.output
    assert "100%" in done.stdout
    assert "8 attempts · 64 tokens" in done.stdout
    assert done.stdout.count("The answer is 2.") == 8
    assert (
        json.loads(cli("solve", "What is 1 + 1?", *FAKE, "--json").stdout)["result"]["status"]
        == "answered"
    )


def test_eval_votes_again_without_an_engine(cli: Run, tmp_path: Path) -> None:
    """Accuracy, other selectors, pass@k and maj@k come from the journal; a selector that cannot
    vote says why.
    """
    write_problems(tmp_path / "p.jsonl", 12)
    cli("run", "--problems", "p.jsonl", *FAKE, "--strategy.n", "8")
    (tmp_path / "runs/p/plan.toml").unlink()  # only the journal is needed
    done = cli("eval", "runs/p", "--selector", "best", "--ks", "1,8")
    assert done.exit_code == 0, done.output
    assert "majority" in done.stdout
    assert "pass@k" in done.stdout
    assert "best: 12 problems could not be voted on" in " ".join(done.stdout.split())
    numbers = json.loads(cli("eval", "runs/p", "--ks", "1,8", "--json").stdout)
    assert [point["k"] for point in numbers["curve"]] == [1, 8]
    assert numbers["selectors"][0]["n_other"] == 0


def test_eval_takes_references_from_another_file(cli: Run, tmp_path: Path) -> None:
    """Answers are often kept apart from questions."""
    write_problems(tmp_path / "p.jsonl", 5, answers=False)
    cli("run", "--problems", "p.jsonl", *FAKE)
    assert "their accuracy is unknown" in " ".join(cli("eval", "runs/p").stdout.split())
    (tmp_path / "a.csv").write_text(
        "id,prompt,answer\n" + "".join(f"q{i},x,{answer_of(f'q{i}')}\n" for i in range(5))
    )
    numbers = json.loads(cli("eval", "runs/p", "--problems", "a.csv", "--json").stdout)
    assert numbers["selectors"][0]["report"]["accuracy"]["n"] == 5


def test_a_list_of_plugins_in_a_pipe_has_one_line_each(
    cli: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    """So that `grep` finds whole entries; a terminal's width is for terminals."""
    monkeypatch.delenv("COLUMNS", raising=False)
    lines = cli("plugins").stdout.splitlines()
    [adaptive] = [line for line in lines if line.startswith("  adaptive ")]
    assert adaptive.rstrip().endswith("easy questions cost less.")
    described = cli("plugins", "sounding").stdout.splitlines()
    assert any(line.rstrip().endswith("gives all votes equal weight.") for line in described)
    monkeypatch.setenv("COLUMNS", "80")
    assert max(map(len, cli("plugins").stdout.splitlines())) <= 80


def test_plugins_are_listed_and_shown(cli: Run) -> None:
    """What can be chosen, whose it is, and its options with defaults."""
    assert {"adaptive", "majority", "math", "fake"} <= set(cli("plugins").stdout.split())
    details = cli("plugins", "adaptive").stdout
    assert "growth" in details
    assert "1.5" in details
    assert "papers: arXiv 2203.11171" in cli("plugins", "consistency").stdout
    listed = json.loads(cli("plugins", "--json").stdout)
    assert {p["purpose"] for p in listed if p["group"] == "strategies"} >= {"sampling", "search"}
    [adaptive] = json.loads(cli("plugins", "adaptive", "--json").stdout)
    assert adaptive == next(p for p in listed if p["name"] == "adaptive")
    assert {"name", "type", "default", "range", "description"} <= adaptive["options"][0].keys()
    wrong = cli("plugins", "adaptve")
    assert wrong.exit_code == 2
    assert "did you mean 'adaptive'" in wrong.stderr


# Interrupting


def wait_for_traces(directory: Path, process: subprocess.Popen[str]) -> None:
    """Wait until something is journalled."""
    import sqlite3

    deadline = time.monotonic() + 60
    while time.monotonic() < deadline and process.poll() is None:
        if (directory / "journal.db").exists():
            try:
                if (
                    sqlite3.connect(directory / "journal.db")
                    .execute("SELECT COUNT(*) FROM events")
                    .fetchone()[0]
                    > 4
                ):
                    return
            except sqlite3.Error:
                pass
        time.sleep(0.05)  # another process is waited for
    raise AssertionError("nothing was journalled")


SLOW = (
    "--execution.engine.seconds_per_token",
    "0.05",
    "--execution.window",
    "4",
    "--strategy.n",
    "4",
)


@pytest.mark.parametrize(
    ("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGHUP, 129)]
)
@pytest.mark.slow
def test_a_signal_stops_cleanly_and_says_how_to_continue(
    cli: Run, tmp_path: Path, number: int, code: int
) -> None:
    """Finished traces are kept, the directory is free again, and the command it names continues."""
    write_problems(tmp_path / "p.jsonl", 10)
    process = spawn(tmp_path, "run", "--problems", "p.jsonl", *FAKE, *SLOW)
    wait_for_traces(tmp_path / "runs/p", process)
    process.send_signal(number)
    _, stderr = process.communicate(timeout=60)
    assert process.returncode == code
    assert "to continue: leadline resume runs/p" in stderr
    assert "Traceback" not in stderr
    kept = (tmp_path / "runs/p/journal.db").stat().st_size
    resumed = cli("resume", "runs/p", "--execution.engine.seconds_per_token", "0", "--json")
    assert resumed.exit_code == 0, resumed.output
    assert len(results(tmp_path / "runs/p")) == 10
    assert kept > 0


def test_a_second_signal_ends_it_at_once(tmp_path: Path) -> None:
    """When stopping hangs too: here the engine's traces never end, and the strategy's are not
    waited for.
    """
    write_problems(tmp_path / "p.jsonl", 3)
    (tmp_path / "stuck.py").write_text(
        textwrap.dedent("""
            import asyncio, sys
            from orchestrator.cli import foreground
            async def stuck(*args, **named):
                try:
                    await asyncio.sleep(600)
                finally:
                    print("cleaning", file=sys.__stdout__, flush=True)
                    await asyncio.sleep(600)
                yield
            foreground.run_job = stuck
            from orchestrator.cli.main import main
            print("ready", flush=True)
            main()
        """)
    )
    command = [
        sys.executable,
        "stuck.py",
        "run",
        "--problems",
        "p.jsonl",
        *FAKE,
        "--debug",
        "--every",
        "0.1",
    ]
    process = subprocess.Popen(
        command, cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert process.stderr is not None
    assert process.stdout is not None
    while "still starting" not in process.stderr.readline():
        pass
    process.send_signal(signal.SIGINT)
    while "cleaning" not in process.stdout.readline():
        pass
    process.send_signal(signal.SIGINT)
    process.communicate(timeout=20)
    assert process.returncode == 130


def test_a_signal_that_another_thread_takes_wakes_the_loop() -> None:
    """The system may give it to any thread, and Python handles it in the main one, which waits for
    something to happen.

    Without a way to wake it, the signal would be handled when the wait is over: here never.
    """
    signals = Signals(Console(file=io.StringIO()), lambda: None)

    async def work() -> None:
        threading.Timer(
            0.1, lambda: signal.pthread_kill(threading.get_ident(), signal.SIGTERM)
        ).start()
        await asyncio.Event().wait()

    with signals:
        asyncio.run(signals.guard(work))
    assert signals.number == signal.SIGTERM


def test_a_reader_that_goes_away_is_no_traceback(tmp_path: Path) -> None:
    """`leadline plugins | head -1`."""
    process = spawn(tmp_path, "plugins")
    assert process.stdout is not None
    assert process.stderr is not None
    process.stdout.close()
    assert process.stderr.read() == ""
    process.stderr.close()
    process.wait(timeout=30)


def test_resume_refuses_when_the_problems_are_gone_or_changed(cli: Run, tmp_path: Path) -> None:
    """Its results would be of another file than the person thinks."""
    file = write_problems(tmp_path / "p.jsonl", 3)
    cli("run", "--problems", "p.jsonl", *FAKE, "--limit", "1")
    write_problems(file, 4)
    changed = cli("resume", "runs/p")
    assert (changed.exit_code, "has changed since" in changed.stderr) == (2, True)
    file.unlink()
    gone = cli("resume", "runs/p")
    assert (gone.exit_code, "which no longer exists" in gone.stderr) == (2, True)
    nothing = cli("resume", "runs/other")
    assert (nothing.exit_code, "there is no job in runs/other" in nothing.stderr) == (2, True)


def test_a_job_of_the_fake_engine_is_not_continued_by_a_real_one(cli: Run) -> None:
    """Its answers are invented: a dry run must not become the result of the real run."""
    Path("p.jsonl").write_text('{"prompt": "What is 1?"}\n')
    dry = ("run", "--problems", "p.jsonl", "--domain", "number", "--out", "runs/dry")
    assert cli(*dry, "--execution.engine", "fake").exit_code == 0
    real = cli(*dry, "--execution.engine", "openai", "--execution.engine.base_url", "http://x/v1")
    assert real.exit_code == 2
    assert "was started with the engine 'fake', and 'openai' must not continue it" in real.stderr
    assert cli(*dry, "--execution.engine", "fake").exit_code == 0


@pytest.mark.parametrize(
    ("edited", "code", "message"),
    [
        ("x = ", 2, "runs/p/plan.toml:1: Invalid value"),
        ("execution = 3", 0, ""),
        ('[execution]\nengine = "fake"', 0, ""),
        ('[execution]\nengine = "openai"', 2, "was started with the engine 'openai'"),
    ],
)
def test_a_job_whose_plan_file_was_edited_by_hand(
    cli: Run, tmp_path: Path, edited: str, code: int, message: str
) -> None:
    """It is a plan file like any other, short forms and mistakes included."""
    write_problems(tmp_path / "p.jsonl", 2)
    cli("run", "--problems", "p.jsonl", *FAKE)
    (tmp_path / "runs/p/plan.toml").write_text(edited)
    again = cli("run", "--problems", "p.jsonl", *FAKE)
    assert again.exit_code == code, again.output
    assert message in again.stderr


def test_resume_takes_flags_that_decide_speed_only(cli: Run, tmp_path: Path) -> None:
    """Another temperature in mid-job would mix two samples."""
    write_problems(tmp_path / "p.jsonl", 2)
    cli("run", "--problems", "p.jsonl", *FAKE)
    refused = cli("resume", "runs/p", "--sampling.temperature", "1")
    assert refused.exit_code == 2
    assert "--sampling.temperature" in refused.stderr
    assert cli("resume", "runs/p", "--execution.window", "7").exit_code == 0


# Bad input


def test_bad_rows_are_named_and_the_rest_runs(cli: Run, tmp_path: Path) -> None:
    """A malformed line, a repeated id: rows of their own that name file and line, in the results
    too; a missing id is derived.
    """
    write_problems(
        tmp_path / "p.jsonl", 3, "{broken", '{"id": "q1", "prompt": "again"}', '{"prompt": "no id"}'
    )
    done = cli("run", "--problems", "p.jsonl", *FAKE)
    assert done.exit_code == 0, done.output
    assert "2 of 6 rows are invalid" in done.stderr
    assert "p.jsonl:4:" in done.stderr
    assert "p.jsonl:5:" in done.stderr
    assert "1 rows have no id" in done.stderr
    assert "2 invalid" in done.stdout
    assert [r["status"] for r in results(tmp_path / "runs/p")].count("invalid") == 2


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", "is empty"),
        ("\n\n", "no rows"),
        ("{broken\n", "none of its 1 rows is a valid problem"),
        ('{"id": 1, "instruction": "x", "input": "y"}\n', "'instruction' or 'input'"),
    ],
)
def test_a_file_without_problems_is_refused(
    cli: Run, tmp_path: Path, content: str, message: str
) -> None:
    """Before an engine starts."""
    (tmp_path / "p.jsonl").write_text(content)
    done = cli("run", "--problems", "p.jsonl", *FAKE)
    assert (done.exit_code, message in done.stderr) == (2, True), done.stderr


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (("--sampling.temprature", "1"), "--sampling.temperature"),
        (("--strategy.nn", "4"), "did you mean 'n'"),
        (("--strategy", "adaptve"), "did you mean 'adaptive'"),
        (("--execution.engine.answrs", "[]"), "did you mean 'answers'"),
        (("--sampling.top_p", "1.5"), "sampling.top_p = 1.5"),
        (("--sampling.max_new_tokens", "many"), "sampling.max_new_tokens = 'many'"),
        (("--models.main.pth", "x"), "did you mean 'path'"),
        (("--domains.mathh.x", "1"), "mathh"),
        (("--stratgy", "x"), "--strategy"),
    ],
)
def test_a_misspelled_flag_is_an_error_with_the_near_match(
    cli: Run, tmp_path: Path, flags: tuple[str, ...], message: str
) -> None:
    """Nothing is ignored silently."""
    write_problems(tmp_path / "p.jsonl", 1)
    done = cli("run", "--problems", "p.jsonl", *FAKE, *flags)
    assert (done.exit_code, message in done.stderr) == (2, True), done.stderr
    assert not (tmp_path / "runs").exists()


def test_an_unknown_key_of_a_plan_names_file_and_near_match(cli: Run, tmp_path: Path) -> None:
    """The same for files."""
    (tmp_path / "p.toml").write_text("[sampling]\ntemprature = 1\n")
    done = cli("run", "p.toml")
    assert done.exit_code == 2
    assert (
        "p.toml: there is no key 'sampling.temprature' (did you mean 'temperature'?)" in done.stderr
    )


def test_a_changed_plan_is_refused_naming_what_differs(cli: Run, tmp_path: Path) -> None:
    """Two samples must not be mixed; results stay as they were."""
    write_problems(tmp_path / "p.jsonl", 2)
    cli("run", "--problems", "p.jsonl", *FAKE)
    done = cli("run", "--problems", "p.jsonl", *FAKE, "--sampling.temperature", "0.9")
    assert done.exit_code == 2
    assert "sampling.temperature: 0.7 -> 0.9" in done.stderr
    assert len(results(tmp_path / "runs/p")) == 2


def test_another_problem_file_is_refused_in_the_same_directory(cli: Run, tmp_path: Path) -> None:
    """Its results.jsonl would take the place of the first one's."""
    for name in ("a", "b"):
        write_problems(tmp_path / f"{name}.jsonl", 2, json.dumps({"prompt": name}))
    cli("run", "--problems", "a.jsonl", *FAKE, "--out", "job")
    done = cli("run", "--problems", "b.jsonl", *FAKE, "--out", "job")
    assert done.exit_code == 2
    assert "choose another with --out" in done.stderr


def test_nothing_to_run_is_reported(cli: Run) -> None:
    """Neither a plan nor problems."""
    done = cli("run")
    assert (done.exit_code, "--problems PLACE" in done.stderr) == (2, True)


def test_a_folder_that_is_no_model_is_refused(
    cli: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Before vLLM is imported, and so at once."""
    monkeypatch.setitem(sys.modules, "vllm", None)  # importing it would be an error
    write_problems(tmp_path / "p.jsonl", 1)
    (tmp_path / "folder").mkdir()
    done = cli("run", "--problems", "p.jsonl", "--execution.engine", "vllm", "--model", "./folder")
    assert (done.exit_code, "is not one: it has no config.json" in done.stderr) == (2, True), (
        done.stderr
    )


@pytest.mark.slow
def test_a_second_process_is_turned_away(cli: Run, tmp_path: Path) -> None:
    """Two writers would pair traces with the wrong state."""
    write_problems(tmp_path / "p.jsonl", 20)
    process = spawn(tmp_path, "run", "--problems", "p.jsonl", *FAKE, *SLOW)
    wait_for_traces(tmp_path / "runs/p", process)
    done = cli("run", "--problems", "p.jsonl", *FAKE, *SLOW)
    process.terminate()
    process.communicate(timeout=60)
    assert (done.exit_code, "another process is using it" in done.stderr) == (1, True), done.output


@pytest.mark.slow
def test_a_port_without_a_server_is_named_and_the_job_can_continue(
    cli: Run, tmp_path: Path
) -> None:
    """The message has the address, and the command to continue with."""
    write_problems(tmp_path / "p.jsonl", 1)
    url = "http://127.0.0.1:9/v1"  # the discard port: nobody listens
    done = cli(
        "run",
        "--problems",
        "p.jsonl",
        "--execution.engine",
        "openai",
        "--execution.engine.base_url",
        url,
    )
    assert done.exit_code == 1
    assert url in done.stderr
    assert "continue with: leadline resume runs/p" in done.stderr
    assert "Traceback" not in done.stderr


@dataclass(frozen=True, slots=True)
class Raises:
    """Raises on every third problem."""

    def explore(self, problem: Problem, rng: object) -> Steps:
        """Raise, or take one trace."""
        if problem.id.endswith(("0", "3")):
            raise RuntimeError("I cannot do this one")
        yield from submit([Request()])
        yield from next_trace()


@dataclass(frozen=True, slots=True)
class Nonsense:
    """Yields what is no command."""

    def explore(self, problem: Problem, rng: object) -> Steps:
        """Yield nonsense."""
        yield "more"  # type: ignore[misc]  # the point of the test


@dataclass(frozen=True, slots=True)
class Endless:
    """Never comes back."""

    def explore(self, problem: Problem, rng: object) -> Steps:
        """Compute for ever."""
        yield from submit([Request()])
        while True:
            pass


registry.strategy("test-raises")(Raises)
registry.strategy("test-nonsense")(Nonsense)
registry.strategy("test-endless")(Endless)


@pytest.mark.parametrize(
    ("strategy", "n_failed", "message", "code"),
    [
        ("test-raises", 2, "RuntimeError: I cannot do this one", 3),
        ("test-nonsense", 4, "a strategy yields Submit, Next, Cancel, Drop or Note, not 'more'", 3),
        ("test-endless", 4, "Overrun", 3),
    ],
)
def test_a_broken_strategy_fails_its_problems_and_not_the_job(
    cli: Run, strategy: str, n_failed: int, message: str, code: int
) -> None:
    """It may raise, yield nonsense or never end; the exit code is 3: more than a tenth failed."""
    write_problems(Path("p.jsonl"), 4)
    done = cli(
        "run",
        "--problems",
        "p.jsonl",
        *FAKE,
        "--strategy",
        strategy,
        "--execution.strategy_seconds",
        "0.2",
    )
    assert done.exit_code == code, done.output
    assert f"{n_failed} failed" in done.stdout
    assert message in " ".join(done.stdout.split())


@pytest.fixture
def small_disk(tmp_path: Path) -> object:
    """A file system of 1 MB."""
    folder = tmp_path / "small"
    folder.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(folder)],
        check=False,
        capture_output=True,
    )
    if mounted.returncode:
        pytest.skip(
            "mounting a tmpfs needs root; RLIMIT_FSIZE kills the process where a full disk does not"
        )
    yield folder
    subprocess.run(["umount", "-l", str(folder)], check=True)


def test_a_full_disk_ends_the_job_and_loses_nothing_that_was_journalled(
    cli: Run, tmp_path: Path, small_disk: Path
) -> None:
    """A clear error with the remedy, exit code 1; with space again the job continues to its end."""
    write_problems(tmp_path / "p.jsonl", 400)
    command = (
        "run",
        "--problems",
        "p.jsonl",
        *FAKE,
        "--strategy.n",
        "20",
        "--out",
        str(small_disk / "job"),
    )
    full = cli(*command)
    assert full.exit_code == 1, full.output
    assert "full" in full.stderr
    assert "free some space" in full.stderr
    assert "Traceback" not in full.stderr
    subprocess.run(["mount", "-o", "remount,size=100m", str(small_disk)], check=True)
    again = cli(*command, "--json")
    assert again.exit_code == 0, again.output
    assert len(results(small_disk / "job")) == 400


@pytest.mark.engine
@pytest.mark.timeout(300)
def test_a_missing_gpu_is_reported(tmp_path: Path) -> None:
    """Asking Ray for more GPUs than it has fails with the count, and does not wait for ever.

    In a process of its own, as a user runs it: the one of the tests has started Ray before.
    """
    write_problems(tmp_path / "p.jsonl", 1)
    options = ("--execution.engine", "ray", "--execution.engine.gpus_per_replica", "64")
    process = spawn(tmp_path, "run", "--problems", "p.jsonl", *options)
    _, stderr = process.communicate()
    assert process.returncode == 1, stderr
    assert "GPU" in stderr


def test_debug_shows_where_an_error_came_from(cli: Run) -> None:
    """Without it there is one message and no traceback."""
    assert "Traceback" not in cli("run", "nowhere.toml").stderr
    assert "Traceback" in cli("run", "nowhere.toml", "--debug").stderr


def test_colours_can_be_turned_off(tmp_path: Path) -> None:
    """NO_COLOR, https://no-color.org."""
    environment: Mapping[str, str] = {**os.environ, "NO_COLOR": "1", "FORCE_COLOR": "1"}
    command = [sys.executable, "-m", "orchestrator", "solve", "x", *FAKE]
    out = subprocess.run(
        command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=True
    ).stdout
    assert "\x1b[3" not in out


def test_rows_of_a_batch_are_run_by_their_own_settings(cli: Run, tmp_path: Path) -> None:
    """Each with its number of attempts, and the same again when the job is continued."""
    message = [{"role": "user", "content": "1 + 1?"}]
    rows = [
        {"custom_id": name, "url": "/v1/chat/completions", "body": {"messages": message, **body}}
        for name, body in {"plain": {}, "three": {"n": 3}, "short": {"max_tokens": 2}}.items()
    ]
    (tmp_path / "b.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    command = ("run", "--problems", "b.jsonl", "--strategy.n", "2", *FAKE, "--out", "job")
    for _ in range(2):
        assert cli(*command).exit_code == 0
        results = {
            row["id"]: row
            for row in map(json.loads, (tmp_path / "job/results.jsonl").read_text().splitlines())
        }
        assert {name: row["n_attempts"] for name, row in results.items()} == {
            "plain": 2,
            "three": 3,
            "short": 2,
        }
        assert results["short"]["usage"]["solve"]["output_tokens"] == 4
        lines = map(json.loads, (tmp_path / "job/batch_output.jsonl").read_text().splitlines())
        choices = {line["custom_id"]: line["response"]["body"]["choices"] for line in lines}
        assert {name: len(each) for name, each in choices.items()} == {
            "plain": 1,
            "three": 3,
            "short": 1,
        }
