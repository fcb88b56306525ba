"""Looped models in a real vLLM against references that recompute everything: fixed depths, the
residual step, exits of both kinds.

One program runs all cases (`loop_cases`), because its engines are cheap there; here each rule is
asserted of what it printed.
"""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from orchestrator.core.plan import Model
from orchestrator.core.values import Finish, Request, Sampling
from orchestrator.engines.vllm.options import Vllm

LATENT = str(Path(__file__).parents[1] / "engines" / "vllm" / "latent")
# a minute and a half where nothing else runs
pytestmark = [pytest.mark.engine, pytest.mark.timeout(1200)]


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """Return what all cases printed."""
    program = Path(__file__).with_name("loop_cases.py")
    ended = subprocess.run(
        [sys.executable, str(program), str(tmp_path_factory.mktemp("loops"))],
        capture_output=True,
        text=True,
        timeout=1100,
    )
    assert ended.returncode == 0, ended.stderr[-4000:]
    return dict(json.loads(ended.stdout.splitlines()[-1]))


def assert_equal(case: dict[str, Any]) -> None:
    """Token for token; and where a rule decides, iteration for iteration."""
    assert case["got"] == case["want"]
    if "taken" in case:
        assert case["counted"] == case["taken"]


@pytest.mark.parametrize("kind", ["ouro", "huginn"])
def test_depths_mixed_in_one_batch_equal_the_reference(found: dict[str, Any], kind: str) -> None:
    """Depths 1, 2 and 4 of three prompts at once: every iteration has a KV slot of its own, every
    state starts where it should.
    """
    case = found["fixed"][kind]
    assert_equal(case)
    assert case["got"][0] != case["got"][1] != case["got"][2], (
        "a model that does not feel its depth shows nothing"
    )


@pytest.mark.parametrize("kind", ["huginn", "llama"])
def test_the_residual_step_equals_the_reference(found: dict[str, Any], kind: str) -> None:
    """h_t = 0.3 h_{t-1} + 0.7 f(h_{t-1}) inside the loop, through the plain stack and through the
    recurrence.
    """
    assert_equal(found["residual"][kind])
    assert found["residual"]["huginn"]["got"] != found["fixed"]["huginn"]["got"]


@pytest.mark.parametrize("kind", ["ouro", "huginn", "llama"])
@pytest.mark.parametrize("measure", ["state", "kl"])
def test_exits_equal_the_reference_token_for_token(
    found: dict[str, Any], kind: str, measure: str
) -> None:
    """Tokens leave at depths of their own, under largest depths that differ in one batch; the
    worker counts what each took.
    """
    (case,) = (
        case for name, case in found["exits"].items() if name.startswith(f"{kind} {measure}")
    )
    assert_equal(case)
    assert len([depth for depth in case["depths"] if depth < 12]) > 1, (
        "exits must differ, or this shows nothing"
    )


def test_where_rows_cannot_be_left_out_the_result_is_the_same(found: dict[str, Any]) -> None:
    """The way of attention backends whose metadata is not rewritten, as on a GPU."""
    assert_equal(found["masked"])


def test_exits_by_state_do_not_feel_how_a_prompt_is_cut(found: dict[str, Any]) -> None:
    """Chunked prefill."""
    assert_equal(found["chunked"])


def test_exits_by_state_survive_preemption(found: dict[str, Any]) -> None:
    """A request that is pushed out computes its generated tokens anew, many at once, and leaves
    where it left before.

    What it counts is more than the reference: the tokens that ran twice were paid for twice.
    """
    case = found["preempted"]
    assert case["n_preempted"] > 0
    assert case["got"] == case["want"]


def test_exits_by_state_share_prefixes(found: dict[str, Any]) -> None:
    """A cached block holds what its tokens would compute again, exits included; its tokens are
    counted where they ran.
    """
    case = found["prefix_hits"]
    assert case["got"] == case["want"]
    assert case["cached"] == [0, 64, 64]
    assert case["counted"][0] == case["taken"][0]
    assert [own for _, own in case["counted"]] == [own for _, own in case["taken"]]
    assert case["counted"][1][0] < case["taken"][1][0]


async def test_mean_depth_is_reported_and_charged(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Through the whole engine, its process of its own included: what the worker counted reaches
    the trace, its metric and its price.
    """
    monkeypatch.syspath_prepend(LATENT)
    import loop_references as references
    import tiny_loops as tiny

    config, n_new = tiny.huginn_config(), 10
    folder = tiny.write_folder(tmp_path / "huginn", config, tiny.huginn_weights(config))
    reference = references.Huginn(config, tiny.huginn_weights(config))
    model = Model(str(folder), max_depth=12, exit="state<0.06")
    requests = [
        Request(
            prompt,
            problem_id="p",
            ordinal=i,
            seed=i,
            sampling=Sampling(temperature=0, max_new_tokens=n_new),
            depth=depth,
        )
        for i, (prompt, depth) in enumerate(
            [("How deep?", None), ("How deep?", 3), ("By the mark, twain.", 12)]
        )
    ]
    async with Vllm(kv_cache_gib=0.1, max_num_seqs=8, threads=1).open({"main": model}) as engine:
        traces = await asyncio.gather(*(engine.generate(request) for request in requests))
    for request, trace in zip(requests, traces, strict=True):
        prompt = [1 + ord(character) - 32 for character in str(request.prompt)]
        depth = request.depth or 4  # the checkpoint's own
        ids, taken = references.generate_until_settled(reference, prompt, n_new, 0.06, 1, depth)
        assert (trace.finish, list(trace.token_ids), trace.depth) == (Finish.LENGTH, ids, depth)
        own = taken[len(prompt) - 1 :]
        assert trace.metrics == {"mean_depth": pytest.approx(sum(own) / len(own))}
        n_tokens = len(prompt) - trace.usage.cached_tokens + n_new
        mean = sum(taken) / len(taken)
        assert trace.usage.layer_tokens == round(n_tokens * (2 + 2 * mean)), (
            "prelude and coda once, the core of two as often as needed"
        )
    assert traces[2].metrics["mean_depth"] < 12
