"""Layer schedules, looped models and their depths in a real vLLM, token for token as a reference.

The references are plain PyTorch and recompute everything, without a cache. The models are random,
of a few wide layers: a wrong layer, row, block of the cache or depth changes the tokens at once.
Float32 on both sides; ties do not occur among a hundred random logits. One program runs all cases
(`cases/latent_program`); here each rule is asserted of what it wrote.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from draft_cases import LEFT_OUT_CASES
from loop_cases import CASCADES
from processes import Programs

from orchestrator.core.errors import PlanError
from orchestrator.core.layers import OF_PREDICTIONS, OF_STATES
from orchestrator.core.plan import Model
from orchestrator.engines.vllm.latent.visits import (
    KNOWN_BUILDERS,
    OF_THE_BATCH,
    PER_REQUEST,
    PER_TOKEN,
)
from orchestrator.engines.vllm.options import Vllm

pytestmark = [pytest.mark.engine, pytest.mark.timeout(1200)]

PROGRAM = Path(__file__).with_name("cases") / "latent_program.py"
THINK = "0-9 (10-19)*r 20-29"


def prepare(programs: Programs, folder: Path) -> dict[str, Any]:
    """Return what each case generated and should have, from one process."""
    programs.run(PROGRAM, folder, log=folder / "log")
    found: dict[str, Any] = json.loads((folder / "results.json").read_text())
    return found


@pytest.fixture
def schedules(prepared: dict[str, Any]) -> dict[str, Any]:
    """Return the cases of ordinary models under schedules."""
    return dict(prepared["schedules"])


@pytest.fixture
def loops(prepared: dict[str, Any]) -> dict[str, Any]:
    """Return the cases of loops with a residual step or an exit rule, and of looped models."""
    return dict(prepared["loops"])


@pytest.fixture
def slots(prepared: dict[str, Any]) -> dict[str, Any]:
    """Return the cases of iterations that share KV slots."""
    return dict(prepared["slots"])


@pytest.fixture
def noise(prepared: dict[str, Any]) -> dict[str, Any]:
    """Return the cases of noise on latent states."""
    return dict(prepared["noise"])


@pytest.fixture
def warm(prepared: dict[str, Any]) -> dict[str, Any]:
    """Return the cases of tokens that start from the last state of the token before."""
    return dict(prepared["warm"])


@pytest.fixture
def drafts(prepared: dict[str, Any]) -> dict[str, Any]:
    """Return the cases of self-speculation."""
    return dict(prepared["drafts"])


@pytest.fixture
def spans(prepared: dict[str, Any]) -> dict[str, Any]:
    """Return the cases of steps that end between iterations."""
    return dict(prepared["spans"])


def test_depth_one_is_the_stock_model(schedules: dict[str, Any]) -> None:
    """Our class with r = 1, vLLM's own class and the reference give one and the same."""
    case = schedules["depth_one"]
    assert case["got"] == case["want"] == case["reference"]


@pytest.mark.parametrize("layers", ["0 (1-2)*2 3", "0 2 1 1 3", "3 0"])
def test_a_fixed_schedule_equals_recomputation(schedules: dict[str, Any], layers: str) -> None:
    """Loops, CoLa's skips and repeats, and a schedule without the first layer: each visit reads its
    own KV cache.
    """
    case = schedules["fixed_schedules"][layers]
    assert case["got"] == case["want"]


def test_mixed_depths_equal_separate_runs(schedules: dict[str, Any]) -> None:
    """Nine requests of depths 1, 2, 3 and the default in one batch, token for token what each gets
    alone, and the reference's.
    """
    case = schedules["mixed"]
    assert case["got"] == case["separate"] == case["want"]


@pytest.mark.parametrize(
    "name", ["whole_stack", "staggered", "chunked", "damped", "own_depth", "runner_v2"]
)
def test_mixed_depths_equal_recomputation(schedules: dict[str, Any], name: str) -> None:
    """Without head and tail; with four seats and lengths of 3 to 24; with prompts prefilled in
    pieces of 16 tokens; damped; with the folder's default depth; and with V2's hook in the place
    of V1's.
    """
    assert schedules[name]["got"] == schedules[name]["want"]


