"""Parts of plugins: how they are written, what of theirs is checked before anything starts, and
that a plan records them whole.
"""

from __future__ import annotations

import json
import re
import shlex
import sys
from collections.abc import Mapping
from pathlib import Path
from types import ModuleType

import msgspec
import pytest
import tomli_w

from orchestrator.core.errors import PlanError, PluginError
from orchestrator.core.plan import Model, Plan, document, fingerprint
from orchestrator.core.values import Capability, PluginSpec
from orchestrator.plan import registry
from orchestrator.plan.check import check_plan, depth_requests
from orchestrator.plan.execution import Execution
from orchestrator.plan.file import LoadedPlan, load_plan, plan_toml
from orchestrator.plan.spec_syntax import one_spec, several_specs, spelled
from orchestrator.testing import explore

FAKE = Execution(engine=PluginSpec("fake"))
NESTED = {
    "inner": {
        "name": "refine",
        "inner": {"name": "consistency", "n": 3},
        "select": {"name": "best", "by": "mean_confidence"},
    }
}


def load(tmp_path: Path, strategy: str, flags: Mapping[str, str] | None = None) -> LoadedPlan:
    path = tmp_path / "plan.toml"
    path.write_text(f'{strategy}\n[execution.engine]\nname = "fake"\n')
    return load_plan(path, flags or {})


@pytest.mark.parametrize(
    "inner",
    [
        "refine inner='consistency n=3' select='best by=mean_confidence'",
        NESTED["inner"],
        {"name": "refine", "inner": "consistency n=3", "select": "best by=mean_confidence"},
        PluginSpec(
            "refine",
            {
                "inner": PluginSpec("consistency", {"n": 3}),
                "select": PluginSpec("best", {"by": "mean_confidence"}),
            },
        ),
    ],
)
def test_text_table_and_spec_say_the_same(inner: object) -> None:
    """To any depth: on a command line a part is a text, in a file a table, in Python a spec."""
    assert registry.load("strategies", PluginSpec("refine", {"inner": inner})) == registry.load(
        "strategies", PluginSpec("refine", NESTED)
    )


def test_a_table_without_a_name_sets_options_of_the_default() -> None:
    """`[strategy.inner] n = 8`; a part that has no default must be named."""
    loaded = registry.load("strategies", PluginSpec("refine", {"inner": {"n": 8}}))
    assert loaded.inner == registry.load("strategies", PluginSpec("consistency", {"n": 8}))
    with pytest.raises(
        PluginError, match=r"strategy\.inner must name its plugin: write inner = \{name = "
    ):
        registry.load("strategies", PluginSpec("cascade", {"models": ["main"], "inner": {"n": 8}}))


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (
            {"inner": "consistncy"},
            r"^strategy\.inner: there is no strategy 'consistncy' \(did you mean 'consistency'\?\)",
        ),
        (
            {"inner": {"name": "refine", "inner": "adaptive m=2"}},
            r"^strategy\.inner\.inner: strategy 'adaptive' has no option 'm'",
        ),
        (
            {"inner": {"name": "staged", "stages": ["consistency", "adaptive n=0"]}},
            r"^strategy\.inner\.stages\[1\]: .*n = 0: it must be a whole number, at least 1",
        ),
        ({"select": {"name": "bst"}}, r"^strategy\.select: there is no selector 'bst'"),
        (
            {"select": "best by"},
            r"^strategy\.select 'best by': after the name come options as KEY=VALUE",
        ),
    ],
)
def test_an_error_in_a_part_names_its_whole_path(options: dict[str, object], said: str) -> None:
    """Among four plugins of a plan, which one is wrong."""
    with pytest.raises(PluginError, match=said):
        registry.load("strategies", PluginSpec("refine", options))


def test_a_file_with_parts_comes_back_from_its_record_and_keeps_its_fingerprint(
    tmp_path: Path,
) -> None:
    """plan.toml and the journal's plan load back to the same work; a changed part of a part is
    other work.
    """
    inner = '{name = "refine", inner = {name = "consistency", n = 3}}'
    text = f'strategy = {{name = "refine", rounds = 1, inner = {inner}}}'
    loaded = load(tmp_path, text)
    again = tmp_path / "again.toml"
    again.write_text(plan_toml(loaded.plan, loaded.execution))
    assert load_plan(again).plan == loaded.plan
    kept = msgspec.convert(msgspec.json.decode(msgspec.json.encode(document(loaded.plan))), Plan)
    assert (fingerprint(kept), kept) == (fingerprint(loaded.plan), loaded.plan)
    changed = load(tmp_path, text, {"strategy.inner.inner.n": "4"}).plan
    assert fingerprint(changed) != fingerprint(loaded.plan)
    in_python = PluginSpec(
        "refine",
        {
            "rounds": 1,
            "inner": PluginSpec("refine", {"inner": PluginSpec("consistency", {"n": 3})}),
        },
    )
    assert fingerprint(Plan(strategy=in_python, selector=loaded.plan.selector)) == fingerprint(
        loaded.plan
    )


