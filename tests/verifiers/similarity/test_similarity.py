"""Similarities against their definitions, and what a fitted one keeps in its file."""

from __future__ import annotations

import json
import math
import os
import random
from collections.abc import Mapping, Sequence
from dataclasses import fields, replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from orchestrator.core.errors import PlanFault, PluginError
from orchestrator.core.session import Session
from orchestrator.core.values import (
    Capability,
    Message,
    PluginSpec,
    Prefix,
    Problem,
    Purpose,
    Request,
    Trace,
)
from orchestrator.kit.prefixes import LabelledPrefix, scores_without_engine
from orchestrator.plan import registry
from orchestrator.plan.check import check_plan
from orchestrator.studies.similarity import Cut, cross_fitted, quality, scores_of_pairs
from orchestrator.testing import PROBLEM, explore, trace
from strategies.pruning.deepprune import DeepPrune
from verifiers.similarity.lexical import Lexical
from verifiers.similarity.llm import Llm
from verifiers.similarity.probe import Probe
from verifiers.similarity.texts import content, tfidf_cosine
from verifiers.similarity.trained import Embedding, Trained

words = st.lists(
    st.sampled_from(["ship", "sail", "12", "7.5", "x", "=", "So", "thus"]), max_size=30
).map(" ".join)
Pools = Mapping[str, tuple[Problem, Sequence[LabelledPrefix]]]


def pools(n: int, told: float, seed: int = 0) -> dict[str, tuple[Problem, list[LabelledPrefix]]]:
    """Problems with 6 traces each, answers 1 to 3; a prefix names its answer with probability
    `told`, else a number of no meaning.
    """
    rng = random.Random(seed)
    made = {}
    for i in range(n):
        finals = [rng.choice("123") for _ in range(6)]
        texts = [
            f"We try step {i}, which gives x = "
            f"{f if rng.random() < told else rng.choice('123')} and"
            for f in finals
        ]
        pool = [
            LabelledPrefix(Prefix(o, text), f)
            for o, (text, f) in enumerate(zip(texts, finals, strict=True))
        ]
        made[f"p{i}"] = (Problem(f"p{i}", "What is it?"), pool)
    return made


@settings(max_examples=40, deadline=None)  # the first example imports scikit-learn
@given(words, words, words)
def test_lexical_similarity_is_scikit_learns_tf_idf_over_the_three_texts(
    a: str, b: str, question: str
) -> None:
    """Fitted on question and both prefixes, with sublinear counts, on the same terms."""
    from sklearn.feature_extraction.text import TfidfVectorizer

    def terms(text: str) -> list[str]:
        return [term for term, count in content(text).counts.items() for _ in range(count)]

    if not any(map(terms, (a, b, question))):
        assert tfidf_cosine(a, b, question) == 0.0
        return
    rows = (
        TfidfVectorizer(analyzer=terms, sublinear_tf=True).fit_transform([a, b, question]).toarray()
    )
    assert tfidf_cosine(a, b, question) == pytest.approx(float(rows[0] @ rows[1]), abs=1e-9)


def test_a_system_message_is_no_part_of_the_question() -> None:
    """It says how to answer: terms and numbers in it would be taken for given by every problem of a
    plan.
    """
    pair = [(Prefix(0, "So x = 12, and"), Prefix(1, "Let x = 7 and so"))]
    plain = Problem("p", "What is x?")
    chat = Problem(
        "p",
        (Message("system", "Think step by step: so, let x = 12."), Message("user", "What is x?")),
    )
    assert scores_without_engine(Lexical(), chat, pair) == scores_without_engine(
        Lexical(), plain, pair
    )


def test_a_probe_judge_compares_the_classes_of_answers() -> None:
    """And cannot tell where a probe stated none, which is neither 0 nor a half."""
    a, b, c, silent = (Prefix(i, "", key) for i, key in enumerate(("=1/2", "=1/2", "=2", None)))
    assert scores_without_engine(
        Probe(), PROBLEM, [(a, b), (a, c), (a, silent), (silent, silent)]
    ) == [
        1.0,
        0.0,
        None,
        None,
    ]
    assert Probe().probe.purpose is Purpose.PROBE


def verdicts(metrics: Mapping[str, float]) -> list[float | None]:
    """What the LLM judge reads off a reply with these metrics."""
    similarity = Llm(same="Yes", different="No")
    asking = similarity.score(PROBLEM, [(Prefix(0, "a {second}"), Prefix(1, "b"))])
    command = next(asking)
    [request] = command.requests  # type: ignore[union-attr]  # the first command is a Submit
    assert "a {second}" in request.prompt
    assert request.subjects == (0, 1)
    assert request.max_new_tokens == 1
    asking.send((7,))
    with pytest.raises(StopIteration) as end:
        asking.send(replace(trace(7, None), metrics=metrics))
    return list(end.value.value)


