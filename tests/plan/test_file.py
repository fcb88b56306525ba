"""Plan files and flags: what they mean, what is refused and how it is said, and that plans survive
being written.
"""

from __future__ import annotations

import dataclasses
import random
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import pytest
import tomli_w
from hypothesis import given, settings
from hypothesis import strategies as st

from orchestrator.core.errors import PlanError
from orchestrator.core.plan import Budget, Model, Plan, differences, fingerprint
from orchestrator.core.steps import Steps
from orchestrator.core.values import Capability, PluginSpec, Problem, Sampling
from orchestrator.plan import keys as plankeys
from orchestrator.plan import registry
from orchestrator.plan.check import check_plan
from orchestrator.plan.execution import Execution, Supervision
from orchestrator.plan.file import LoadedPlan, load_plan, plan_document, plan_toml
from orchestrator.plan.keys import keys as fixed_keys

EXAMPLES = Path(__file__).parents[2] / "examples"
FAKE = Execution(engine=PluginSpec("fake"))


@registry.strategy("test-deep")
@dataclasses.dataclass(frozen=True)
class Deep:
    """Needs what a remote server has not."""

    needs = frozenset({Capability.DEPTH, Capability.CANCEL})

    def explore(self, problem: Problem, rng: random.Random) -> Steps:
        """Explore nothing."""
        return
        yield


@registry.strategy("test-free")
@dataclasses.dataclass(frozen=True)
class Free:
    """Takes any option, for the round trip."""

    label: str = ""
    options: Mapping[str, object] = dataclasses.field(default_factory=dict)

    def explore(self, problem: Problem, rng: random.Random) -> Steps:
        """Explore nothing."""
        return
        yield


Load = Callable[..., LoadedPlan]


@pytest.fixture
def load(tmp_path: Path) -> Load:
    """Return a function that loads a plan of this text, on the fake engine unless it names another,
    with flags over it.
    """

    def from_text(text: str, flags: Mapping[str, str] | None = None) -> LoadedPlan:
        path = tmp_path / "plan.toml"
        path.write_text(
            text if "engine" in text else text + '\n[execution.engine]\nname = "fake"\n',
            encoding="utf-8",
        )
        return load_plan(path, flags or {})

    return from_text


def refusal(load: Load, text: str, flags: Mapping[str, str] | None = None) -> str:
    with pytest.raises(PlanError) as caught:
        load(text, flags)
    return str(caught.value)


def test_every_part_of_a_plan_can_be_written_in_its_file(load: Load, tmp_path: Path) -> None:
    loaded = load(
        """
        problems = "data/p.jsonl"
        out = "runs/a"
        format = "openai-batch"
        domain = "prices"
        seed = 3
        strategy = "consistency"
        [selector]
        name = "majority"
        [models.small]
        path = "smollm2"
        [models.big]
        path = "org/big"
        revision = "v1"
        max_context_tokens = 4096
        [sampling]
        temperature = 1
        stop = ["###"]
        [budget]
        traces = 8
        seconds = 1.5
        [domains.prices]
        name = "number"
        relative_tolerance = 0.01
        [domains.math]
        [execution]
        window = 5
        engine = { name = "fake", n_tokens = 3 }
        """
    )
    assert loaded.plan == Plan(
        models={"small": Model("smollm2"), "big": Model("org/big", "v1", 4096)},
        strategy=PluginSpec("consistency"),
        sampling=Sampling(temperature=1.0, stop=("###",)),
        budget=Budget(traces=8, seconds=1.5),
        domains={
            "prices": PluginSpec("number", {"relative_tolerance": 0.01}),
            "math": PluginSpec("math"),
        },
        domain="prices",
        seed=3,
    )
    assert loaded.plan.default_model == "small"
    assert loaded.execution == Execution(engine=PluginSpec("fake", {"n_tokens": 3}), window=5)
    assert (loaded.problems, loaded.out, loaded.format) == (
        tmp_path / "data/p.jsonl",
        Path("runs/a"),
        "openai-batch",
    )


