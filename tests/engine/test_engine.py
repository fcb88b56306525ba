"""The vLLM engine on a real vLLM, compared with raw vLLM calls and with itself.

Never with stored text. One engine holds the embedded model, another one a tiny looped model.
"""

from __future__ import annotations

import asyncio
import gc
import itertools
import math
import os
import re
import signal
import subprocess
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import loop_references as references
import psutil
import pytest
import pytest_asyncio
import tiny_loops
from processes import Programs, is_gone, until
from warm_reference import Warm

from orchestrator.core.errors import EngineError
from orchestrator.core.metrics import RuleFold, group_means
from orchestrator.core.plan import Model
from orchestrator.core.values import (
    ConfidenceFloor,
    Delimiter,
    Finish,
    Message,
    Request,
    Sampling,
    Trace,
    WordLimit,
)
from orchestrator.engines.vllm.engine import VllmEngine
from orchestrator.engines.vllm.options import Vllm

pytestmark = [
    pytest.mark.engine,
    pytest.mark.asyncio(loop_scope="session"),
    pytest.mark.timeout(400),
]

GREEDY = Sampling(temperature=0.0, max_new_tokens=24)
DRAWN = Sampling(temperature=1.2, top_p=1.0, max_new_tokens=16)
_numbers = itertools.count()
STORY = "Write a long story about a ship, a storm and a lighthouse."


def request_of(prompt: str = STORY, **fields: Any) -> Request:
    return Request(
        **{
            "prompt": prompt,
            "problem_id": "p",
            "ordinal": 0,
            "seed": 1,
            "sampling": GREEDY,
            **fields,
        }
    )


def llm_of(engine: VllmEngine) -> Any:
    return engine._pools["main"].llm


def template_ids(engine: VllmEngine, *messages: tuple[str, str]) -> list[int]:
    chat = [{"role": role, "content": content} for role, content in messages]
    ids = (
        llm_of(engine)
        .get_tokenizer()
        .apply_chat_template(chat, add_generation_prompt=True, tokenize=True, return_dict=False)
    )
    return list(ids)


async def raw(engine: VllmEngine, ids: list[int], **fields: Any) -> Any:
    """Return vLLM's own completion of these ids, its public interface used as its documentation
    shows.
    """
    from vllm import SamplingParams

    params = SamplingParams(**{"temperature": 0.0, "max_tokens": 24, **fields})
    async for output in llm_of(engine).generate(
        {"prompt_token_ids": ids}, params, f"raw-{next(_numbers)}"
    ):
        last = output
    return last.outputs[0]


def n_generated(engine: VllmEngine) -> int:
    return sum(
        state.detokenizer.num_output_tokens()
        for state in llm_of(engine).output_processor.request_states.values()
    )


async def assert_idle(engine: VllmEngine) -> None:
    """Nothing runs, neither in this process nor in the engine's.

    The engine answers once a step, after the aborts that were sent before: it may still find work
    a step or two, where a request of hundreds of tokens would keep it at work.
    """
    await until(lambda: engine.n_running() == 0 and not engine._aborts)
    core = llm_of(engine).engine_core
    n_steps = 0
    while await core.call_utility_async("has_work"):
        n_steps += 1
    assert n_steps <= 3


async def test_a_prompt_goes_through_the_chat_template(vllm_engine: VllmEngine) -> None:
    """Plain text is one user message; what vLLM completes must be exactly the template's tokens."""
    trace = await vllm_engine.generate(request_of("What is 2 + 2?"))
    ids = template_ids(vllm_engine, ("user", "What is 2 + 2?"))
    expected = await raw(vllm_engine, ids)
    assert trace.usage.prompt_tokens == len(ids)
    assert (trace.text, trace.token_ids) == (expected.text, tuple(expected.token_ids))
    messages = (Message("system", "Be brief."), Message("user", "What is 2 + 2?"))
    chat = await vllm_engine.generate(replace(request_of(), prompt=messages))
    assert chat.usage.prompt_tokens == len(
        template_ids(vllm_engine, ("system", "Be brief."), ("user", "What is 2 + 2?"))
    )