@pytest.mark.parametrize(
    ("file", "flags", "inner"),
    [
        ('strategy = "refine"', {"strategy.inner": "adaptive n=6"}, "adaptive n=6"),
        ('strategy = "refine"', {"strategy.inner.n": "6"}, {"n": 6}),
        (
            '[strategy]\nname = "refine"\ninner = "adaptive n=6"',
            {"strategy.inner.n": "9"},
            {"name": "adaptive", "n": 9},
        ),
        (
            '[strategy]\nname = "refine"\n[strategy.inner]\nname = "adaptive"',
            {"strategy.inner": "short-m@k"},
            "short-m@k",
        ),
    ],
)
def test_a_flag_sets_a_part_or_an_option_of_it(
    tmp_path: Path, file: str, flags: dict[str, str], inner: object
) -> None:
    """Whatever form the file has it in."""
    assert load(tmp_path, file, flags).plan.strategy.options["inner"] == inner


def test_a_strategy_is_spelled_as_it_can_be_typed() -> None:
    """What the screen shows of a plan, a shell takes back."""
    for options in (
        NESTED,
        {"inner": "consistency", "rounds": 3},
        {"inner": {"name": "staged", "stages": ["consistency", {"name": "rsa"}]}},
    ):
        spec = PluginSpec("refine", options)
        assert registry.load("strategies", one_spec("", spelled(spec))) == registry.load(
            "strategies", spec
        )
    assert (
        spelled(PluginSpec("refine", {"inner": {"name": "consistency", "n": 4}}))
        == "refine inner='consistency n=4'"
    )


def test_listed_options_of_a_part_are_taken_in_turn() -> None:
    """A replay of several settings lists them where they stand."""
    found = several_specs("--strategy", "refine inner='consistency n=2,4' rounds=1")
    assert [s.options["inner"] for s in found] == [
        {"name": "consistency", "n": 2},
        {"name": "consistency", "n": 4},
    ]


def test_a_loaded_plugin_tells_from_which_spec_it_loads_again() -> None:
    """Only what differs from the defaults, parts whole; an unregistered class is refused."""
    spec = PluginSpec(
        "cascade", {"models": ("main",), "n": 3, "inner": {"name": "adaptive", "n": 6}}
    )
    assert registry.spec_of("strategies", registry.load("strategies", spec)) == spec
    with pytest.raises(PluginError, match=r"builtins:object is not a registered strategy"):
        registry.spec_of("strategies", object())


def test_parts_bring_needs_metrics_and_verdicts() -> None:
    """From any depth; a part that is left out brings none."""
    strategy = registry.load(
        "strategies",
        PluginSpec("refine", {"inner": NESTED["inner"], "select": "weighted by=verdict:v"}),
    )
    assert registry.metrics(strategy) == ("mean_confidence",)
    assert registry.verdicts(strategy) == ("v",)
    deep = registry.load(
        "strategies",
        PluginSpec(
            "staged", {"stages": ["consistency", "cascade models=['x'] inner='deepen depths=[1]'"]}
        ),
    )
    assert registry.needs(deep) == {Capability.DEPTH}


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"select": "best by=verdict:prm"}, "strategy.select reads the verdicts of 'prm'"),
        (
            {"inner": "cascade models=['lrge']"},
            "strategy.inner of strategy 'refine' names model 'lrge' (did you mean 'large'?)",
        ),
        (
            {"inner": "consistency model=x"},
            "strategy.inner of strategy 'refine' names model 'x'",
        ),
    ],
)
def test_what_a_part_lacks_is_said_before_anything_starts(
    options: dict[str, object], said: str
) -> None:
    """With the path of the part."""
    plan = Plan(
        models={"main": Model("a"), "large": Model("b")}, strategy=PluginSpec("refine", options)
    )
    with pytest.raises(PlanError) as caught:
        check_plan(plan, FAKE)
    assert said in str(caught.value)


def test_depths_of_a_part_are_asked_of_the_pools_it_runs_on() -> None:
    """Its own model, else the models of the cascade it is in; and the plan's own depth of all of
    them.
    """
    inner = {"name": "deepen", "depths": [2, 4]}
    strategy = registry.load(
        "strategies", PluginSpec("cascade", {"models": ["main", "large"], "inner": inner})
    )
    plan = Plan(models={"main": Model("a"), "large": Model("b")})
    depths = sorted(depth_requests(plan, strategy))
    assert depths == sorted(
        ("strategy.inner.depths", pool, depth) for pool in ("main", "large") for depth in (2, 4)
    )