def test_the_example_loads_and_its_problems_have_answers() -> None:
    """It is what `make run` runs."""
    from orchestrator.jobs.problems import read_problems
    from orchestrator.studies.evaluate import reference_rows

    loaded = load_plan(EXAMPLES / "arithmetic.toml", {"execution.engine": "fake"})
    assert loaded.problems == EXAMPLES / "arithmetic.jsonl"
    file = read_problems(loaded.problems, default_domain=loaded.plan.domain)
    assert len(file.problems) == 24
    assert (file.invalid, file.warnings) == ((), ())
    assert reference_rows(loaded.problems).keys() == {p.id for p in file.problems}
    assert "The answer is" in loaded.plan.sampling.template


def test_without_a_file_flags_make_the_plan_and_problems_are_where_they_say() -> None:
    loaded = load_plan(
        None,
        {"problems": "data/p.jsonl", "execution.engine": "fake", "sampling.temperature": "0.9"},
    )
    assert loaded.plan == Plan(sampling=Sampling(temperature=0.9))
    assert (loaded.problems, loaded.out) == (Path("data/p.jsonl"), Path("runs/p"))
    assert load_plan(None, {"execution.engine": "fake"}).problems is None
    assert load_plan(None, {"execution.engine": "fake"}).out is None


def test_a_flag_wins_over_the_file_and_problems_named_by_it_are_relative_to_here(
    load: Load,
) -> None:
    loaded = load(
        'problems = "p.jsonl"\n[sampling]\ntop_k = 5\ntemperature = 0.5',
        {"problems": "q.jsonl", "sampling.temperature": ".25"},
    )
    assert loaded.problems == Path("q.jsonl")
    assert loaded.out == Path("runs/plan")
    assert loaded.plan.sampling == Sampling(top_k=5, temperature=0.25)


def test_a_flag_that_names_another_plugin_drops_the_options_of_the_first(load: Load) -> None:
    text = '[strategy]\nname = "adaptive"\nn = 8\nwave = 2'
    assert load(text, {"strategy": "consistency"}).plan.strategy == PluginSpec("consistency")
    assert load(text, {"strategy.n": "3", "strategy": "consistency"}).plan.strategy == PluginSpec(
        "consistency", {"n": 3}
    )
    assert load(text, {"strategy": "adaptive", "strategy.n": "3"}).plan.strategy == PluginSpec(
        "adaptive", {"n": 3, "wave": 2}
    )
    assert load(
        'strategy = "consistency"', {"strategy.name": "adaptive"}
    ).plan.strategy == PluginSpec("adaptive")


def test_a_flag_may_name_a_plugin_with_its_options(load: Load) -> None:
    """As `leadline replay` writes them; an option's own flag comes later and wins."""
    text = "[strategy]\nname = 'consistency'\nn = 3\n"
    plan = load(text, {"strategy": "adaptive n=8 wave=2"}).plan
    assert plan.strategy == PluginSpec("adaptive", {"n": 8, "wave": 2})
    flags = {"strategy.rounds": "4", "strategy": "refine rounds=3 inner='consistency n=2'"}
    plan = load("", flags).plan
    assert plan.strategy == PluginSpec("refine", {"rounds": 4, "inner": "consistency n=2"})
    with pytest.raises(PlanError, match="KEY=VALUE"):
        load("", {"strategy": "adaptive 8"})


def test_a_flag_that_names_another_model_drops_the_revision_of_the_first(load: Load) -> None:
    text = '[models.small]\npath = "a"\nrevision = "v1"\n[models.big]\npath = "b"'
    assert load(text, {"model": "c"}).plan.models == {"small": Model("c"), "big": Model("b")}
    assert load(text, {"model": "a"}).plan.models["small"] == Model("a", "v1")
    assert load(text, {"models.big": "7"}).plan.models["big"] == Model("7")
    assert load('model = "a"', {"models.main.revision": "3"}).plan.models == {
        "main": Model("a", "3")
    }


