"""Routing: who can serve, then who holds the prefix, then who is idlest."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from orchestrator.core.values import Request
from orchestrator.engines.ray.routing import SLACK, ReplicaView, route, serves

requests = st.builds(Request, model=st.sampled_from("ab"), depth=st.sampled_from([None, 2, 4]))
replicas = st.lists(
    st.tuples(st.sampled_from("ab"), st.integers(0, 12), st.sampled_from([None, (), (2,), (2, 4)])),
    max_size=6,
).map(lambda rows: [ReplicaView(i, *row) for i, row in enumerate(rows)])


@given(requests, replicas, st.none() | st.integers(0, 6))
def test_the_chosen_one_serves_and_is_at_most_slack_busier_than_the_idlest(
    request: Request, views: list[ReplicaView], preferred: int | None
) -> None:
    """Affinity only breaks near-ties, and nothing is routed to a replica that cannot serve it."""
    able = {v.index: v for v in views if serves(v, request)}
    chosen = route(request, views, preferred)
    if not able:
        assert chosen is None
        return
    assert chosen in able
    least = min(v.n_running for v in able.values())
    assert able[chosen].n_running <= least + (SLACK if chosen == preferred else 0)
    if preferred in able and able[preferred].n_running <= least + SLACK:
        assert chosen == preferred


@given(requests, replicas, st.randoms(use_true_random=False))
def test_the_order_of_the_replicas_changes_nothing(
    request: Request, views: list[ReplicaView], shuffler
) -> None:  # type: ignore[no-untyped-def]
    """Ties go to the lowest index, so routing does not depend on the order of a table."""
    expected = route(request, views)
    shuffler.shuffle(views)
    assert route(request, views) == expected


def test_a_replica_without_depths_serves_only_the_models_own() -> None:
    """`()` is "as the model ships"; None is any depth."""
    plain, deep, any_depth = (
        ReplicaView(0, "a", 0),
        ReplicaView(1, "a", 0, (8,)),
        ReplicaView(2, "a", 0, None),
    )
    asked = {
        depth: [
            r.index for r in (plain, deep, any_depth) if serves(r, Request(model="a", depth=depth))
        ]
        for depth in (None, 8, 9)
    }
    assert asked == {None: [0, 1, 2], 8: [1, 2], 9: [2]}
