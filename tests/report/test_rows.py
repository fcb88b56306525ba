"""Rows become columns whatever their values are."""

from __future__ import annotations

from hypothesis import example, given
from hypothesis import strategies as st

from orchestrator.report.tables.rows import columns

VALUES = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.floats(allow_nan=False, allow_infinity=False),
    st.text(max_size=3),
    st.lists(st.integers(0, 9), max_size=2),
    st.dictionaries(st.text(max_size=2), st.integers(), max_size=2),
)


@given(st.lists(st.dictionaries(st.sampled_from("abc"), VALUES), max_size=6))
def test_columns_have_the_length_of_the_rows(tags: list[dict[str, object]]) -> None:
    """Also where a tag is in some rows only; values of one kind are unchanged."""
    rows = [{"id": str(i), "tags": own} for i, own in enumerate(tags)]
    table = columns(rows)
    assert all(len(values) == len(rows) for values in table.values())
    for name in "abc":
        given_values = [own.get(name) for own in tags]
        if all(isinstance(value, str) for value in given_values) and tags:
            assert table[f"tags.{name}"] == given_values


@given(st.lists(VALUES, min_size=1, max_size=6))
@example([2**60 + 1, 0.5])
def test_every_column_fits_in_one_arrow_type(values: list[object]) -> None:
    """A tag may be a number in one row and a text in the next, or too large for 64 bits."""
    from orchestrator.report.tables.frames import _table

    rows = [{"id": str(i), "tags": {"t": value}} for i, value in enumerate(values)]
    table = _table(rows)
    assert table.num_rows == len(values)


def test_votes_are_json_also_where_nobody_voted() -> None:
    """A job without a single answer could not be exported as Parquet."""
    from orchestrator.report.tables.frames import _table

    assert _table([{"id": "a", "votes": []}]).to_pylist() == [{"id": "a", "votes": "[]"}]


def test_values_of_several_kinds_are_json() -> None:
    rows = [{"tags": {"a": 1}}, {"tags": {"a": "x"}}, {"tags": {}}, {"tags": {"a": [None]}}]
    assert columns(rows) == {"tags.a": ["1", '"x"', None, "[null]"]}