def test_a_flag_for_a_text_is_taken_as_it_is_typed(load: Load) -> None:
    """`--sampling.system 5` means the text "5", though 5 is a TOML number."""
    assert load("", {"sampling.system": "5"}).plan.sampling.system == "5"
    assert load("", {"sampling.system": '"5"'}).plan.sampling.system == "5"
    assert load("", {"model": "true", "domain": "math"}).plan.models["main"].path == "true"
    assert load("", {"strategy": "test-free", "strategy.label": "12"}).plan.strategy.options == {
        "label": "12"
    }
    assert load("", {"sampling.stop": '["a", "b"]'}).plan.sampling.stop == ("a", "b")


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("sede = 1", ["there is no key 'sede' (did you mean 'seed'?)", "problems"]),
        ("temperature = 1", ["did you mean 'sampling.temperature'?"]),
        (
            "[sampling]\ntemprature = 1",
            ["'sampling.temprature' (did you mean 'temperature'?)", "top_p"],
        ),
        ("[budget]\ntrace = 1", ["'budget.trace' (did you mean 'traces'?)"]),
        ("[execution]\nwindows = 1", ["'execution.windows' (did you mean 'window'?)", "engine"]),
        (
            '[models.main]\npath = "x"\nrevison = "y"',
            ["'models.main.revison' (did you mean 'revision'?)"],
        ),
        ('[models.main]\nrevision = "y"', ["[models.main] has no path", "smollm2"]),
        ('[models.main]\npath = "x"\nexit = "state>1"', ["exit rule 'state>1'", "state<0.03"]),
        (
            '[models.main]\npath = "x"\nexit = "state<1"\n[execution.engine]\nname = "openai"',
            ["exit = 'state<1'", "'openai' runs models"],
        ),
        (
            '[models.main]\npath = "x"\nresidual = 0.5\n[execution.engine]\nname = "openai"',
            ["residual = 0.5", "'openai' runs models"],
        ),
        ('[models.main]\npath = "x"\nresidual = 1', ["models.main.residual = 1", "below 1"]),
        ('model = "x"\n[models.main]\npath = "y"', ["not both"]),
        ("[models]", ["models = {}", "at least one model"]),
        ("[strategy]\nn = 3", ["[strategy] must name its plugin", "name = "]),
        ('strategy = "consistancy"', ["'consistancy' (did you mean 'consistency'?)", "adaptive"]),
        ('[strategy]\nname = "consistency"\nm = 3', ["no option 'm'", "depth"]),
        ('[strategy]\nname = "consistency"\nn = 0', ["n = 0", "at least 1"]),
        (
            '[strategy]\nname = "consistency"\nmodel = "mian"',
            ["model 'mian' (did you mean 'main'?)"],
        ),
        (
            '[strategy]\nname = "consistency"\nn = 2020-01-01',
            ["[strategy]", "options are texts, numbers"],
        ),
        ('selector = "best"\n[[selectors]]', ["'selectors' (did you mean 'selector'?)"]),
        (
            '[selector]\nname = "weighted"\nby = "luck"',
            ["selector 'weighted'", "metric 'luck' is not known"],
        ),
        ('domain = "maths"', ["no domain 'maths' (did you mean 'math'?)"]),
        ("[domains.prices]\nx = 1", ["no domain 'prices'"]),
        ('[[verifiers]]\nname = "nobody"', ["no verifier 'nobody'"]),
        ('[execution.engine]\nname = "rya"', ["no engine 'rya' (did you mean 'ray'?)"]),
        (
            'strategy = "test-deep"\n[execution.engine]\nname = "openai"',
            ["strategy 'test-deep' needs 'depth'", "engine 'openai'", "fake"],
        ),
        (
            'model = "any"\n[sampling]\ndepth = 2\n[execution.engine]\nname = "openai"',
            ["engine 'openai' runs models as they ship", "sampling.depth = 2"],
        ),
        (
            (
                '[strategy]\nname = "consistency"\ndepth = 4\n'
                '[models.main]\npath = "any"\nmax_depth = 3'
            ),
            ["strategy.depth requests", "serves 1 to 3"],
        ),
        ("sampling = 3", ["sampling = 3", "write [sampling]"]),
        ("[sampling]\ntemperature = true", ["sampling.temperature = True", "a number"]),
        ('seed = "3"', ["seed = '3'", "a whole number"]),
        ("[sampling]\nmax_new_tokens = 3.5", ["sampling.max_new_tokens = 3.5", "a whole number"]),
        ('[sampling]\nstop = "x"', ["sampling.stop = 'x'", 'a list of texts, e.g. ["a", "b"]']),
        ('[sampling]\nstop = [""]', ["sampling.stop", "not empty"]),
        ('format = "json"', ["format = 'json'", "'openai-batch'"]),
        ("problems = 3", ["problems = 3", "a text in quotes"]),
        ("[sampling]\ntemperature = -0.1", ["sampling.temperature = -0.1", "at least 0"]),
        ("[sampling]\ntemperature = nan", ["sampling.temperature = nan"]),
        ("[sampling]\ntop_p = 0", ["sampling.top_p = 0:", "above 0 and at most 1"]),
        ("[sampling]\nmax_new_tokens = 0", ["sampling.max_new_tokens = 0", "at least 1"]),
        ('[sampling]\ntemplate = "{question}"', ["sampling.template", "{prompt}"]),
        ("[budget]\ntokens = -1", ["budget.tokens = -1", "0 is no limit"]),
        ("[execution]\nwindow = 0", ["execution.window = 0", "at least 1"]),
    ],
)
def test_a_wrong_plan_names_file_field_value_and_remedy(
    load: Load, text: str, words: list[str]
) -> None:
    if text.startswith("[execution]"):
        text += '\nengine = "fake"'
    error = refusal(load, text)
    assert "plan.toml: " in error
    for word in words:
        assert word in error


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("seed = 0\nmodel = smollm2\n", 2),
        ("seed = 0\nseed = 1\n", 2),
        ("[sampling]\n[sampling]\n", 2),
        ("a = [1,\n2\n", 2),
        ("x", 1),
    ],
)
def test_a_syntax_error_names_file_and_line(tmp_path: Path, text: str, line: int) -> None:
    path = tmp_path / "plan.toml"
    path.write_text(text)
    with pytest.raises(PlanError, match=f"plan.toml:{line}: "):
        load_plan(path)