async def test_the_same_seed_gives_the_same_trace_and_others_differ(
    vllm_engine: VllmEngine,
) -> None:
    """Alone in the engine, so the batch is the same.

    Six drawn traces of 16 tokens at temperature 1.2 never coincide by chance.
    """
    request = request_of(sampling=DRAWN, seed=7)
    first, again = await vllm_engine.generate(request), await vllm_engine.generate(request)
    assert first.token_ids == again.token_ids
    traces = await asyncio.gather(
        *(vllm_engine.generate(replace(request, ordinal=i, seed=100 + i)) for i in range(6))
    )
    assert len({t.token_ids for t in traces}) == 6


async def test_a_continuation_goes_on_by_token_ids(vllm_engine: VllmEngine) -> None:
    """Greedy 8 + 8 tokens are greedy 16: nothing is re-tokenised and no template is put between."""
    whole = await vllm_engine.generate(request_of(max_new_tokens=16))
    half = await vllm_engine.generate(request_of(max_new_tokens=8))
    rest = await vllm_engine.generate(
        request_of(
            max_new_tokens=8, parent=0, ordinal=1, prefix_ids=half.token_ids, prefix_text=half.text
        )
    )
    assert half.finish is Finish.LENGTH
    assert half.token_ids + rest.token_ids == whole.token_ids
    assert half.text + rest.text == whole.text
    assert rest.usage.prompt_tokens == half.usage.prompt_tokens + 8


async def test_a_suffix_is_forced_between(vllm_engine: VllmEngine) -> None:
    """The suffix is tokenised by itself, without special tokens, and reported so that continuations
    inherit it.
    """
    suffix = "\nThe final answer is"
    start = await vllm_engine.generate(request_of(max_new_tokens=8))
    probe = await vllm_engine.generate(
        request_of(max_new_tokens=8, parent=0, prefix_ids=start.token_ids, suffix=suffix)
    )
    expected_suffix = llm_of(vllm_engine).get_tokenizer().encode(suffix, add_special_tokens=False)
    assert probe.suffix_ids == tuple(expected_suffix)
    ids = [*template_ids(vllm_engine, ("user", STORY)), *start.token_ids, *expected_suffix]
    assert probe.token_ids == tuple((await raw(vllm_engine, ids, max_tokens=8)).token_ids)


async def test_an_abort_returns_what_was_generated_and_frees_the_engine(
    vllm_engine: VllmEngine,
) -> None:
    """The pending generate ends with the tokens so far, and no step is computed for it any more."""
    request = request_of(max_new_tokens=900, sampling=replace(DRAWN, temperature=1.0))
    pending = asyncio.create_task(vllm_engine.generate(request))
    await until(lambda: n_generated(vllm_engine) >= 5)
    vllm_engine.abort(request)
    trace = await pending
    assert trace.finish is Finish.CANCELLED
    assert 5 <= trace.usage.output_tokens == len(trace.token_ids) < 900
    assert trace.text
    await assert_idle(vllm_engine)
    vllm_engine.abort(request)  # of something finished: ignored
    vllm_engine.abort(request_of(problem_id="never seen"))


@pytest.mark.parametrize("n_steps", [0, 1, 2, 5])
async def test_an_abort_works_before_and_right_after_submission(
    vllm_engine: VllmEngine, n_steps: int
) -> None:
    """However many turns of the loop lie between, the abort is not lost."""
    request = request_of(max_new_tokens=900)
    pending = asyncio.create_task(vllm_engine.generate(request))
    for _ in range(n_steps):
        await asyncio.sleep(0)
    vllm_engine.abort(request)
    trace = await pending
    assert trace.finish is Finish.CANCELLED
    assert trace.token_ids == ()
    await assert_idle(vllm_engine)


@pytest.mark.parametrize("n_tokens", [0, 3])
async def test_cancelling_the_task_aborts_in_the_engine(
    vllm_engine: VllmEngine, n_tokens: int
) -> None:
    """Cancellation propagates, and the engine stops computing for a consumer that is gone."""
    pending = asyncio.create_task(
        vllm_engine.generate(request_of(max_new_tokens=900, rules=(WordLimit(("zzzz",), 1),)))
    )
    await until(lambda: vllm_engine.n_running() == 1 and n_generated(vllm_engine) >= n_tokens)
    pending.cancel()
    with pytest.raises(asyncio.CancelledError):
        await pending
    await assert_idle(vllm_engine)