def test_preempted_requests_are_computed_anew_at_their_depth(schedules: dict[str, Any]) -> None:
    """The cache is too small for nine requests, so some are pushed out and come back; what they
    generate stays the same.
    """
    case = schedules["preempted"]
    assert case["n_preempted"] > 0
    assert case["got"] == case["want"]


def test_the_prefix_cache_serves_one_depth_only(schedules: dict[str, Any]) -> None:
    """The second request of a depth finds two blocks of 32 of its 80 tokens, the first of another
    depth none.
    """
    case = schedules["prefix_hits"]
    assert case["cached"] == [0, 64, 0, 64]
    assert case["got"] == case["want"]


def test_masking_equals_recomputation(schedules: dict[str, Any]) -> None:
    """Where the builder is not a known one, all rows are computed, and each keeps the state of its
    own depth.
    """
    assert schedules["masked"]["got"] == schedules["masked"]["want"]


@pytest.mark.parametrize("family", ["mistral", "qwen2", "qwen3"])
def test_other_families_equal_recomputation(schedules: dict[str, Any], family: str) -> None:
    """A family is a row of a table; this is what shows that the row is right."""
    case = schedules["families"][family]
    assert case["got"] == case["want"]


@pytest.mark.parametrize("name", KNOWN_BUILDERS)
def test_builders_make_of_some_requests_what_they_make_of_these_alone(
    prepared: dict[str, Any], name: str
) -> None:
    """On three steps, field by field, for backends of GPUs too; and what the builder had made of
    all requests still holds, as the layers after the think block read it.
    """
    for step in prepared["builders"]["builders"][name]:
        assert step["got"] == step["want"] != step["whole"]
        assert step["whole_later"] == step["whole"]


def test_the_second_runner_keeps_what_a_step_is_built_from(prepared: dict[str, Any]) -> None:
    """V2, the default on GPUs, describes a step by a function of its own."""
    for step in prepared["builders"]["runner_v2"]:
        assert step["got"] == step["want"]


def test_every_field_of_a_step_is_reduced(prepared: dict[str, Any]) -> None:
    """A field that a later vLLM adds must be looked at; those left are for caches shared between
    layers, which no looped model has.
    """
    left = set(prepared["builders"]["fields"]) - {*PER_REQUEST, *PER_TOKEN, *OF_THE_BATCH}
    assert left == {"logits_indices_padded", "num_logits_indices", "max_logits_per_req"}


def test_damping_does_something(schedules: dict[str, Any]) -> None:
    """Else the reference could have forgotten it, too. Depth 1 is the model as it is."""
    case = schedules["damped"]
    same = [a == b for a, b in zip(case["got"], case["undamped"], strict=True)]
    assert same == [True, False, False, True, False, False, True, False, False]


def test_a_dummy_run_has_no_batch(schedules: dict[str, Any]) -> None:
    """Warm-up must reach the largest depth, or the first deep request is the first to try it."""
    assert schedules["runner_v2"]["dummy_batch"] is None


def assert_equal(case: dict[str, Any]) -> None:
    """Token for token; and where a rule decides, iteration for iteration."""
    assert case["got"] == case["want"]
    if "taken" in case:
        assert case["counted"] == case["taken"]


@pytest.mark.parametrize("kind", ["ouro", "huginn"])
def test_depths_mixed_in_one_batch_equal_the_reference(loops: dict[str, Any], kind: str) -> None:
    """Depths 1, 2 and 4 of three prompts at once: every iteration has a KV slot of its own, every
    state starts where it should.
    """
    case = loops["fixed"][kind]
    assert_equal(case)
    assert case["got"][0] != case["got"][1] != case["got"][2], (
        "a model that does not feel its depth shows nothing"
    )


@pytest.mark.parametrize("kind", ["huginn", "llama"])
def test_the_residual_step_equals_the_reference(loops: dict[str, Any], kind: str) -> None:
    """h_t = 0.3 h_{t-1} + 0.7 f(h_{t-1}) inside the loop, through the plain stack and through the
    recurrence.
    """
    assert_equal(loops["residual"][kind])
    assert loops["residual"]["huginn"]["got"] != loops["fixed"]["huginn"]["got"]


