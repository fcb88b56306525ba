"""Layer schedules and depths against a real vLLM: greedy tokens beside those of plain PyTorch that
keeps no cache (`latent_cases`).

Random models of four wide layers: a wrong layer, row, block of the cache or depth changes the
tokens at once. Float32 on both sides; ties do not occur among 128 random logits.
"""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from orchestrator.core.errors import PlanError
from orchestrator.core.plan import Model
from orchestrator.core.values import Finish, Request, Sampling
from orchestrator.engines.vllm.options import Vllm

pytestmark = [pytest.mark.engine, pytest.mark.timeout(900)]

CASES = Path(__file__).with_name("latent_cases.py")
THINK = "0-9 (10-19)*r 20-29"


@pytest.fixture(scope="module")
def cases(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What each case generated and should have, from one process."""
    command = [sys.executable, str(CASES), str(tmp_path_factory.mktemp("models"))]
    done = subprocess.run(command, capture_output=True, text=True, timeout=800, check=False)
    assert done.returncode == 0, done.stderr[-4000:]
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


def test_depth_one_is_the_stock_model(cases: dict[str, Any]) -> None:
    """Our class with r = 1, vLLM's own class and the reference give one and the same."""
    case = cases["depth_one"]
    assert case["got"] == case["want"] == case["reference"]


@pytest.mark.parametrize("layers", ["0 (1-2)*2 3", "0 2 1 1 3", "3 0"])
def test_a_fixed_schedule_equals_recomputation(cases: dict[str, Any], layers: str) -> None:
    """Loops, CoLa's skips and repeats, and a schedule without the first layer: each visit reads its
    own KV cache.
    """
    case = cases["fixed_schedules"][layers]
    assert case["got"] == case["want"]


def test_mixed_depths_equal_separate_runs(cases: dict[str, Any]) -> None:
    """Nine requests of depths 1, 2, 3 and the default in one batch, token for token what each gets
    alone, and the reference's.
    """
    case = cases["mixed"]
    assert case["got"] == case["separate"] == case["want"]


@pytest.mark.parametrize(
    "name", ["whole_stack", "staggered", "chunked", "damped", "own_depth", "runner_v2"]
)
def test_mixed_depths_equal_recomputation(cases: dict[str, Any], name: str) -> None:
    """Without head and tail; with four seats and lengths of 3 to 24; with prompts prefilled in
    pieces of 16 tokens; damped; with the folder's default depth; and with V2's hook in the place
    of V1's.
    """
    assert cases[name]["got"] == cases[name]["want"]


def test_preempted_requests_are_computed_anew_at_their_depth(cases: dict[str, Any]) -> None:
    """The cache is too small for nine requests, so some are pushed out and come back; what they
    generate stays the same.
    """
    case = cases["preempted"]
    assert case["n_preempted"] > 0
    assert case["got"] == case["want"]


def test_the_prefix_cache_serves_one_depth_only(cases: dict[str, Any]) -> None:
    """The second request of a depth finds two blocks of 32 of its 80 tokens, the first of another
    depth none.
    """
    case = cases["prefix_hits"]
    assert case["cached"] == [0, 64, 0, 64]
    assert case["got"] == case["want"]


def test_masking_equals_recomputation(cases: dict[str, Any]) -> None:
    """Where metadata cannot be rewritten all rows are computed, and each keeps the state of its own
    depth.
    """
    assert cases["masked"]["got"] == cases["masked"]["want"]


@pytest.mark.parametrize("family", ["mistral", "qwen2", "qwen3"])
def test_other_families_equal_recomputation(cases: dict[str, Any], family: str) -> None:
    """A family is a row of a table; this is what shows that the row is right."""
    case = cases["families"][family]
    assert case["got"] == case["want"]


def test_damping_does_something(cases: dict[str, Any]) -> None:
    """Else the reference could have forgotten it, too. Depth 1 is the model as it is."""
    case = cases["damped"]
    same = [a == b for a, b in zip(case["got"], case["undamped"], strict=True)]
    assert same == [True, False, False, True, False, False, True, False, False]


def test_a_dummy_run_has_no_batch(cases: dict[str, Any]) -> None:
    """Warm-up must reach the largest depth, or the first deep request meets what was never tried."""
    assert cases["runner_v2"]["dummy_batch"] is None


def test_the_engine_serves_depths_and_charges_their_layers() -> None:
    """SmolLM2 with ten layers looped: the trace says the depth it had, the layers are charged,
    prefixes stay apart, too deep is refused.
    """

    async def served() -> list[Any]:
        model = Model("smollm2", max_context_tokens=512, layers=THINK, max_depth=3)
        prompt = (
            "Count from one to twenty in words, then backwards, and say which numbers are prime. "
            * 8
        )
        greedy = Sampling(temperature=0.0, max_new_tokens=8)
        async with Vllm(kv_cache_gib=0.5, max_num_seqs=16, threads=1).open(
            {"main": model}
        ) as engine:
            request = Request(prompt=prompt, problem_id="p", ordinal=0, seed=1, sampling=greedy)
            depths = (None, 1, 3, 3, 4)
            return [
                await engine.generate(replace(request, ordinal=i, depth=depth))
                for i, depth in enumerate(depths)
            ]

    first, again, deep, warm, refused = asyncio.run(served())
    assert [t.depth for t in (first, again, deep, warm)] == [1, 1, 3, 3]
    assert again.token_ids == first.token_ids
    assert warm.token_ids == deep.token_ids != first.token_ids
    # the last token of a prompt is always computed
    whole_blocks = (first.usage.prompt_tokens - 1) // 32 * 32
    assert [t.usage.cached_tokens for t in (first, again, deep, warm)] == [
        0,
        whole_blocks,
        0,
        whole_blocks,
    ]
    for trace, n_layers in ((first, 30), (again, 30), (deep, 50), (warm, 50)):
        assert (
            trace.usage.layer_tokens
            == (trace.usage.prompt_tokens - trace.usage.cached_tokens + 8) * n_layers
        )
    assert refused.finish is Finish.FAILED
    assert "serves 1 to 3" in refused.error


@pytest.mark.parametrize(
    ("fields", "options", "said"),
    [
        ({"layers": "0-40"}, {}, "30 layers"),
        ({"layers": THINK, "max_depth": 4}, {"enforce_eager": False}, "runs eagerly"),
        (
            {"layers": THINK, "max_depth": 64, "max_context_tokens": 2048},
            {"kv_cache_gib": 0.5},
            "smaller max_context_tokens or max_depth",
        ),
    ],
)
def test_what_cannot_be_is_refused_before_the_engine_starts(
    fields: dict[str, Any], options: dict[str, Any], said: str
) -> None:
    """With the remedy, and without a process of vLLM's: PlanError, where one that fails on its way
    up is a EngineError.
    """

    async def opening() -> None:
        async with Vllm(**options).open({"main": Model("smollm2", **fields)}):
            pass

    with pytest.raises(PlanError, match=said):
        asyncio.run(opening())