def test_a_chat_template_is_a_file_beside_the_plan_or_a_text(load: Load, tmp_path: Path) -> None:
    """The plan has its text, so that another text is another plan."""
    (tmp_path / "short.jinja").write_text("{{ messages[0].content }}")
    models = '[models.main]\npath = "smollm2"\nchat_template = '
    by_file = load(models + '"short.jinja"').plan
    assert by_file.models["main"].chat_template == "{{ messages[0].content }}"
    assert load(models + '"{{ messages[0].content }}"').plan == by_file
    with pytest.raises(PlanError, match=r"models.main.chat_template = 'no.jinja': .* cannot be"):
        load(models + '"no.jinja"')


def test_a_prefill_needs_an_engine_that_continues_texts(load: Load) -> None:
    plan = '[sampling]\nprefill = "So"\n[execution]\nengine = '
    with pytest.raises(PlanError, match=r"sampling.prefill: the engine 'openai' cannot continue"):
        load(plan + '"openai"')
    assert load(plan + '{ name = "openai", server = "vllm" }').plan.sampling.prefill == "So"


def test_a_plan_file_that_cannot_be_read_is_a_plan_error(tmp_path: Path) -> None:
    with pytest.raises(PlanError, match="there is no plan file"):
        load_plan(tmp_path / "no.toml")
    with pytest.raises(PlanError, match="is a directory"):
        load_plan(tmp_path)
    (tmp_path / "latin.toml").write_bytes(b'model = "\xe9"')
    with pytest.raises(PlanError, match="byte 10"):
        load_plan(tmp_path / "latin.toml")


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        ({"sampling.temprature": "1"}, ["there is no key 'sampling.temprature'"]),
        ({"sampling.temperature": "hot"}, ["sampling.temperature = 'hot'", "a number"]),
        ({"budget.traces": "-1"}, ["budget.traces = -1"]),
        ({"seed.x": "1"}, ["there is no key 'seed.x'"]),
        ({"execution.engine": "rya"}, ["no engine 'rya'"]),
        ({"verifiers": "nobody"}, ["no verifier 'nobody'"]),
        ({"verifiers.prm.size": "1"}, ["no verifier 'prm'", "--verifiers prm"]),
    ],
)
def test_a_wrong_flag_says_that_it_is_the_command_line(
    load: Load, flags: dict[str, str], words: list[str]
) -> None:
    error = refusal(load, "seed = 1", flags)
    assert error.startswith("on the command line: ")
    for word in words:
        assert word in error


