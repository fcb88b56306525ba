"""Self-speculation of the shipped models in vLLM: what they generate with and without drafts.

Runs in a program of its own (`latent_program`), for the reasons that `schedule_cases` gives. The
reference is the same engine without drafts, which `schedule_cases` compares with plain PyTorch; for
SmolLM2, which drafts with layers left out, it is vLLM's own class. The looped model drafts like
that too, as one whose loop is written out and which no request can change.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

from offline_engine import end, new_engine

from orchestrator.core.plan import Model
from orchestrator.engines.vllm.depth import DraftCounts, Ledger
from orchestrator.engines.vllm.latent.speculation.drafts import DraftLengths
from orchestrator.engines.vllm.latent.speculation.payoff import Payoff
from orchestrator.plan.looped import DEPTH_ARGUMENT, Draft, cache_salt, latent_of, unlooped
from orchestrator.plan.models import resolve_model

FOLDER = Path(resolve_model("sounder"))
EXAMPLES = Path(__file__).parents[3] / "examples"
PUZZLES = EXAMPLES / "sounder.jsonl"
SOUNDER = Model("sounder")
CASCADE = Model("sounder", cascade="token 0.5 at 4")
DRAFT = Draft(depth=4, tokens=3, step_tokens=64)
UNROLLED = Model("sounder", layers="0 (1)*16 2")
LEFT_OUT = Draft(depth=0, tokens=3, step_tokens=64, layers="0 (1)*4 2")
GREEDY = {"temperature": 0.0}
# one kind of sampling per request, in turn
KINDS: Sequence[Mapping[str, Any]] = (
    GREEDY,
    {"temperature": 1.0},
    {"temperature": 1.0, "top_p": 0.8},
    {"temperature": 0.9, "top_k": 5},
    {"temperature": 1.0, "top_p": 0.9, "top_k": 8, "repetition_penalty": 1.2},
    {**GREEDY, "presence_penalty": 0.7, "frequency_penalty": 0.3},
    {"temperature": 1.0, "logprobs": 3},
    {**GREEDY, "logprobs": 0, "min_tokens": 9},
    {"temperature": 1.0, "allowed_token_ids": [*range(1, 90)]},
)


class Job(NamedTuple):
    """A request: the tokens of its prompt, its depth, and its vLLM parameters."""

    prompt: Sequence[int]
    depth: int | None
    params: Mapping[str, Any]


class Run(NamedTuple):
    """What an engine made of some jobs."""

    tokens: list[list[int]]
    logprobs: list[list[float]]
    drafted: list[int]
    accepted: list[int]
    cached: list[int]


def prompts(n: int) -> list[list[int]]:
    """Return the first puzzles as tokens."""
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(FOLDER)
    rows = [json.loads(line) for line in PUZZLES.read_text().splitlines()[:n]]
    return [tokenizer.encode(row["prompt"]) for row in rows]


def jobs(
    n: int, depths: Sequence[int | None], kinds: Sequence[Mapping[str, Any]], **more: Any
) -> list[Job]:
    """Return a job for each of the first `n` puzzles; depths and kinds in turn."""
    return [
        Job(
            prompt,
            depths[i % len(depths)],
            {"seed": 100 + i, "max_tokens": 12, **more, **kinds[i % len(kinds)]},
        )
        for i, prompt in enumerate(prompts(n))
    ]


@contextmanager
def opened(draft: Draft | None, model: Model = SOUNDER, **options: Any) -> Iterator[Any]:
    """Yield vLLM's offline engine for a shipped model, started as ours starts it.

    It is in a list, so that nobody holds it when it ends.
    """
    folder = Path(resolve_model(model.path))
    config = json.loads((folder / "config.json").read_text())
    latent = latent_of(config, model, "main")
    if draft is not None:
        latent = replace(latent or unlooped(config, "", ""), draft=draft)
    arguments: dict[str, Any] = {
        "max_model_len": 256,
        "kv_cache_memory_bytes": 256 << 20,
        "block_size": 32,
        "dtype": "float32",
        "enforce_eager": True,
        "enable_chunked_prefill": False,
        "max_num_seqs": 16,
        "disable_log_stats": True,
        "skip_tokenizer_init": True,
    }
    if draft is not None:
        arguments["speculative_config"] = speculation(draft)
    overrides = {} if latent is None else latent.overrides()
    held = [new_engine(folder, overrides, **arguments | options)]
    yield held
    end(held)


def speculation(draft: Draft) -> dict[str, Any]:
    """Return vLLM's settings of speculation, as our engine sets them."""
    from orchestrator.engines.vllm.start.drafts import speculative_config

    return speculative_config(draft)