def test_an_llm_judge_reads_its_two_verdict_words() -> None:
    """p(Yes) = .6, p(No) = .2: .75.

    A word that is not among the twenty likeliest is less likely than one that is; neither: no
    verdict.
    """
    yes, no = "first_token_logprob@Yes", "first_token_logprob@No"
    assert verdicts({yes: math.log(0.6), no: math.log(0.2)}) == [pytest.approx(0.75)]
    assert verdicts({no: -3.0}) == [0.0]
    assert verdicts({yes: -3.0}) == [1.0]
    assert verdicts({}) == [None]


def test_an_llm_judge_is_asked_by_requests_charged_to_judging() -> None:
    """Through the strategy: one request a pair, and its tokens are the similarity's."""

    def reply(request: Request) -> Trace:
        made = trace(request.ordinal, "A" if request.parent is not None else None, tokens=1)
        metrics = dict.fromkeys(request.metrics, -0.5)
        text = "so " * 30 if request.purpose is Purpose.SOLVE else "Yes"
        return replace(made, metrics=metrics, text=text, purpose=request.purpose)

    session = explore(DeepPrune(n=3, similarity=Llm(), tau=0.4), reply)
    # 1 with 0; 2 with both
    assert [t.purpose for t in session.traces.values()].count(Purpose.COMPARE) == 3
    assert not session.error
    assert DeepPrune(similarity=Llm()).needs > {Capability.LOGPROBS}


@pytest.mark.slow
def test_a_fitted_judge_tells_on_problems_it_has_not_seen() -> None:
    """Prefixes that name their answer in 9 of 10 cases: AUROC far above chance; texts without
    meaning: none.
    """
    telling, blind = pools(24, 0.9), pools(24, 0.0)
    good, bad = (quality(cross_fitted("trained", p, n_folds=2), p) for p in (telling, blind))
    assert good.auroc.value > 0.8
    assert good.auroc.low is not None
    assert good.auroc.low <= good.auroc.value
    assert abs(bad.auroc.value - 0.5) < 0.15  # 24 x 15 pairs: a standard error of .03


def test_probabilities_of_a_fitted_judge_are_calibrated(tmp_path: Path) -> None:
    """Over fresh problems of the same kind the mean of P(same) is the share that agree: 600 pairs,
    clustered: within .08.
    """
    path = tmp_path / "judge.json"
    path.write_text(Trained.fit(pools(40, 0.9)))
    fresh = pools(40, 0.9, seed=1)
    scores = [
        s
        for row in scores_of_pairs(Trained(str(path)), fresh).values()
        for s in row
        if s is not None
    ]
    found = quality(scores_of_pairs(Trained(str(path)), fresh), fresh)
    assert sum(scores) / len(scores) == pytest.approx(found.n_same / found.n_pairs, abs=0.08)


def test_a_model_file_is_plain_json_of_numbers_and_words(tmp_path: Path) -> None:
    """Loading runs nothing; what is not such a file is refused with what to do."""
    path = tmp_path / "judge.json"
    text = Trained.fit(pools(20, 0.9))
    path.write_text(text)
    [score] = scores_without_engine(
        Trained(str(path)), PROBLEM, [(Prefix(0, "x = 1 and"), Prefix(1, "x = 1 and"))]
    )
    assert score is not None
    [similarity] = scores_without_engine(
        Embedding(str(path)), PROBLEM, [(Prefix(0, "we try x = 1"), Prefix(1, "we try x = 1"))]
    )
    assert similarity == pytest.approx(1 / (1 + math.exp(-3)))
    document = json.loads(text)
    damaged = [
        ("{", "not JSON"),
        ("[]", "not a similarity that this version reads"),
        (json.dumps(document | {"format": "pickle"}), "not a similarity that this version reads"),
        (json.dumps(document | {"means": [1.0]}), "damaged"),
        (json.dumps(document | {"scales": [0.0] * len(document["means"])}), "damaged"),
        (json.dumps(document | {"idf": {"a": "b"}}), "damaged"),
        (json.dumps(document | {"axes": {"a": [1.0], "b": [1.0, 2.0]}}), "damaged"),
    ]
    for number, (broken, message) in enumerate(damaged):
        bad = tmp_path / f"bad{number}.json"
        bad.write_text(broken)
        with pytest.raises(PluginError, match=message):
            registry.load("similarity", PluginSpec("trained", {"file": str(bad)}))
    with pytest.raises(PluginError, match="fit one with"):
        registry.load("similarity", PluginSpec("embedding", {"file": str(tmp_path / "none.json")}))