async def test_a_dropped_coroutine_leaves_nothing(vllm_engine: VllmEngine) -> None:
    """A task cancelled before its first step never enters its body, so no clean-up of the body's
    runs.
    """
    pending = asyncio.create_task(vllm_engine.generate(request_of(ordinal=77)))
    pending.cancel()
    await asyncio.wait([pending])
    del pending
    gc.collect()
    assert not vllm_engine._running
    assert vllm_engine.n_running() == 0


def cut_by(rule: Any, pieces: list[str], confidences: list[float]) -> int:
    """Return after how many tokens the rule fires, the tokens being fed one by one."""
    fold = RuleFold((rule,))
    return next(
        i + 1 for i, piece in enumerate(pieces) if fold.update(piece, confidences[i : i + 1])
    )


@dataclass(frozen=True)
class Story:
    """The greedy story, 96 tokens long, from vLLM's ordinary output: per token its id, text,
    log-probability and confidence.
    """

    ids: tuple[int, ...]
    pieces: list[str]
    sampled: list[float]
    confidences: list[float]


_stories: dict[int, Story] = {}  # by engine


@pytest_asyncio.fixture(loop_scope="session")
async def story(vllm_engine: VllmEngine) -> Story:
    if id(vllm_engine) not in _stories:
        _stories[id(vllm_engine)] = await greedy_story(vllm_engine)
    return _stories[id(vllm_engine)]


async def greedy_story(vllm_engine: VllmEngine) -> Story:
    output = await raw(
        vllm_engine, template_ids(vllm_engine, ("user", STORY)), max_tokens=96, logprobs=20
    )
    tokenizer = llm_of(vllm_engine).get_tokenizer()
    sampled = [entry[i].logprob for i, entry in zip(output.token_ids, output.logprobs, strict=True)]
    tops = [[lp.logprob for lp in entry.values() if lp.rank <= 20] for entry in output.logprobs]
    assert all(len(top) == 20 for top in tops)
    pieces = [tokenizer.decode([i]) for i in output.token_ids]
    assert "".join(pieces) == output.text
    return Story(tuple(output.token_ids), pieces, sampled, [-sum(top) / 20 for top in tops])


@pytest.mark.parametrize(
    "rule", [Delimiter(".", 2), Delimiter(",", 1), WordLimit(("the", "ship"), 3)]
)
@pytest.mark.parametrize("stop", [(), ("a string that does not come",)])
async def test_a_text_rule_cuts_exactly_at_its_token(
    vllm_engine: VllmEngine, story: Story, rule: Any, stop: tuple[str, ...]
) -> None:
    """Ids and text end at the token that fired, also where stop strings hold text back."""
    n_tokens = cut_by(rule, story.pieces, story.confidences)
    assert n_tokens < 96
    cut = await vllm_engine.generate(request_of(max_new_tokens=96, rules=(rule,), stop=stop))
    assert cut.finish is Finish.RULE
    assert cut.token_ids == story.ids[:n_tokens]
    assert cut.text == "".join(story.pieces[:n_tokens])
    assert cut.usage.output_tokens == n_tokens
    await assert_idle(vllm_engine)


async def test_a_confidence_floor_fires_at_the_first_low_window(
    vllm_engine: VllmEngine, story: Story
) -> None:
    """The floor lies between the lowest and the second lowest running minimum of the window means,
    so one token is right.
    """
    means = group_means(story.confidences[:48], 4)
    lowest = means.index(min(means))
    floor = (means[lowest] + min(means[:lowest], default=means[lowest] + 1.0)) / 2
    rule = ConfidenceFloor(floor, window_tokens=4)
    trace = await vllm_engine.generate(
        request_of(
            max_new_tokens=48, rules=(rule,), metrics=("lowest_confidence@4", "mean_logprob")
        )
    )
    assert (trace.finish, len(trace.token_ids)) == (Finish.RULE, lowest + 4)
    assert trace.metrics["lowest_confidence@4"] == pytest.approx(means[lowest], abs=2e-3)