@pytest.mark.parametrize("kind", ["ouro", "huginn", "llama"])
@pytest.mark.parametrize("measure", [*OF_STATES, *OF_PREDICTIONS])
def test_exits_equal_the_reference_token_for_token(
    loops: dict[str, Any], kind: str, measure: str
) -> None:
    """Tokens leave at depths of their own, under largest depths that differ in one batch; the
    worker counts what each took.
    """
    (case,) = (
        case for name, case in loops["exits"].items() if name.startswith(f"{kind} {measure}")
    )
    assert_equal(case)
    assert len([depth for depth in case["depths"] if depth < 12]) > 1, (
        "exits must differ, or this shows nothing"
    )


def test_where_rows_cannot_be_left_out_the_result_is_the_same(loops: dict[str, Any]) -> None:
    """The way of attention backends whose builder is not a known one."""
    assert_equal(loops["masked"])


def test_exits_by_state_do_not_feel_how_a_prompt_is_cut(loops: dict[str, Any]) -> None:
    """Chunked prefill."""
    assert_equal(loops["chunked"])


def test_exits_by_state_survive_preemption(loops: dict[str, Any]) -> None:
    """A request that is pushed out computes its generated tokens anew, many at once, and leaves
    where it left before.

    Its prompt counts more than in the reference: tokens that ran twice were paid for twice. What
    each of its own tokens took is listed once.
    """
    case = loops["preempted"]
    assert case["n_preempted"] > 0
    assert case["got"] == case["want"]
    assert [own for _, own in case["counted"]] == [own for _, own in case["taken"]]


def test_exits_by_state_share_prefixes(loops: dict[str, Any]) -> None:
    """A cached block holds what its tokens would compute again, exits included; its tokens are
    counted where they ran.
    """
    case = loops["prefix_hits"]
    assert case["got"] == case["want"]
    assert case["cached"] == [0, 64, 64]
    assert case["counted"][0] == case["taken"][0]
    assert [own for _, own in case["counted"]] == [own for _, own in case["taken"]]
    assert case["counted"][1][0] < case["taken"][1][0]


@pytest.mark.parametrize("kind", ["ouro", "huginn", "llama"])
def test_a_loop_that_drafts_for_itself_equals_the_reference(
    loops: dict[str, Any], kind: str
) -> None:
    """Drafted at depth 1, verified at 2 and 4, beside requests of depth 1."""
    assert_equal(loops["drafted"][kind])


@pytest.mark.parametrize(
    "name",
    [
        *("answers", "mixed", "company", "guided", "tight", "chunked", "prefix_hits", "exits"),
        *("damped", "cascade", "tight_cascade"),
        *(f"{case.__name__}_left_out" for case in LEFT_OUT_CASES),
        "smollm2",
    ],
)
def test_drafts_change_no_token(drafts: dict[str, Any], name: str) -> None:
    """Greedy and seeded; with top_p, top_k, penalties, least lengths and allowed tokens; with
    structured outputs, forbidden words and limits of thinking; with mixed depths; in another
    company; preempted, and at the end of the context; with prompts in pieces;
    with prefix hits; with exits, iteration for iteration; damped; in cascades; with layers left
    out, where SmolLM2 has the tokens of vLLM's own class. And tokens are drafted and kept.
    """
    case = drafts[name]
    assert case["got"] == case["want"]
    assert 0 < sum(case["accepted"]) < sum(case["drafted"])


@pytest.mark.parametrize("name", ["answers", "mixed", "tight", "answers_left_out", "smollm2"])
def test_drafts_change_no_logprob(drafts: dict[str, Any], name: str) -> None:
    """There is one for each token, of the pass that verified it."""
    plain, drafted = drafts[name]["logprobs"]
    assert sum(map(len, plain)) > 0
    for own, other in zip(plain, drafted, strict=True):
        assert own == pytest.approx(other, abs=1e-4)


