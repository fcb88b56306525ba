"""Every option of every built-in plugin explains itself in `leadline plugins NAME`."""

from __future__ import annotations

import pytest

from orchestrator.plan import registry

LEAST_WORDS = 3
LONGEST_LINE = 90
BUILT_IN = [
    (group, name)
    for group in registry.GROUPS
    for name in registry.names(group)
    if registry.distribution(group, name).startswith("leadline ")
]


@pytest.mark.parametrize(("group", "name"), BUILT_IN)
def test_every_option_of_a_plugin_is_explained_in_a_sentence(group: str, name: str) -> None:
    """By a few words that end with a period."""
    missing = [
        f"{option.name}: {option.description!r}"
        for option in registry.options(group, name)
        if len(option.description.split()) < LEAST_WORDS or not option.description.endswith(".")
    ]
    assert not missing, f"{group} {name}: " + "; ".join(missing)


@pytest.mark.parametrize(("group", "name"), BUILT_IN)
def test_a_plugin_is_described_in_one_line(group: str, name: str) -> None:
    """The first line of its docstring, which `leadline plugins` lists: whole sentences."""
    first = (registry.plugin_class(group, name).__doc__ or "").strip().split("\n")[0]
    assert first.endswith("."), first
    assert len(first) <= LONGEST_LINE, first