async def test_a_rule_on_few_alternatives_and_a_metric_on_twenty_do_not_mix(
    vllm_engine: VllmEngine, story: Story
) -> None:
    """The rule's top_k is its own; the metric's stays 20."""
    rule = ConfidenceFloor(0.0, window_tokens=2, top_k=2)  # confidence is never below 0
    trace = await vllm_engine.generate(
        request_of(max_new_tokens=12, rules=(rule,), metrics=("mean_confidence",))
    )
    assert trace.finish is Finish.LENGTH
    assert trace.metrics["mean_confidence"] == pytest.approx(
        sum(story.confidences[:12]) / 12, abs=2e-3
    )


async def test_metrics_equal_an_independent_computation(
    vllm_engine: VllmEngine, story: Story
) -> None:
    """From vLLM's ordinary log-probabilities: exactly 20 alternatives, the sampled token counted
    only if it is one of them.
    """
    sampled, confidences = story.sampled[:32], story.confidences[:32]
    names = (
        "mean_logprob",
        "mean_confidence",
        "tail_confidence@8",
        "lowest_confidence@8",
        "bottom10_confidence@8",
    )
    trace = await vllm_engine.generate(request_of(max_new_tokens=32, metrics=names))
    groups = sorted(group_means(confidences, 8))
    expected = (
        sum(sampled) / 32,
        sum(confidences) / 32,
        sum(confidences[-8:]) / 8,
        groups[0],
        sum(groups[:2]) / 2,
    )
    assert tuple(trace.metrics[name] for name in names) == pytest.approx(expected, abs=2e-3)
    assert trace.token_ids == story.ids[:32]
    plain = await vllm_engine.generate(request_of(max_new_tokens=4))
    assert plain.metrics == {}


async def test_the_probability_of_a_first_word_is_that_of_its_spellings(
    vllm_engine: VllmEngine,
) -> None:
    """From vLLM's own twenty likeliest first tokens, decoded here; a word that is not among them
    has no value.
    """
    ids = template_ids(vllm_engine, ("user", STORY))
    [likely] = (await raw(vllm_engine, ids, max_tokens=1, logprobs=20)).logprobs
    tokenizer = llm_of(vllm_engine).get_tokenizer()
    spelled = {id: tokenizer.decode([id]).strip() for id in likely}
    word = next(text for text in spelled.values() if text)
    expected = math.log(
        sum(math.exp(likely[id].logprob) for id, text in spelled.items() if text == word)
    )
    names = (f"first_token_logprob@{word}", "first_token_logprob@Zyzzyva")
    metrics = (await vllm_engine.generate(request_of(max_new_tokens=1, metrics=names))).metrics
    assert [n for n in metrics if "@" in n] == [names[0]]
    assert metrics[names[0]] == pytest.approx(expected, abs=2e-3)


async def test_a_stop_string_is_left_out_of_the_text(vllm_engine: VllmEngine, story: Story) -> None:
    """Text and ids both end before the string, so that a continuation does not begin with it; its
    tokens are paid for all the same.
    """
    for rules in ((), (WordLimit(("zzzz",), 1),)):
        trace = await vllm_engine.generate(request_of(max_new_tokens=48, stop=(",",), rules=rules))
        assert trace.finish is Finish.STOP
        assert trace.text == "".join(story.pieces).partition(",")[0]
        assert trace.token_ids == story.ids[: len(trace.token_ids)]
        assert "".join(story.pieces[: len(trace.token_ids)]) == trace.text
        assert trace.stop == ","
        assert trace.usage.output_tokens > len(trace.token_ids)


@pytest.mark.parametrize(
    ("extra", "pattern"),
    [
        ({"structured_outputs": {"choice": ["amber", "violet"]}}, "amber|violet"),
        ({"structured_outputs": {"regex": "[0-9]{3}-[a-c]{2}"}}, "[0-9]{3}-[a-c]{2}"),
        ({"structured_outputs": {"json": {"type": "integer"}}, "min_tokens": 1}, r"\s*-?\d+\s*"),
    ],
)
async def test_structured_outputs_have_their_structure(
    vllm_engine: VllmEngine, extra: dict[str, Any], pattern: str
) -> None:
    trace = await vllm_engine.generate(
        replace(request_of(max_new_tokens=24), sampling=Sampling(extra=extra))
    )
    assert re.fullmatch(pattern, trace.text), trace