@pytest.mark.parametrize(
    ("name", "option", "value"),
    [
        ("lexical", "slope", 0.0),
        ("embedding", "slope", -1.0),
        ("sentence-embedding", "slope", 0.0),
        ("sentence-embedding", "max_chars", 0),
        ("llm", "max_chars", 0),
        ("probe", "suffix", " \n"),
        ("probe", "max_new_tokens", 0),
    ],
)
def test_an_option_out_of_its_range_is_refused(name: str, option: str, value: object) -> None:
    """A slope of 0 or less would make likeness count for nothing, or against."""
    options = {"file": "x", "model": "m", option: value}
    known = {f.name for f in fields(registry.plugin_class("similarity", name))}
    spec = PluginSpec(name, {key: v for key, v in options.items() if key in known})
    with pytest.raises(PluginError, match=option):
        registry.load("similarity", spec)


def test_too_little_to_learn_from_is_said() -> None:
    """All agree, or three problems: no model, and the reason."""
    with pytest.raises(ValueError, match="at least 10 of each"):
        Trained.fit(pools(3, 0.9))


def test_a_strategy_is_given_its_judge_by_name_and_options() -> None:
    """In a plan as text or table; its mistakes are found before anything starts."""
    for spelled in ("lexical centre=0.3", {"name": "lexical", "centre": 0.3}):
        loaded = registry.load("strategies", PluginSpec("deepprune", {"judge": spelled}))
        assert loaded.similarity == Lexical(centre=0.3)
    assert registry.load("strategies", PluginSpec("deepprune")).similarity == Probe()
    for wrong, message in (
        ("lexicle", "did you mean 'lexical'"),
        ("lexical top=1", "no option 'top'"),
        ("lexical x", "KEY=VALUE"),
        ('lexical "', "quotation"),
    ):
        with pytest.raises(PluginError, match=message):
            registry.load("strategies", PluginSpec("deepprune", {"judge": wrong}))


def test_a_judge_that_asks_a_pool_that_is_not_there_is_refused() -> None:
    from orchestrator.core.plan import Plan
    from orchestrator.plan.execution import Execution

    plan = Plan(strategy=PluginSpec("deepprune", {"judge": "llm model=judge"}))
    with pytest.raises(
        PlanFault, match=r"strategy\.similarity of strategy 'deepprune' names model 'judge'"
    ):
        check_plan(plan, Execution(engine=PluginSpec("fake")))


def test_a_judge_that_gives_nonsense_fails_its_problem() -> None:
    class Nonsense:
        def score(self, problem: Problem, pairs: object) -> object:
            yield from ()
            return [2.0]

    session: Session = explore(
        DeepPrune(n=2, similarity=Nonsense()), lambda r: replace(trace(r.ordinal, None), text="A")
    )
    assert "it must return one score in [0, 1], or None, for each" in session.error


@pytest.mark.slow
def test_the_trained_judge_on_recorded_traces_is_better_than_chance() -> None:
    """Qwen2.5-1.5B on MATH-500 and GSM8K, prefixes of 256 tokens, problems held out: the interval
    of its AUROC lies above 1/2.
    """
    import asyncio
    import importlib.util
    import sys

    root = Path(__file__).parents[3]
    folder = Path(os.environ.get("LEADLINE_TRACES", root / "../shared/traces")) / "qwen2.5-1.5b"
    if not folder.is_dir():
        pytest.skip(f"no recorded traces in {folder}; set LEADLINE_TRACES")
    spec = importlib.util.spec_from_file_location(
        "benchmark_judges", root / "benchmarks/similarity.py"
    )
    assert spec is not None
    assert spec.loader is not None
    benchmark = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = benchmark
    spec.loader.exec_module(benchmark)
    from orchestrator.studies.similarity import labelled_prefixes

    recorded = asyncio.run(benchmark.recorded_texts(folder))
    found = {
        id: (problem, labelled_prefixes(traces, Cut(0, (), 256)))
        for id, (problem, traces) in recorded.items()
    }
    auroc = quality(cross_fitted("trained", found, n_folds=2), found).auroc
    assert auroc.low is not None
    assert auroc.low > 0.5