def loop_of(held: list[Any]) -> Any:
    """Return the model's loop; None for vLLM's own class."""
    worker = held[0].llm_engine.model_executor.driver_worker.worker
    return getattr(worker.model_runner.get_model(), "loop", None)


def ran(held: list[Any], jobs: Sequence[Job]) -> Run:
    """Return what an engine makes of these jobs, all at once, whose depths are for a loop."""
    from vllm import SamplingParams

    loop = loop_of(held)
    if loop is None or not loop.visits.iterations:
        jobs = [job._replace(depth=None) for job in jobs]
    outputs = held[0].generate(
        [
            {"prompt_token_ids": list(job.prompt), "cache_salt": cache_salt(job.depth or 8)}
            for job in jobs
        ],
        [
            SamplingParams(
                detokenize=False,
                **job.params,
                extra_args={DEPTH_ARGUMENT: job.depth} if job.depth else None,
            )
            for job in jobs
        ],
        use_tqdm=False,
    )
    ledger = Ledger(DraftCounts) if loop is None else loop.drafts
    names = {name.rsplit("-", 1)[0]: name for name in ledger._counts}
    counts = [ledger.take(names.get(output.request_id, "")) for output in outputs]
    return Run(
        [list(output.outputs[0].token_ids) for output in outputs],
        [
            [next(iter(place.values())).logprob for place in output.outputs[0].logprobs or ()]
            for output in outputs
        ],
        [0 if one is None else one.drafted for one in counts],
        [0 if one is None else one.accepted for one in counts],
        [output.num_cached_tokens for output in outputs],
    )


def compared(
    work: Sequence[Job], draft: Draft = DRAFT, model: Model = SOUNDER, **options: Any
) -> dict[str, Any]:
    """Return what engines with and without drafts make of the same jobs."""
    with opened(None, model, **options) as held:
        plain = ran(held, work)
    with opened(draft, model, **options) as held:
        drafted = ran(held, work)
    return {
        "want": plain.tokens,
        "got": drafted.tokens,
        "logprobs": [plain.logprobs, drafted.logprobs],
        "drafted": drafted.drafted,
        "accepted": drafted.accepted,
        "cached": [plain.cached, drafted.cached],
        "depths": [job.depth for job in work],
    }


def answers(model: Model = SOUNDER, draft: Draft = DRAFT) -> dict[str, Any]:
    """Every kind of sampling, to the end of the answer."""
    return compared(jobs(36, [16, 16, 8], KINDS), draft, model)


def mixed() -> dict[str, Any]:
    """Depths from 1 to 16 in one batch, of which those up to the draft's have no drafts."""
    return compared(jobs(27, [16, 1, 8, 4, 16, None, 2], KINDS, max_tokens=48, ignore_eos=True))


def company(model: Model = SOUNDER, draft: Draft = DRAFT) -> dict[str, Any]:
    """The same requests in another order, with others beside them, some of these without a seed."""
    own = jobs(12, [8, 16], KINDS, max_tokens=30, ignore_eos=True)
    others = jobs(13, [8, 3, 1], [{"temperature": 1.0, "seed": None}, *KINDS[:4]], max_tokens=20)
    with opened(None, model) as held:
        plain = ran(held, own)
    with opened(draft, model) as held:
        beside = ran(held, [*others, *own[::-1]])
        alone = [ran(held, [job]).tokens[0] for job in own[:4]]
    return {
        "want": plain.tokens,
        "got": beside.tokens[: -len(own) - 1 : -1],
        "alone": alone,
        "drafted": beside.drafted[len(others) :],
        "accepted": beside.accepted[len(others) :],
        "unseeded": beside.drafted[0],
    }


