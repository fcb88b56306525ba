"""The registry: one table, near matches, duplicates refused, options checked with field, value and
remedy.
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Annotated, Any, ClassVar, Literal

import pytest
from msgspec import Meta

from orchestrator.core.errors import PlanError, PluginError
from orchestrator.core.values import Capability, PluginSpec
from orchestrator.plan import registry
from orchestrator.plan.file import load_plan


@pytest.fixture(autouse=True)
def table_restored(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """What a test registers goes when it ends."""
    with monkeypatch.context() as context:
        context.setattr(
            registry,
            "_decorated",
            {group: dict(names) for group, names in registry._decorated.items()},
        )
        yield


def made(name: str, module: str, **members: Any) -> type:
    return dataclass(frozen=True)(
        type(name, (), {"__module__": module, "__qualname__": name, **members})
    )


def test_built_ins_are_found_like_everybodys() -> None:
    """By entry point, sorted, each naming its distribution."""
    assert {"adaptive", "consistency", "short-m@k"} <= set(registry.names("strategies"))
    assert registry.names("selectors") == sorted(registry.names("selectors"))
    assert registry.distribution("strategies", "consistency").startswith("leadline ")


def test_listing_names_loads_no_plugin() -> None:
    """`leadline plugins` must work, and be quick, with a broken or heavy plugin installed."""
    heavy = ("strategies", "verifiers", "scipy", "ray", "vllm", "torch")
    code = (
        "import sys; from orchestrator.plan import registry as r; [r.names(g) for g in r.GROUPS]; "
        f"print(sys.modules.keys() & {heavy})"
    )
    assert (
        subprocess.run(
            [sys.executable, "-c", code], capture_output=True, text=True, check=True
        ).stdout.strip()
        == "set()"
    )


def test_an_unknown_name_gets_the_near_match_and_the_list() -> None:
    """Most are typing errors."""
    with pytest.raises(
        PluginError,
        match=r"there is no strategy 'consistancy' \(did you mean 'consistency'\?\); "
        "there are: ab-mcts, ",
    ):
        registry.load("strategies", PluginSpec("consistancy"))
    assert issubclass(PluginError, PlanError), "found before any engine starts"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"m": 8}, r"strategy 'consistency' has no option 'm'.*; it has: depth, model, n"),
        ({"modle": "x"}, r"no option 'modle' \(did you mean 'model'\?\)"),
        ({"n": "many"}, r"strategy 'consistency': n = 'many': it must be a whole number"),
        ({"n": 0}, r"strategy 'consistency': n = 0: it must be a whole number, at least 1"),
    ],
)
def test_a_wrong_option_is_named_with_its_remedy(options: dict[str, object], message: str) -> None:
    """Field, value, remedy; unknown keys are errors."""
    with pytest.raises(PluginError, match=message):
        registry.load("strategies", PluginSpec("consistency", options))


def test_an_unknown_option_of_a_table_within_an_option_is_named() -> None:
    """It would be dropped otherwise, and the pool would have one replica."""
    options = {"pools": {"judge": {"replcas": 2}}}
    with pytest.raises(
        PluginError,
        match=r"engine 'ray': pools\.judge has no option 'replcas' \(did you mean 'replicas'\?\)",
    ):
        registry.load("engines", PluginSpec("ray", options))


def test_text_on_the_command_line_is_read_by_its_type_and_in_a_plan_it_is_text() -> None:
    """Every key is also a flag, and flags are text; elsewhere a text in place of a number, or a
    number in place of true and false, is a mistake.
    """
    flags = {"strategy": "adaptive", "strategy.n": "12", "strategy.growth": "2"}
    loaded = load_plan(None, flags | {"strategy.rule": "window"}).plan.strategy
    built = registry.load("strategies", loaded)
    assert (built.n, built.growth, built.rule) == (12, 2.0, "window")
    for group, name, option in (
        ("strategies", "adaptive", {"n": "12"}),
        ("strategies", "adaptive", {"n": True}),
        ("engines", "vllm", {"prefix_caching": "no"}),
        ("engines", "vllm", {"prefix_caching": 1}),
    ):
        with pytest.raises(PluginError, match=r"it must be (a whole number|true or false)"):
            registry.load(group, PluginSpec(name, option))


def test_a_decorated_class_is_in_the_same_table() -> None:
    """Code in a notebook is a plugin without packaging; running its cell again replaces it."""

    def cell() -> type:
        return registry.selector("mine")(made("Mine", "__main__"))

    cell()
    latest = cell()
    assert "mine" in registry.names("selectors")
    assert type(registry.load("selectors", PluginSpec("mine"))) is latest
    assert registry.distribution("selectors", "mine") == "__main__:Mine"


def test_a_second_class_under_one_name_is_refused_by_both_names() -> None:
    """Which one runs must not depend on the order of imports, even if both classes are called
    alike.
    """
    registry.strategy("mine")(made("Mine", "one"))
    with pytest.raises(PluginError, match="declared twice: by one:Mine and by two:Mine"):
        registry.strategy("mine")(made("Mine", "two"))
    with pytest.raises(PluginError, match=r"declared twice: by leadline .* and by one:Mine"):
        registry.strategy("consistency")(made("Mine", "one"))


def test_what_is_no_frozen_dataclass_is_refused() -> None:
    """Its fields are its options, and it must not change while problems are open."""
    with pytest.raises(PluginError, match="must be a frozen dataclass"):
        registry.verifier("mine")(dataclass(type("Mine", (), {})))
    with pytest.raises(PluginError, match="must be a frozen dataclass"):
        registry.domain("mine")(type("Mine", (), {}))


def test_options_are_shown_with_types_and_defaults() -> None:
    """For `leadline plugins NAME`, however the annotations are written; fields that are no options
    are left out.
    """

    @dataclass(frozen=True)
    class Mine:
        a: int
        b: int | None = None
        c: tuple[str, ...] = ()
        d: Literal['x', 'y'] = "x"  # fmt: skip
        f: list[int] = field(default_factory=list, init=False)

    # as it is in a module without `from __future__ import annotations`
    Mine.__dataclass_fields__["b"].type = int | None
    registry.strategy("mine")(Mine)
    assert [(o.name, o.type, o.default) for o in registry.options("strategies", "mine")] == [
        ("a", "int", "(required)"),
        ("b", "int | None", "None"),
        ("c", "tuple[str, ...]", "()"),
        ("d", "Literal['x', 'y']", "'x'"),
    ]


def test_an_annotation_gives_range_and_meaning() -> None:
    """One place for help, for the check and for the error; a field without it still loads."""

    @registry.strategy("mine")
    @dataclass(frozen=True)
    class Mine:
        a: Annotated[int, Meta(ge=1, description="Attempts per problem.")] = 2
        b: Annotated[Annotated[float, Meta(gt=0, le=1)] | None, Meta(description="A share.")] = None
        c: Annotated[
            tuple[Annotated[str, Meta(min_length=1)], ...], Meta(description="Words.")
        ] = ()
        d: int = 3
        e: Annotated[Mapping[str, int], Meta(description="Counts.")] = field(default_factory=dict)

    assert [(o.type, o.range, o.description) for o in registry.options("strategies", "mine")] == [
        ("int", "at least 1", "Attempts per problem."),
        ("float | None", "above 0 and at most 1", "A share."),
        ("tuple[str, ...]", "each not empty", "Words."),
        ("int", "", ""),
        ("Mapping[str, int]", "", "Counts."),
    ]
    for options, message in (
        ({"a": 0}, r"'mine': a = 0: it must be a whole number, at least 1\. Attempts per problem"),
        ({"b": 2.0}, r"b = 2.0: it must be a number or left out, above 0 and at most 1\. A share"),
        ({"c": ["x", ""]}, r"c = \['x', ''\]: it must be a list of texts, e.g.*, each not empty"),
        ({"d": "x"}, r"d = 'x': it must be a whole number$"),
        ({"e": 1}, r"e = 1: it must be a table\. Counts"),
        ({"e": {"k": "x"}}, r"'mine': Expected `int`, got `str` - at `\$\.e\["),
    ):
        with pytest.raises(PluginError, match=message):
            registry.load("strategies", PluginSpec("mine", options))
    assert registry.load("strategies", PluginSpec("mine", {"a": 4, "b": 0.5, "d": 9})).a == 4


def test_a_part_without_a_default_is_given_like_any_other() -> None:
    """By name, by name with options, or as a plugin that is built already; left out, it is missing
    by its name.
    """

    @registry.strategy("mine")
    @dataclass(frozen=True)
    class Mine:
        similarity: Any
        n: int = 1
        parts: ClassVar[Mapping[str, str]] = {"similarity": "similarity"}

    lexical = registry.load("similarity", PluginSpec("lexical", {"centre": 0.3}))
    for given in (
        "lexical centre=0.3",
        {"name": "lexical", "centre": 0.3},
        PluginSpec("lexical", {"centre": 0.3}),
        lexical,
    ):
        built = registry.load("strategies", PluginSpec("mine", {"similarity": given, "n": 2}))
        assert (built.similarity, built.n) == (lexical, 2)
    with pytest.raises(PluginError, match="missing required field `similarity`"):
        registry.load("strategies", PluginSpec("mine"))


def test_a_part_that_a_factory_makes_is_loaded() -> None:
    @registry.strategy("mine")
    @dataclass(frozen=True)
    class Mine:
        similarity: Any = field(default_factory=lambda: PluginSpec("lexical"))
        parts: ClassVar[Mapping[str, str]] = {"similarity": "similarity"}

    assert registry.load("strategies", PluginSpec("mine")).similarity == registry.load(
        "similarity", PluginSpec("lexical")
    )


def test_an_annotation_that_does_not_resolve_is_the_plugins_error() -> None:
    """Imported for type checking only: a common slip, which must not end in a traceback."""

    @registry.strategy("mine")
    @dataclass(frozen=True)
    class Mine:
        a: Nowhere = 1  # type: ignore[name-defined]  # noqa: F821 - on purpose

    with pytest.raises(PluginError, match=r"strategy 'mine': .*Nowhere"):
        registry.load("strategies", PluginSpec("mine", {"a": 2}))


def test_what_a_plugin_states_is_read_and_nothing_is_assumed() -> None:
    """No `needs`, no `metrics`: none."""
    states = made("States", "m", needs=(Capability.DEPTH,), metrics=("mean_logprob",))()
    assert registry.needs(states) == {Capability.DEPTH}
    assert registry.metrics(states) == ("mean_logprob",)
    assert registry.needs(object()) == frozenset()
    assert registry.metrics(object()) == ()


@pytest.mark.parametrize("group", registry.GROUPS)
def test_the_word_for_one_of_a_group(group: str) -> None:
    """Messages are for people."""
    assert registry.singular(group) in {
        "strategy",
        "selector",
        "verifier",
        "domain",
        "engine",
        "similarity",
        "sink",
    }