def test_what_an_engine_lacks_is_said_with_the_engines_that_have_it() -> None:
    """The Python API builds plans without a file and must be told the same."""
    check_plan(Plan(selector=PluginSpec("weighted")), FAKE)
    with pytest.raises(PlanError, match="needs 'depth', which engine 'openai' does not offer"):
        check_plan(Plan(strategy=PluginSpec("test-deep")), Execution(engine=PluginSpec("openai")))
    with pytest.raises(PlanError, match="different ones"):
        check_plan(Plan(verifiers=(PluginSpec("a"), PluginSpec("a"))), FAKE)


def test_the_former_option_of_retries_is_ignored_with_a_notice(tmp_path: Path) -> None:
    """Job directories of earlier versions have it in their plan; its successor is in the notice."""
    path = tmp_path / "plan.toml"
    path.write_text('[execution]\nengine = { name = "openai", max_retries = 5 }\n')
    loaded = load_plan(path)
    assert loaded.execution == Execution(PluginSpec("openai"))
    assert "supervision.patience_seconds" in loaded.notices[0]


@pytest.mark.parametrize(
    "text", ["patience_seconds = -1", "max_failed = 2", "max_failed = nan", 'max_failed = "all"']
)
def test_a_wrong_supervision_is_refused_with_its_key(tmp_path: Path, text: str) -> None:
    path = tmp_path / "plan.toml"
    path.write_text(f"[supervision]\n{text}\n")
    with pytest.raises(PlanError, match=rf"supervision\.{text.split()[0]} .* it must be a number"):
        load_plan(path)


def test_every_fixed_key_has_help_and_no_help_is_left_over() -> None:
    """Each key is a flag too; a field added to a dataclass must not be without help."""
    found = {info.name: info for info in fixed_keys()}
    assert len(found) == len(fixed_keys())
    assert all(info.description.endswith(".") for info in found.values())
    fields = {
        f"{name}.{f.name}"
        for name, cls in plankeys.SECTIONS.items()
        if name not in ("", plankeys.POOL, plankeys.PRICE)
        for f in dataclasses.fields(cls)
        if f.name not in {*plankeys.SECTIONS, "sinks"}  # which are tables, or keys, at the top
    }
    assert fields <= found.keys()
    # whose keys the user names
    plan_fields = {f.name for f in dataclasses.fields(Plan)} - {"models", "domains"}
    assert plan_fields - plankeys.SECTIONS.keys() <= found.keys()
    assert found["sampling.stop"].type == "tuple[str, ...]"
    assert found["sampling.temperature"].default == "0.7"


def test_a_float_of_numpy_is_a_number() -> None:
    """A script that sweeps over numpy.linspace builds its plans in Python."""
    check_plan(Plan(sampling=Sampling(temperature=np.float64(0.5))), FAKE)


def test_the_table_for_the_documentation_has_every_key() -> None:
    """docs are made of it: a row a key, those of a model included."""
    rows = plankeys.markdown_table().splitlines()
    assert len(rows) == 2 + len(plankeys.KEYS)
    assert any(row.startswith("| `models.NAME.residual` | a number | `0.0` | at") for row in rows)


def test_defaults_of_keys_are_those_of_an_empty_plan(load: Load) -> None:
    """Written out as flags they change nothing."""
    flags = {
        info.name: info.default
        for info in fixed_keys()
        if info.name not in ("out", "problems", "execution.engine", "format")
    }
    unquoted = {name: text.strip('"') for name, text in flags.items()}
    assert load("", unquoted).plan == load("").plan


texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=8)

values = st.recursive(
    st.booleans() | st.integers() | st.floats(allow_nan=False) | texts,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(texts, inner, max_size=3),
    max_leaves=6,
)
plans = st.builds(
    Plan,
    models=st.dictionaries(
        texts,
        st.builds(Model, texts.filter(str.strip), texts, st.integers(0)),
        min_size=1,
        max_size=3,
    ),
    strategy=st.builds(
        PluginSpec,
        st.just("test-free"),
        st.dictionaries(st.just("options"), st.dictionaries(texts, values, max_size=3)),
    ),
    selector=st.just(PluginSpec("majority")) | st.just(PluginSpec("filtered", {"keep": 0.5})),
    sampling=st.builds(
        Sampling,
        temperature=st.floats(0, 10),
        top_p=st.floats(0, 1, exclude_min=True),
        stop=st.lists(texts.filter(bool), max_size=2).map(tuple),
        system=texts,
        template=texts.map(lambda text: text + "{prompt}" + text),
    ),
    budget=st.builds(Budget, st.integers(0), st.integers(0), st.floats(0, 1e9)),
    domains=st.dictionaries(
        texts, st.just(PluginSpec("number", {"relative_tolerance": 0.01})), max_size=2
    ),
    seed=st.integers(),
)
fleets = st.builds(
    Execution,
    st.just(PluginSpec("fake", {"n_tokens": 3})),
    st.integers(1),
    st.integers(0),
    st.integers(1),
    supervision=st.builds(Supervision, st.floats(0, 1e9), st.floats(0, 1)),
)


@settings(deadline=None)  # the machine is shared
@given(plans, fleets)
def test_a_plan_written_as_toml_loads_back_to_the_same(
    tmp_path_factory: pytest.TempPathFactory, plan: Plan, execution: Execution
) -> None:
    """A job directory's plan must mean what the plan meant, to the fingerprint and to the order of
    the pools.
    """
    path = tmp_path_factory.mktemp("plan") / "plan.toml"
    path.write_text(plan_toml(plan, execution, problems="p.jsonl"), encoding="utf-8", newline="")
    loaded = load_plan(path)
    assert (loaded.plan, loaded.execution) == (plan, execution)
    assert fingerprint(loaded.plan) == fingerprint(plan)
    assert loaded.plan.default_model == plan.default_model
    assert (
        differences(plan_document(plan, execution), plan_document(loaded.plan, loaded.execution))
        == []
    )


def test_a_change_of_plan_is_named_by_its_dotted_key() -> None:
    old, new = (
        Plan(),
        Plan(sampling=Sampling(temperature=0.9), strategy=PluginSpec("consistency", {"n": 4})),
    )
    assert differences(plan_document(old, FAKE), plan_document(new, FAKE)) == [
        "sampling.temperature: 0.7 -> 0.9",
        "strategy.n: None -> 4",
    ]


def test_a_strategy_brings_its_own_selector_unless_the_plan_names_one() -> None:
    """`sounding` stops on discounted votes: counting heads afterwards could give another answer
    than the one it found decided.
    """
    own = load_plan(None, {"strategy": "sounding", "strategy.slope": "0.25"}).plan
    assert (own.selector.name, own.selector.options) == ("discounted", {"slope": 0.25})
    assert (
        load_plan(None, {"strategy": "sounding", "selector": "majority"}).plan.selector.name
        == "majority"
    )
    assert load_plan(None, {"strategy": "consistency"}).plan.selector.name == "majority"


@pytest.mark.parametrize(
    "text",
    [
        f"x = {'[' * 1500}{']' * 1500}",
        f"[strategy]\nname = 'adaptive'\nn = {'[' * 600}{']' * 600}",
        "strategy = " + "{name = 'refine', inner = " * 1500 + "1" + "}" * 1500,
    ],
)
def test_a_plan_nested_too_deeply_is_a_plan_error(tmp_path: Path, text: str) -> None:
    path = tmp_path / "deep.toml"
    path.write_text(text)
    with pytest.raises(PlanError, match=r"deep.toml: its tables or lists are nested too deeply"):
        load_plan(path)