def tight(model: Model = SOUNDER, draft: Draft = DRAFT) -> dict[str, Any]:
    """24 blocks of the cache for 12 requests that want six each, up to the end of the context."""
    from vllm.v1.core.sched.scheduler import Scheduler

    pushed_out: list[str] = []
    stock = Scheduler._preempt_request
    Scheduler._preempt_request = lambda self, request, *a, **k: (
        pushed_out.append(request.request_id),
        stock(self, request, *a, **k),
    )[1]
    work = [
        Job(job.prompt[i:], job.depth, {**job.params, "max_tokens": 160 - len(job.prompt[i:])})
        for i, job in enumerate(jobs(16, [16, 8, 16, 2], KINDS, ignore_eos=True))
    ]
    options = {"max_model_len": 160, "num_gpu_blocks_override": 25, "max_num_seqs": 12}
    found = compared(work, draft, model, **options)
    Scheduler._preempt_request = stock
    return {**found, "n_preempted": len(pushed_out)}


def chunked(model: Model = SOUNDER, draft: Draft = DRAFT) -> dict[str, Any]:
    """Prompts prefilled in pieces, beside requests that draft. Without seeds, as our CPU engine
    has no chunks.
    """
    work = jobs(12, [16, 8, 2], [KINDS[0], KINDS[5]], max_tokens=20, ignore_eos=True)
    options = {"enable_chunked_prefill": True, "max_num_batched_tokens": 48}
    return compared(work, draft, model, **options)


def prefix_hits(model: Model = SOUNDER, draft: Draft = DRAFT) -> dict[str, Any]:
    """Requests one after another, each of which continues what an earlier one had generated."""
    found: dict[str, list[list[Any]]] = {"want": [], "got": [], "cached": []}
    for own in (None, draft):
        with opened(own, model, max_num_seqs=1, enable_prefix_caching=True) as held:
            first = jobs(3, [16], KINDS[1:3], max_tokens=70, ignore_eos=True)
            begun = ran(held, first)
            again = [
                job._replace(prompt=[*job.prompt, *tokens[:65]])
                for job, tokens in zip(first, begun.tokens, strict=True)
            ]
            more = ran(held, again)
        found["got" if own else "want"] = [*begun.tokens, *more.tokens]
        found["cached"].append(more.cached)
    return {**found, "drafted": more.drafted, "accepted": more.accepted}


def exits() -> dict[str, Any]:
    """Tokens that leave by their state, while others iterate on; iterations too are compared."""
    model = Model("sounder", exit="state<0.3 after 2")
    work = jobs(12, [8, 16, 3], KINDS[:4], max_tokens=24, ignore_eos=True)
    found: dict[str, Any] = {}
    for draft in (None, DRAFT):
        with opened(draft, model) as held:
            run = ran(held, work)
            counts = [
                [c.prompt_iterations, c.iterations] for c in loop_of(held).ledger._counts.values()
            ]
        found["got" if draft else "want"] = [run.tokens, sorted(counts)]
    return {**found, "drafted": run.drafted, "accepted": run.accepted}


def damped() -> dict[str, Any]:
    """States of a draft are not those of the deep pass; nothing is taken from them."""
    work = jobs(8, [8, 16], KINDS[:4], max_tokens=24, ignore_eos=True)
    return compared(work, model=Model("sounder", damped=True))


def cascade() -> dict[str, Any]:
    """What is verified are the cascade's tokens; how many of them a plain run has, too."""
    work = jobs(18, [16, 8, 2], KINDS, max_tokens=24, ignore_eos=True)
    found = compared(work, model=CASCADE)
    with opened(DRAFT) as held:
        plain = ran(held, work)
    return {**found, "plain": plain.tokens, "plain_kept": [plain.drafted, plain.accepted]}


def tight_cascade() -> dict[str, Any]:
    """The same, preempted and at the end of the context."""
    return tight(CASCADE)


# "4 steps:" opens the thinking and "Answer: 4" closes it
GUIDED: dict[str, Any] = {
    "skip_tokenizer_init": False,
    "reasoning_config": {"reasoning_start_str": "4 steps:", "reasoning_end_str": "Answer: 4"},
}