def test_options_that_are_no_parts_stay_as_they_were() -> None:
    """A list of specs is written out; any other value is left alone, whatever it is."""
    spec = PluginSpec(
        "staged", {"stages": [PluginSpec("rsa", {"n": 2}), "consistency"], "agreement": 1}
    )
    assert json.loads(json.dumps(spec.options)) == {
        "stages": [{"name": "rsa", "n": 2}, "consistency"],
        "agreement": 1,
    }


PAGE = (Path(__file__).parents[2] / "docs" / "composing.md").read_text()


def test_the_plan_and_the_flags_of_the_page_load(tmp_path: Path) -> None:
    """docs/composing.md: the table, and every command of it over the table."""
    [table] = re.findall(r"```toml\n(.*?)```", PAGE, re.DOTALL)
    models = (
        '[models.small]\npath = "a"\n[models.large]\npath = "b"\n'
        '[models.rm]\npath = "c"\ntask = "classify"'
    )
    text = f'verifiers = [{{name = "reward", model = "rm"}}]\n{table}\n{models}'
    assert load(tmp_path, text).plan.strategy.options["inner"] == {"name": "consistency", "n": 8}
    commands = re.findall(r"^leadline run plan.toml (.*)$", PAGE, re.MULTILINE)
    assert len(commands) == 3
    for command in commands:
        words = shlex.split(command)
        flags = {
            key.removeprefix("--"): value
            for key, value in zip(words[::2], words[1::2], strict=True)
        }
        assert load(tmp_path, text, flags).plan.strategy.name == "refine"


def test_the_strategy_of_the_page_keeps_the_contract(monkeypatch: pytest.MonkeyPatch) -> None:
    """docs/composing.md: as it stands; its second block is the contract test."""
    monkeypatch.setattr(
        registry, "_decorated", {group: dict(names) for group, names in registry._decorated.items()}
    )
    blocks = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)
    module = ModuleType("composing_page")  # a strategy must be found again where it was defined
    monkeypatch.setitem(sys.modules, module.__name__, module)
    for code in blocks:  # the first registers the strategy
        exec(compile(code, "composing.md", "exec", dont_inherit=True), module.__dict__)
    twice = registry.load("strategies", PluginSpec("twice", {"inner": "adaptive n=3 wave=2"}))
    session = explore(twice, lambda request: "A")
    assert not session.error
    assert [t.subjects for t in session.traces.values()] == [
        (),
        (),
        (),
        (0, 1, 2),
        (0, 1, 2),
        (0, 1, 2),
    ]


@pytest.mark.parametrize(
    ("strategy", "words"),
    [
        (
            '{name = "refine", inner = [1, 2, 4]}',
            "strategy.inner = [1, 2, 4]: it must be one plugin",
        ),
        ('{name = "refine", inner = ["consistency"]}', "it must be one plugin, not a list"),
        ('{name = "deepprune", similarity = -1}', "similarity = -1: it must be a similarity"),
        ('{name = "compute-optimal", hard = 7}', "strategy.hard = 7: it must be a strategy"),
        ('{name = "staged", stages = [true]}', "strategy.stages[0] = True: it must be a strategy"),
        ('{name = "staged", stages = "consistency"}', "it must be a list of plugins"),
    ],
)
def test_a_part_that_is_no_plugin_is_refused(tmp_path: Path, strategy: str, words: str) -> None:
    """Otherwise each problem fails when its strategy first uses the part."""
    with pytest.raises(PlanError) as refused:
        load(tmp_path, f"strategy = {strategy}")
    assert words in str(refused.value)


@pytest.mark.parametrize(
    "strategy",
    [
        '{name = "consistency", n = 1_000_000_000}',
        '{name = "revise", chains = 2_000_000}',
        '{name = "refine", inner = "consistency n=1000000000"}',
    ],
)
def test_a_count_beyond_all_memory_is_refused(tmp_path: Path, strategy: str) -> None:
    """A billion requests of one problem fill the memory before the first is sent."""
    with pytest.raises(PlanError, match=r"(n|chains) = \d+: it must be at most 100,000, the"):
        load(tmp_path, f"strategy = {strategy}")


def test_a_limit_in_tokens_is_not_a_count_of_requests(tmp_path: Path) -> None:
    options = {"interval": 1_000_000, "probe_tokens": 1_000_000}
    loaded = load(tmp_path, f"[strategy]\nname = 'dynasor'\n{tomli_w.dumps(options)}")
    assert loaded.plan.strategy.options == options