@pytest.mark.parametrize("drafts", ["", " drafted"])
@pytest.mark.parametrize(("kind", "cascade"), CASCADES)
def test_cascades_equal_the_reference(
    loops: dict[str, Any], kind: str, cascade: str, drafts: str
) -> None:
    """Token for token, at depths 1, 2 and 4 in one batch, with drafts and without. Some tokens are
    the early iteration's and others the deep one's, or this shows nothing.
    """
    case = loops["cascades"][f"{kind} {cascade}{drafts}"]
    assert_equal(case)
    assert 0 < sum(case["early"]) < 3 * 12


def test_a_cascade_keeps_more_drafts(drafts: dict[str, Any]) -> None:
    """That is its use: it changes tokens, and fewer of those that it drafts are rejected."""
    case = drafts["cascade"]
    assert case["got"] != case["plain"]
    drafted, accepted = (sum(counts) for counts in case["plain_kept"])
    assert sum(case["accepted"]) / sum(case["drafted"]) > accepted / drafted


def test_a_request_alone_has_the_tokens_that_it_has_in_company(drafts: dict[str, Any]) -> None:
    """How many tokens are drafted depends on the batch; what comes out does not."""
    for case in (drafts["company"], drafts["company_left_out"]):
        assert case["alone"] == case["want"][: len(case["alone"])]


def test_only_deeper_requests_with_noise_of_their_own_draft(drafts: dict[str, Any]) -> None:
    """A request no deeper than the draft has nothing to gain; without a seed its noise belongs to
    no position.
    """
    case = drafts["mixed"]
    for depth, n in zip(case["depths"], case["drafted"], strict=True):
        assert (n > 0) if depth == 16 else (n == 0 or (depth or 8) > 4)
    assert drafts["company"]["unseeded"] == drafts["company_left_out"]["unseeded"] == 0


def test_drafts_survive_preemption_and_prefix_hits(drafts: dict[str, Any]) -> None:
    """Else these cases show nothing: blocks were taken away, and found again."""
    assert drafts["tight"]["n_preempted"] > 0
    assert drafts["tight_cascade"]["n_preempted"] > 0
    assert drafts["tight_left_out"]["n_preempted"] > 0
    for name in ("prefix_hits", "prefix_hits_left_out"):
        plain, drafted = drafts[name]["cached"]
        assert plain == drafted
        assert min(plain) >= 96, "what was drafted and kept is in the cache, too"


def test_drafts_obey_what_guides_the_tokens(drafts: dict[str, Any]) -> None:
    """Grammar, forbidden words and limits of thinking each change tokens, or the case above shows
    nothing. A request whose thinking is limited has no drafts: vLLM counts its tokens itself.
    """
    assert drafts["guided"]["changed"][:4] == [True, True, True, False]
    assert drafts["guided"]["drafted"][2::5] == [0, 0, 0]
    assert drafts["guided_left_out"]["drafted"][2::5] == [0, 0, 0]


def test_a_full_batch_drafts_nothing(drafts: dict[str, Any]) -> None:
    """There each further token costs its share of a pass."""
    some, none = drafts["full_batch"]["drafted"]
    assert (some > 0, none) == (True, 0)


def test_drafts_are_refused_where_vllm_samples_by_itself(drafts: dict[str, Any]) -> None:
    """vLLM's own sampler of drafts gives other tokens for a seed, and on a CPU another distribution
    (vllm#55005), silently.
    """
    assert "lacks the hooks of drafts" in drafts["unhooked"]["error"]


@pytest.mark.parametrize("writes", ["last", "first"])
@pytest.mark.parametrize("kind", ["ouro", "huginn", "llama"])
def test_iterations_that_share_slots_equal_the_reference(
    slots: dict[str, Any], kind: str, writes: str
) -> None:
    """Five iterations over two slots: depths 1 to 5 and the default, which come and go."""
    assert_equal(slots["staggered"][writes][kind])


@pytest.mark.parametrize("writes", ["last", "first"])
@pytest.mark.parametrize("name", ["one_slot", "chunked", "preempted", "prefix_hits"])
def test_shared_slots_do_not_feel_how_a_request_is_cut(
    slots: dict[str, Any], name: str, writes: str
) -> None:
    """With a residual step; with prompts in pieces of 16 tokens; with requests that are pushed out;
    with blocks of another request of the same depth, and none of another depth's.
    """
    case = slots[name][writes]
    assert_equal(case)
    assert case.get("n_preempted", 1) > 0
    assert name != "prefix_hits" or case["cached"] == [0, 64, 0, 64]


