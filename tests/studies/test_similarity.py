"""How similarities are measured: prefixes, AUROC and the operating point against their definitions;
`leadline judge train` end to end.
"""

from __future__ import annotations

import json
import random
from dataclasses import replace
from itertools import combinations
from pathlib import Path

import pytest
from click.testing import CliRunner

from orchestrator.cli.main import leadline
from orchestrator.core.errors import PlanError
from orchestrator.core.values import Finish, Message, Prefix, Problem, Purpose
from orchestrator.kit.prefixes import LabelledPrefix, opening
from orchestrator.studies.similarity import Cut, job_prefixes, labelled_prefixes, quality
from orchestrator.testing import trace


def test_an_opening_ends_with_its_last_reasoning_word() -> None:
    """Whole words, any case; a text with fewer is whole."""
    text = "So far, soon. Wait, so it is."
    assert opening(text, ("so", "wait"), 2) == "So far, soon. Wait"
    assert opening(text, ("so", "wait"), 3) == "So far, soon. Wait, so"
    assert opening(text, ("so", "wait"), 4) == text


def test_only_attempts_that_ended_with_an_answer_beyond_their_prefix_are_examples() -> None:
    """Chains are joined; cut, silent, failed and probing ones are left out, and so is a text no
    longer than its prefix.
    """
    long = "so it goes on and on until it ends with the answer"
    pool = [
        replace(trace(0, None, finish=Finish.RULE), text=long),
        replace(trace(1, "A", parent=0), text=" here"),
        replace(trace(2, "A", finish=Finish.LENGTH), text=long),
        replace(trace(3, None), text=long),
        replace(trace(4, "A", purpose=Purpose.PROBE), text=long),
        replace(trace(5, "B"), text="so"),
        replace(trace(6, "B"), text=long),
    ]
    assert labelled_prefixes(pool, Cut(1, ("so",))) == [
        LabelledPrefix(Prefix(1, "so"), "A"),
        LabelledPrefix(Prefix(6, "so"), "B"),
    ]
    assert [len(e.prefix.text) for e in labelled_prefixes(pool, Cut(0, (), 5))] == [
        len(f"{long} here") * 5 // 20,
        1,
        len(long) * 5 // 10,
    ]


def test_quality_agrees_with_scikit_learn_and_with_the_definition_of_its_point() -> None:
    """Over all pairs: AUROC with ties; the highest level under which at most a fifth of the
    agreeing pairs lie.
    """
    from sklearn.metrics import roc_auc_score

    rng = random.Random(0)
    pools, scores = {}, {}
    for i in range(8):
        finals = [rng.choice("AAB") for _ in range(7)]
        pools[str(i)] = (
            Problem(str(i), ""),
            [LabelledPrefix(Prefix(o, ""), f) for o, f in enumerate(finals)],
        )
        scores[str(i)] = [
            round(0.3 * (a == b) + rng.random(), 1) / 2 for a, b in combinations(finals, 2)
        ]
    found = quality(scores, pools)
    pairs = [
        (a.final == b.final, s)
        for key, (_, p) in pools.items()
        for (a, b), s in zip(combinations(p, 2), scores[key], strict=True)
    ]
    agree, differ = ([s for same, s in pairs if same is kind] for kind in (True, False))
    assert found.auroc.value == pytest.approx(roc_auc_score(*zip(*pairs, strict=True)))
    assert sum(s < found.tau for s in agree) <= 0.2 * len(agree)
    assert found.tnr.value == pytest.approx(sum(s < found.tau for s in differ) / len(differ))
    assert found.auroc.low is not None
    assert found.auroc.high is not None
    assert found.auroc.low < found.auroc.value < found.auroc.high


def test_pairs_of_one_kind_measure_nothing() -> None:
    pool = [LabelledPrefix(Prefix(o, ""), "A") for o in range(3)]
    with pytest.raises(PlanError, match="both kinds are needed"):
        quality({"p": [0.5] * 3}, {"p": (Problem("p", ""), pool)})