def guided_kinds() -> list[dict[str, Any]]:
    """Structured outputs, words that are forbidden, and limits of thinking; for engines that are
    opened with `GUIDED`.
    """
    from vllm.sampling_params import StructuredOutputsParams

    shape = StructuredOutputsParams(regex=r"([A-Z][a-z]+)*")
    return [
        {"temperature": 1.0, "structured_outputs": shape, "ignore_eos": False},
        {"temperature": 1.0, "bad_words": ["Answer: 4", "4 steps:"]},
        {"temperature": 1.0, "thinking_token_budget": 3},
        {"temperature": 1.0},
        {**GREEDY, "structured_outputs": shape, "ignore_eos": False},
    ]


def guided(model: Model = SOUNDER, draft: Draft = DRAFT) -> dict[str, Any]:
    """All that guides tokens beside drafts, which limits of thinking do not have."""
    work = jobs(15, [16], guided_kinds(), max_tokens=24, ignore_eos=True)
    found = compared(work, draft, model, **GUIDED)
    with opened(None, model, **GUIDED) as held:
        free = ran(held, jobs(15, [16], [KINDS[1]], max_tokens=24, ignore_eos=True))
    changed = [a != b for a, b in zip(free.tokens, found["want"], strict=True)]
    return {**found, "changed": [any(changed[i::5]) for i in range(5)]}


def full_batch() -> dict[str, Any]:
    """Where a pass over eight tokens takes twice as long, two requests draft, and 16 do not."""
    with opened(replace(DRAFT, step_tokens=8)) as held:
        steps = [ran(held, jobs(n, [16], [GREEDY], ignore_eos=True)) for n in (2, 16)]
    return {"drafted": [sum(run.drafted) for run in steps]}


def smollm2() -> dict[str, Any]:
    """SmolLM2 drafts with half of its layers, in every step, although that does not pay; without
    drafts it is vLLM's own class.
    """
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(resolve_model("smollm2"))
    rows = (EXAMPLES / "arithmetic.jsonl").read_text().splitlines()[:12]
    work = [
        Job(
            tokenizer.apply_chat_template(
                [{"role": "user", "content": json.loads(row)["prompt"]}],
                add_generation_prompt=True,
                return_dict=False,
            ),
            None,
            {"seed": i, "max_tokens": 24, "ignore_eos": True, **KINDS[i % len(KINDS)]},
        )
        for i, row in enumerate(rows)
    ]
    draft = Draft(depth=0, tokens=3, step_tokens=64, layers="0-7 23-29")
    rules = (DraftLengths, "of_step", lambda _, depths: [3] * len(depths)), (Payoff, "pays", _true)
    stock = [(owner, name, getattr(owner, name)) for owner, name, _ in rules]
    for owner, name, rule in rules:
        setattr(owner, name, rule)
    found = compared(work, draft, Model("smollm2"), max_num_seqs=4)
    for owner, name, rule in stock:
        setattr(owner, name, rule)
    return found


def _true(*_: Any) -> bool:
    return True


def unhooked() -> dict[str, Any]:
    """What an engine does whose steps vLLM samples by itself."""
    from vllm.v1.worker.gpu_model_runner import GPUModelRunner

    with opened(DRAFT) as held:
        ours = GPUModelRunner._sample
        GPUModelRunner._sample = ours.__wrapped__
        try:
            return {"error": f"tokens: {ran(held, jobs(2, [8], [GREEDY])).tokens}"}
        except RuntimeError as error:
            return {"error": str(error)}
        finally:
            GPUModelRunner._sample = ours


CASES = (
    *(answers, mixed, company, guided, tight, chunked, prefix_hits),
    *(exits, damped, cascade, tight_cascade, full_batch, smollm2, unhooked),
)
LEFT_OUT_CASES = (answers, company, guided, tight, chunked, prefix_hits)


def results() -> dict[str, Any]:
    """Return what each case generated with and without drafts."""
    own = {f"{case.__name__}_left_out": case(UNROLLED, LEFT_OUT) for case in LEFT_OUT_CASES}
    return {**{case.__name__: case() for case in CASES}, **own}