def test_sharing_slots_saves_caches_and_changes_tokens(slots: dict[str, Any]) -> None:
    """A head, a block of two layers in five iterations, a tail: 12 caches, or 6 with two slots.

    Each rule has an effect: else these cases show nothing.
    """
    own = slots["unshared"]
    last, first = (slots["staggered"][writes]["llama"] for writes in ("last", "first"))
    assert_equal(own)
    assert (own["n_caches"], last["n_caches"], first["n_caches"]) == (12, 6, 6)
    assert slots["one_slot"]["last"]["n_caches"] == 4
    assert own["got"] != last["got"] != first["got"] != own["got"]


def test_shared_slots_where_rows_cannot_be_left_out(slots: dict[str, Any]) -> None:
    """A row that has stopped would overwrite slots that its request still reads."""
    assert_equal(slots["masked"])
    assert 'kv_writes = "first"' in slots["masked"]["error"]


@pytest.mark.parametrize("depth", ["1", "3"])
def test_drafts_over_shared_slots_equal_the_reference(slots: dict[str, Any], depth: str) -> None:
    """Drafted within the slots, and beyond them, where only the first iterations write."""
    assert_equal(slots["drafted"][depth])


@pytest.mark.parametrize(
    "name",
    [*("ouro", "huginn", "llama", "shared_slots", "chunked", "preempted", "drafted", "exits")],
)
def test_noise_on_latent_states_equals_the_reference(noise: dict[str, Any], name: str) -> None:
    """Beside requests without; the same wherever a request's tokens are cut into steps.

    Three of the requests are one prompt under two seeds and without noise: each is another, but in
    the random Huginn, whose core forgets the state that it starts from.
    """
    case = noise[name]
    assert_equal(case)
    assert case.get("n_preempted", 1) > 0
    if name in ("ouro", "llama"):
        assert len({tuple(tokens) for tokens in case["got"][:3]}) == 3


def test_noise_shares_the_prompt_and_nothing_behind_it(noise: dict[str, Any]) -> None:
    """A prompt of 65 tokens, and the same with 40 generated ones behind it as a longer prompt.

    Another seed finds the prompt's two blocks without a noisy token. The longer prompt does not
    find the generated tokens, whose states have noise where its own have none; once it is computed,
    it is shared with other seeds, and with requests without noise.
    """
    case = noise["prefix_hits"]
    assert_equal(case)
    assert case["cached"] == [0, 64, 64, 96, 96, 64]


@pytest.mark.parametrize(
    "name",
    [
        *("ouro", "huginn", "llama", "shared_slots", "overwritten_slots", "noisy", "masked"),
        *("chunked", "preempted", "preempted_in_chunks", "preempted_exits"),
        *("exits_by_state", "exits_by_prediction"),
    ],
)
def test_warm_starts_equal_the_reference(warm: dict[str, Any], name: str) -> None:
    """Beside requests that start cold; the same wherever a request's tokens are cut into steps.

    One prompt is there warm and cold, with other tokens. Of a token under an exit rule the
    iterations are the reference's, too. No states are left of requests that have ended.
    """
    case = warm[name]
    assert case["got"] == case["want"]
    for counted, taken in zip(case.get("counted", ()), case.get("taken", ()), strict=True):
        assert counted[1] == taken[1]
        assert counted[0] >= taken[0]  # what is computed again counts again
    assert case["n_kept"] == 0
    assert case.get("n_preempted", 1) > 0
    assert max(case.get("found", [1])) > 0  # own tokens in the prefix cache
    if "preempted" not in name:
        assert case["got"][0] != case["got"][1]