async def test_a_prompt_longer_than_the_context_fails_with_both_lengths(
    vllm_engine: VllmEngine,
) -> None:
    """And one that leaves a little room gets that little."""
    context = llm_of(vllm_engine).model_config.max_model_len
    trace = await vllm_engine.generate(request_of("word " * 2000))
    assert trace.finish is Finish.FAILED
    assert str(len(template_ids(vllm_engine, ("user", "word " * 2000)))) in trace.error
    assert str(context) in trace.error
    n_prompt = (await vllm_engine.generate(request_of(max_new_tokens=1))).usage.prompt_tokens
    filler = (0,) * (context - n_prompt - 3)
    tight = await vllm_engine.generate(request_of(max_new_tokens=24, prefix_ids=filler))
    assert len(tight.token_ids) <= 3


@pytest.mark.parametrize(
    ("fields", "named"),
    [
        ({"sampling": Sampling(top_p=1.5)}, "top_p"),
        ({"metrics": ("surprise",)}, "surprise"),
        ({"model": "other"}, "main"),
        ({"depth": 2}, "depth"),
        ({"max_new_tokens": 0}, "max_new_tokens"),
        ({"rules": (ConfidenceFloor(1.0, 4, top_k=5000),)}, "5000"),
    ],
)
async def test_what_cannot_be_served_is_a_failed_trace(
    vllm_engine: VllmEngine, fields: dict[str, Any], named: str
) -> None:
    """It names what is wrong, and the engine goes on."""
    trace = await vllm_engine.generate(request_of(**fields))
    assert trace.finish is Finish.FAILED
    assert named in trace.error
    assert trace.usage.output_tokens == 0
    assert not llm_of(vllm_engine).errored


async def test_cached_prefixes_are_counted_and_not_charged(vllm_engine: VllmEngine) -> None:
    """Whole blocks are cached, of 32 tokens on a CPU (our choice), of 16 on a GPU: of 300 tokens at
    least 256 are found again.
    """
    prompt = "In the beginning. " * 80
    n_layers = 30
    first = await vllm_engine.generate(request_of(prompt, max_new_tokens=4))
    second = await vllm_engine.generate(request_of(prompt, max_new_tokens=4, ordinal=1))
    assert first.usage.prompt_tokens > 300
    assert second.usage.cached_tokens >= 256
    for usage in (first.usage, second.usage):
        assert (
            usage.layer_tokens
            == (usage.prompt_tokens - usage.cached_tokens + usage.output_tokens) * n_layers
        )
        assert usage.seconds > 0


async def test_concurrent_requests_are_paired_with_their_own_prompts(
    vllm_engine: VllmEngine,
) -> None:
    """64 at once; each must have its own prompt's length, and of 16 asked again alone 14 must start
    with the same 4 greedy tokens.

    Not all 16: vLLM is not bit-exact across batches, so a near-tie may flip.
    """
    words = ["apple", "river", "stone", "cloud", "tiger", "violin", "pepper", "castle"]
    prompts = [
        f"Say the word {word} {n} times." + " Please." * n for word in words for n in range(1, 9)
    ]
    requests = [
        request_of(prompt, ordinal=i, seed=i, max_new_tokens=4) for i, prompt in enumerate(prompts)
    ]
    together = await asyncio.gather(*map(vllm_engine.generate, requests))
    assert [t.ordinal for t in together] == list(range(64))
    for prompt, trace in zip(prompts, together, strict=True):
        assert trace.usage.prompt_tokens == len(template_ids(vllm_engine, ("user", prompt)))
    alone = {i: await vllm_engine.generate(requests[i]) for i in range(0, 64, 4)}
    assert sum(alone[i].token_ids == together[i].token_ids for i in alone) >= 14
    await assert_idle(vllm_engine)


async def test_nothing_is_kept_of_finished_requests(vllm_engine: VllmEngine) -> None:
    """Neither here nor in vLLM's output processor."""
    await asyncio.gather(
        *(vllm_engine.generate(request_of(ordinal=i, max_new_tokens=2)) for i in range(8))
    )
    gc.collect()
    processor = llm_of(vllm_engine).output_processor
    assert (len(vllm_engine._running), len(vllm_engine._aborts)) == (0, 0)
    assert (len(processor.request_states), len(processor.external_req_ids)) == (0, 0)