@pytest.mark.parametrize("text", ["one,two", "one, two", "[one,two]", '["one", "two"]'])
def test_a_list_of_an_option_needs_no_json_on_the_command_line(text: str) -> None:
    """A shell takes the quotes, and a reader of a help text does not expect any."""
    pools = {"models.one": "smollm2", "models.two": "sounder", "execution.engine": "fake"}
    loaded = load_plan(None, {**pools, "strategy": "ensemble", "strategy.models": text})
    assert loaded.plan.strategy.options["models"] == ["one", "two"]
    one = load_plan(None, {**pools, "strategy": "cascade", "strategy.models": "two"})
    assert one.plan.strategy.options["models"] == ["two"]
    weights = load_plan(None, {"execution.engine": "fake", "execution.engine.weights": "1,2.5,3"})
    assert weights.execution.engine.options["weights"] == [1, 2.5, 3]


def test_several_verifiers_may_be_named_in_one_flag() -> None:
    with pytest.raises(PlanError, match="no verifier 'a'"):
        load_plan(None, {"execution.engine": "fake", "verifiers": '["a,b"]'})


def test_an_address_is_no_local_path() -> None:
    """A path would lose a slash of it, and a job directory `s3:` would be made here."""
    with pytest.raises(PlanError, match=r"out = 's3://b/x\.jsonl' is an address"):
        load_plan(None, {"execution.engine": "fake", "out": "s3://b/x.jsonl"})
    loaded = load_plan(None, {"execution.engine": "fake", "problems": "s3://b/x.jsonl"})
    assert (loaded.problems, loaded.out) == ("s3://b/x.jsonl", Path("runs/x"))


def test_example_plans_with_worked_questions_stop_before_another() -> None:
    """Else an attempt votes with the answer of a question that it invents after its own."""
    root = Path(__file__).parents[2]
    templates = {
        path: load_plan(path, {"execution.engine": "fake"}).plan.sampling
        for path in [*root.glob("examples/*.toml"), *root.glob("benchmarks/*.toml")]
    }
    worked = {p: s for p, s in templates.items() if s.template.count("Question:") > 1}
    assert len(worked) > 1
    assert [path.name for path, sampling in worked.items() if not sampling.stop] == []


@pytest.mark.parametrize(
    ("template", "stop", "n_notices"),
    [
        ("\nQ: 1?\nA: 1\n\nQ: 2?\nA: 2\n\nQ: {prompt}\nA:", [], 1),
        ("\nQ: 1?\nA: 1\n\nQ: 2?\nA: 2\n\nQ: {prompt}\nA:", ["\nQ:"], 0),
        ("\nQ: {prompt}\nA:", [], 0),
        ("{prompt}\nThink: step by step.", [], 0),
    ],
)
def test_worked_examples_without_a_stop_are_noticed(
    template: str, stop: list[str], n_notices: int, tmp_path: Path
) -> None:
    """The notice has the line to add."""
    plan = tmp_path / "plan.toml"
    plan.write_text(tomli_w.dumps({"sampling": {"template": template, "stop": stop}}))
    notices = load_plan(plan, {"execution.engine": "fake"}).notices
    assert len(notices) == n_notices
    assert all(r"sampling.stop = ['\nQ:']" in notice for notice in notices)


@pytest.mark.parametrize("key", ["problems", "out", "few_shot.file"])
@pytest.mark.parametrize("name", ["9" * 256, "folder/" + "\u00e9" * 128, "a\0b"])
def test_a_name_that_no_file_can_have_is_a_plan_error(key: str, name: str) -> None:
    """The system refuses it with an error that names neither key nor remedy."""
    with pytest.raises(PlanError, match=f"{key} = .*no file has such a name"):
        load_plan(None, {key: name, "execution.engine": "fake"})