@pytest.mark.slow
def test_a_judge_is_fitted_on_a_job_and_serves_the_next(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On the fake engine, whose texts say nothing before the answer: a file is written, figures are
    printed, a job runs with it.
    """
    monkeypatch.chdir(tmp_path)
    Path("p.jsonl").write_text(
        "".join(json.dumps({"id": f"q{i}", "prompt": f"What is {i}?"}) + "\n" for i in range(20))
    )
    run = CliRunner().invoke
    fake = [
        "--problems",
        "p.jsonl",
        "--execution.engine",
        "fake",
        "--execution.engine.n_tokens",
        "40",
        "--execution.engine.spread_tokens",
        "20",
        "-q",
    ]
    begun = run(leadline, ["run", *fake, "--out", "first", "--strategy.n", "6"])
    assert begun.exit_code == 0, begun.output
    fitted = run(
        leadline,
        [
            "similarity",
            "train",
            "first",
            "first/journal.db",
            "-o",
            "similarity.json",
            "--tokens",
            "16",
            "--json",
        ],
    )
    assert fitted.exit_code == 0, fitted.output
    similarities = json.loads(fitted.output)["similarities"]
    assert similarities["trained (problems held out)"]["n_pairs"] > 0
    assert (
        "AUROC"
        in run(
            leadline, ["similarity", "train", "first", "-o", "similarity.json", "--tokens", "16"]
        ).output
    )
    pruned = [
        *fake,
        "--out",
        "second",
        "--strategy",
        "deepprune",
        "--strategy.similarity",
        "trained file=similarity.json",
        "--strategy.tau",
        "0.1",
    ]
    served = run(leadline, ["run", *pruned])
    assert served.exit_code == 0, served.output
    lines = [json.loads(line) for line in Path("second/results.jsonl").read_text().splitlines()]
    assert all(line["usage"].keys() <= {"solve", "pruned"} for line in lines)
    again = run(leadline, ["eval", "second", "--problems", "p.jsonl", "--json"])
    assert again.exit_code == 0, again.output
    # a journal voted on again drops what was dropped
    assert [s["n_other"] for s in json.loads(again.output)["selectors"]] == [0]


def test_a_judge_is_fitted_on_the_question_as_it_will_see_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A live judge gets the prompt in the plan's template, with its system message; so do those
    that learn from a journal.
    """
    monkeypatch.chdir(tmp_path)
    Path("p.jsonl").write_text('{"id": "q", "prompt": "What is 1?"}\n')
    asked = ["--sampling.system", "Be brief.", "--sampling.template", "Solve: {prompt}"]
    fake = [
        "--problems",
        "p.jsonl",
        "--execution.engine",
        "fake",
        "--execution.engine.n_tokens",
        "40",
        "--out",
        "job",
        "-q",
    ]
    done = CliRunner().invoke(leadline, ["run", *fake, *asked, "--strategy.n", "4"])
    assert done.exit_code == 0, done.output
    [(problem, _)] = job_prefixes(Path("job"), Cut(0, (), 8)).values()
    assert problem.prompt == (Message("system", "Be brief."), Message("user", "Solve: What is 1?"))
    Path("p.jsonl").unlink()
    [(unknown, _)] = job_prefixes(Path("job"), Cut(0, (), 8)).values()
    assert unknown.prompt == ""


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["nowhere", "-o", "x.json"], "there is no job in nowhere"),
        (["first", "-o", "x.json", "--words", "0"], "a prefix must end somewhere"),
        (
            ["first", "-o", "x.json", "--similarity", "lexical"],
            "cannot be trained; those that can: trained",
        ),
        (["first", "-o", "x.json"], "cannot be fitted"),
    ],
)
def test_what_cannot_be_fitted_is_refused(
    arguments: list[str], message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("p.jsonl").write_text('{"id": "q", "prompt": "What?"}\n')
    CliRunner().invoke(
        leadline,
        ["run", "--problems", "p.jsonl", "--execution.engine", "fake", "--out", "first", "-q"],
    )
    done = CliRunner().invoke(leadline, ["similarity", "train", *arguments])
    assert done.exit_code == 2
    assert message in done.output
    assert not Path("x.json").exists()