@pytest.fixture(scope="module")
def huginn(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Write a tiny looped model without a chat template."""
    config = tiny_loops.huginn_config()
    folder = tmp_path_factory.mktemp("huginn")
    return tiny_loops.write_folder(folder, config, tiny_loops.huginn_weights(config))


@pytest_asyncio.fixture(loop_scope="session")
async def doomed_engine(huginn: Path) -> AsyncIterator[VllmEngine]:
    """Yield an engine that a test may kill; it drafts for itself at depth 2."""
    options = Vllm("float32", kv_cache_gib=0.25, max_num_seqs=8, threads=1, draft_depth=2)
    model = Model(str(huginn), max_depth=12, exit="state<0.06")
    async with options.open({"tiny": model}) as engine:
        yield engine


async def test_a_looped_base_model_reports_its_depth_and_its_dead_engine_says_so(
    doomed_engine: VllmEngine,
) -> None:
    """One engine for what needs a model without a template, exits, and a death."""
    await assert_plain_text_only(doomed_engine)
    await assert_mean_depth_is_reported_and_charged(doomed_engine)
    await assert_rules_and_stops_end_at_their_token_among_drafts(doomed_engine)
    await assert_death_ends_every_request(doomed_engine)


async def test_a_models_tokens_start_warm_from_the_plan_to_the_worker(huginn: Path) -> None:
    """Tokens and iterations are the reference's, alone and beside others. What was generated is not
    found as a prompt, where it starts cold: of 72 tokens the block with 32 of the prompt's 40 is.
    """
    config, n_new = tiny_loops.huginn_config(), 32
    reference = references.Huginn(config, tiny_loops.huginn_weights(config))
    texts = ["How deep?", "By the mark, twain.", "Forty tokens make a block and eight more"]
    sampling = Sampling(temperature=0, max_new_tokens=n_new)
    requests = [
        Request(text, problem_id="p", ordinal=i, seed=i, sampling=sampling, depth=12)
        for i, text in enumerate(texts)
    ]
    model = Model(str(huginn), max_depth=12, exit="state<0.06", warm_start=1.0)
    options = Vllm("float32", kv_cache_gib=0.25, max_num_seqs=8, threads=1)
    async with options.open({"tiny": model}) as engine:
        traces = await asyncio.gather(*(engine.generate(request) for request in requests))
        longer = replace(requests[2], prompt=texts[2] + traces[2].text, ordinal=9)
        again = await engine.generate(longer)
    for text, trace in zip(texts, traces, strict=True):
        prompt = [1 + ord(character) - 32 for character in text]
        rule = ("state", 0.06, 1)
        warm = Warm(reference, 1.0, len(prompt))
        ids, taken = references.generate_under(warm, prompt, n_new, rule, 12)
        assert (list(trace.token_ids), list(trace.depths)) == (ids, taken[len(prompt) - 1 :])
        cold = references.generate_under(reference, prompt, n_new, rule, 12)
        assert (ids, taken) != cold
    assert (again.usage.prompt_tokens, again.usage.cached_tokens) == (72, 32)


async def test_a_model_drafts_with_fewer_layers_from_the_plan_to_the_trace(tmp_path: Path) -> None:
    """An ordinary model without a schedule. Tokens are the reference's; the six of eight layers
    that drafts leave out do little, so that drafting pays by any count. What drafts cost is charged
    apart.
    """
    config, n_new = tiny_loops.llama_config(num_hidden_layers=8), 32
    weights = tiny_loops.llama_weights(config)
    for name in weights:
        if re.search(r"layers\.[1-6]\..*(o_proj|down_proj)", name):
            weights[name] = weights[name] * 0.05
    folder = tiny_loops.write_folder(tmp_path / "llama", config, weights)
    reference = references.Llama(config, weights, [0], [*range(1, 7)], [7])
    texts = ["How deep?", "By the mark, twain.", "Forty tokens make a block and eight more"]
    requests = [
        request_of(text, ordinal=i, seed=i, sampling=Sampling(temperature=0, max_new_tokens=n_new))
        for i, text in enumerate(texts)
    ]
    options = Vllm("float32", kv_cache_gib=0.25, max_num_seqs=8, threads=1)
    options = replace(options, draft_layers="0 7", draft_step_tokens=64)
    async with options.open({"tiny": Model(str(folder))}) as engine:
        traces = await asyncio.gather(*(engine.generate(request) for request in requests))
        deeper = await engine.generate(replace(requests[0], depth=2))
    for text, trace in zip(texts, traces, strict=True):
        prompt = [1 + ord(character) - 32 for character in text]
        ids = references.generate(reference, prompt, n_new, 1)
        assert list(trace.token_ids) == ids[: len(trace.token_ids)]
        drafted, kept = trace.metrics["drafted"], trace.metrics["accepted"]
        assert trace.usage.draft_layer_tokens == drafted * 2 + (drafted - kept) * 8
        n_tokens = len(prompt) - trace.usage.cached_tokens + len(trace.token_ids)
        assert trace.usage.layer_tokens == n_tokens * 8
    assert sum(trace.metrics["accepted"] for trace in traces) > 0
    assert deeper.finish is Finish.FAILED
    assert "no think block" in deeper.error


async def assert_plain_text_only(engine: VllmEngine) -> None:
    """Without a template text is completed as it is, and messages fail."""
    pool = engine._pools["tiny"]
    trace = await engine.generate(request_of("Once upon a time", model="tiny", max_new_tokens=4))
    assert trace.usage.prompt_tokens == len(pool.llm.get_tokenizer().encode("Once upon a time"))
    messages = await engine.generate(replace(request_of(), prompt=(Message("user", "Hello"),)))
    assert messages.finish is Finish.FAILED
    assert "chat template" in messages.error


async def assert_mean_depth_is_reported_and_charged(engine: VllmEngine) -> None:
    """What the worker counted reaches the trace, its metric and its price, through the engine's own
    process. The reference recomputes everything, and has no drafts: those are charged apart.
    """
    config, n_new = tiny_loops.huginn_config(), 10
    reference = references.Huginn(config, tiny_loops.huginn_weights(config))
    cases = [("How deep?", None), ("How deep?", 3), ("By the mark, twain.", 12)]
    sampling = Sampling(temperature=0, max_new_tokens=n_new)
    requests = [
        Request(prompt, problem_id="p", ordinal=i, seed=i, sampling=sampling, depth=depth)
        for i, (prompt, depth) in enumerate(cases)
    ]
    traces = await asyncio.gather(*(engine.generate(request) for request in requests))
    for request, trace in zip(requests, traces, strict=True):
        prompt = [1 + ord(character) - 32 for character in str(request.prompt)]
        depth = request.depth or 4  # the checkpoint's own
        rule = ("state", 0.06, 1)
        ids, taken = references.generate_under(reference, prompt, n_new, rule, depth)
        assert (trace.finish, list(trace.token_ids), trace.depth) == (Finish.LENGTH, ids, depth)
        own = taken[len(prompt) - 1 :]
        assert trace.metrics["mean_depth"] == pytest.approx(sum(own) / len(own))
        n_rejected = trace.metrics["drafted"] - trace.metrics["accepted"]
        n_in_drafts = trace.metrics["drafted"] * (2 + 2 * 2) + n_rejected * (2 + 2 * depth)
        assert trace.usage.draft_layer_tokens == n_in_drafts
        n_tokens = len(prompt) - trace.usage.cached_tokens + n_new
        mean = sum(taken) / len(taken)
        assert trace.usage.layer_tokens == round(n_tokens * (2 + 2 * mean)), (
            "prelude and coda once, the core of two as often as needed"
        )
    assert traces[2].metrics["mean_depth"] < 12
    assert traces[2].metrics["drafted"] > 0


async def assert_rules_and_stops_end_at_their_token_among_drafts(engine: VllmEngine) -> None:
    """Steps have several tokens; what follows the last one in its step leaves no trace."""
    plain = request_of("How deep?", model="tiny", max_new_tokens=10)
    plain = replace(plain, depth=12, sampling=Sampling(temperature=0))
    whole = await engine.generate(plain)
    assert whole.metrics["accepted"] > 0
    for n, character in enumerate(whole.text):
        if character in whole.text[:n]:
            continue
        ruled = await engine.generate(replace(plain, rules=(Delimiter(character),)))
        assert (ruled.finish, ruled.text) == (Finish.RULE, whole.text[: n + 1])
        assert ruled.token_ids == whole.token_ids[: n + 1]
        stopped = await engine.generate(replace(plain, stop=(character,)))
        assert (stopped.finish, stopped.text) == (Finish.STOP, whole.text[:n])
        assert stopped.token_ids == whole.token_ids[:n]
        assert stopped.usage.output_tokens == ruled.usage.output_tokens == n + 1


async def assert_death_ends_every_request(engine: VllmEngine) -> None:
    """Those that are pending, and those that come later."""
    pool = engine._pools["tiny"]
    endless = [request_of(ordinal=i, max_new_tokens=500, stop=("\0never",)) for i in range(4)]
    endless = [replace(request, prompt="Once", depth=12) for request in endless]
    pending = [asyncio.create_task(engine.generate(request)) for request in endless]
    await until(lambda: engine.n_running() > 0)
    os.kill(pool.llm.engine_core.resources.engine_manager.processes[0].pid, signal.SIGKILL)
    outcomes = await asyncio.gather(*pending, return_exceptions=True)
    assert any(isinstance(outcome, EngineError) for outcome in outcomes)
    assert all(isinstance(outcome, Trace | EngineError) for outcome in outcomes)
    with pytest.raises(EngineError, match="tiny"):
        await engine.generate(request_of("Once"))


HOLDER = """
import asyncio, pathlib, sys
from orchestrator.engines.vllm.options import Vllm
from orchestrator.core.plan import Model
from orchestrator.core.values import Request

async def main(model, ready, leave):
    options = Vllm(kv_cache_gib=0.25, max_num_seqs=8, threads=1)
    async with options.open({"tiny": Model(model)}) as engine:
        assert (await engine.generate(Request(prompt="Once", max_new_tokens=2))).token_ids
        pathlib.Path(ready).touch()
        while not pathlib.Path(leave).exists():
            await asyncio.sleep(0.1)

if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
"""


@dataclass(frozen=True)
class Holder:
    """A process that holds an engine until it is killed or the file `leave` is there."""

    process: subprocess.Popen[bytes]
    children: list[int]  # the engine's processes
    output: Path
    leave: Path


def prepare(programs: Programs, folder: Path) -> dict[str, Holder]:
    """Return two holders of an engine, one to be killed, one to leave by itself."""
    config = tiny_loops.llama_config()
    model = tiny_loops.write_folder(folder / "llama", config, tiny_loops.llama_weights(config))
    (folder / "holder.py").write_text(HOLDER)
    names = ("killed", "leaving")
    started = {
        name: programs.start(
            *(folder / "holder.py", model, folder / f"{name}-ready", folder / f"{name}-leave"),
            log=folder / name,
        )
        for name in names
    }
    holders = {}
    for name, process in started.items():
        while not (folder / f"{name}-ready").exists() and process.poll() is None:
            time.sleep(0.1)
        children = [child.pid for child in psutil.Process(process.pid).children(recursive=True)]
        leave = folder / f"{name}-leave"
        holders[name] = Holder(process, children, folder / name, leave)
    return holders


async def test_engine_processes_die_with_a_killed_parent(prepared: dict[str, Holder]) -> None:
    """kill -9 leaves no chance to clean up: the engine's processes must notice by themselves."""
    holder = prepared["killed"]
    holder.process.kill()
    assert holder.children, holder.output.read_text()
    holder.process.wait()
    await until(lambda: all(map(is_gone, holder.children)))


async def test_an_engine_comes_and_goes_quietly(prepared: dict[str, Holder]) -> None:
    """Nothing is printed from import to exit, and no process is left: a live display shares this
    terminal.
    """
    holder = prepared["leaving"]
    holder.leave.touch()
    assert await asyncio.to_thread(holder.process.wait) == 0
    assert holder.output.read_text() == ""
    assert holder.children
    await until(lambda: all(map(is_gone, holder.children)))