def test_warm_starts_share_the_prompt_and_nothing_behind_it(warm: dict[str, Any]) -> None:
    """A prompt of 65 tokens, and the same with 40 generated ones behind it as a longer prompt.

    The longer prompt finds the two blocks of the prompt, but not the generated tokens, which
    started warm where its own start cold. Once it is computed, it is shared with others.
    """
    case = warm["prefix_hits"]
    assert_equal(case)
    assert case["cached"] == [0, 64, 96, 96, 64, 64]


def test_warm_starts_draw_the_same_tokens_in_any_company(warm: dict[str, Any]) -> None:
    """Nine seeded requests one after another, and at once where some are pushed out."""
    case = warm["seeded"]
    assert case["got"] == case["want"]
    assert all(own != cold for own, cold in zip(case["got"], case["cold"], strict=True))


@pytest.mark.parametrize(
    "name",
    [
        *("queued", "whole_stack", "overlapping", "preempted", "chunked", "prefix_hits", "damped"),
        *("ouro", "huginn", "sampled", "guided"),
    ],
)
def test_where_a_step_ends_changes_no_token(spans: dict[str, Any], name: str) -> None:
    """More requests than seats, depths 1 to 8 (16), against references that know no steps: without
    head and tail; with caches at unequal distances; preempted; with prompts in pieces; with prefix
    hits; damped; both looped families; and, against the engine with vLLM's scheduler, all kinds of
    sampling and of guidance. Requests did stop between iterations, did share steps with others at
    other iterations, and left no states behind.
    """
    case = spans["families"][name] if name in spans["families"] else spans[name]
    assert case["got"] == case["want"]
    assert case["paused"] > 0
    assert case["joint"] > 0
    assert case["left"] == 0


def test_requests_are_preempted_while_others_iterate(spans: dict[str, Any]) -> None:
    """Or the case above shows nothing."""
    assert spans["preempted"]["preempted"] > 0


def test_prefixes_are_hit_while_requests_iterate(spans: dict[str, Any]) -> None:
    """Or the case above shows nothing: a block is offered in the step that completes it."""
    assert sum(n == 64 for n in spans["prefix_hits"]["cached"]) >= 6


def test_where_a_step_ends_changes_no_logprob(spans: dict[str, Any]) -> None:
    """There is one for each token, of the step in which it was sampled."""
    plain, own = spans["sampled"]["logprobs"]
    assert sum(map(len, plain)) > 0
    for one, other in zip(own, plain, strict=True):
        assert one == pytest.approx(other, abs=1e-4)


@pytest.mark.parametrize(
    ("fields", "options", "message"),
    [
        ({"layers": "0-40"}, {}, "30 layers"),
        ({"layers": THINK, "max_depth": 4}, {"enforce_eager": False}, "runs eagerly"),
        (
            {"layers": THINK, "max_depth": 64, "max_context_tokens": 2048},
            {"kv_cache_gib": 0.5},
            "smaller max_context_tokens or max_depth",
        ),
        (
            {"layers": THINK, "max_depth": 4, "kv_iterations": 2, "kv_writes": "last"},
            {"args": {"attention_backend": "FLASHINFER"}},
            "FLASHINFER.*cannot: take one of CPU_ATTN",
        ),
        (
            {"layers": THINK, "max_depth": 4, "warm_start": 1.0},
            {},
            r"take less than 1 \(1 is for Huginn\)",
        ),
    ],
)
async def test_what_cannot_be_is_refused_before_the_engine_starts(
    fields: dict[str, Any], options: dict[str, Any], message: str
) -> None:
    """With the remedy, and without a process of vLLM's: a PlanError, where an engine that fails on
    its way up is an EngineError.
    """
    with pytest.raises(PlanError, match=message):
        async with Vllm(**options).open({"main": Model("smollm2", **fields)}):
            pass


async def test_warm_starts_are_not_for_the_second_runner(monkeypatch: pytest.MonkeyPatch) -> None:
    """It forgets a request that is preempted, and would compute other tokens afterwards."""
    monkeypatch.setenv("VLLM_USE_V2_MODEL_RUNNER", "1")
    with pytest.raises(PlanError, match="Set VLLM_USE_V2_MODEL_RUNNER=0, or drop warm_start"):
        async with Vllm().open({"main": Model("sounder", warm_start=0.1)}):
            pass
