"""Tiny random models under layer schedules in vLLM: what they generate beside the reference.

Runs in a program of its own (`latent_program`): in one process dozens of engines start in a
fraction of a second each, where an engine with processes of its own takes half a minute; and vLLM
inside a process leaves much behind in it.
"""

from __future__ import annotations

import functools
import json
import random
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import reference
import torch
from offline_engine import end, new_engine
from transformers import AutoConfig, AutoModelForCausalLM

from orchestrator.core.layers import parse_schedule
from orchestrator.core.plan import Model
from orchestrator.engines.vllm.latent import loop, runner
from orchestrator.plan.looped import DEPTH_ARGUMENT, cache_salt, latent_of

N_TOKENS = 12
SHAPE = {
    "vocab_size": 128,
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_hidden_layers": 4,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "head_dim": 32,
    "max_position_embeddings": 512,
    "tie_word_embeddings": False,
    "use_cache": False,
}
EXTRA = {"mistral": {"sliding_window": None}}
THINK = "0 (1-2)*r 3"
_rng = random.Random(1)
PROMPTS = [[_rng.randrange(3, 128) for _ in range(_rng.randrange(4, 40))] for _ in range(9)]
MIXED = [1, 2, 3, None, 3, 2, 1, 2, 3]  # None: the default, 1 unless the case says otherwise


def random_model(folder: Path, family: str) -> Any:
    """Return a random model of a family, saved under `folder`.

    Wide weights, so that layers matter and ties do not occur.
    """
    torch.manual_seed(0)
    config = AutoConfig.for_model(family, **SHAPE, **EXTRA.get(family, {}))
    model = AutoModelForCausalLM.from_config(config).eval()
    for weight in model.parameters():
        if weight.dim() > 1:
            weight.data.normal_(0, 0.15)
    model.save_pretrained(folder / family)
    return model


Generate = Callable[..., list[Any]]


@contextmanager
def opened(
    folder: Path, family: str = "llama", model: Model | None = None, **options: Any
) -> Iterator[Generate]:
    """Yield what generates with a model as the plan has it, or with the stock one for None.

    Prompts get depth and salt as our engine's do.
    The engine ends with the context."""
    from vllm import SamplingParams

    path = folder / family
    overrides: dict[str, Any] = {}
    if model is not None:
        latent = latent_of(json.loads((path / "config.json").read_text()), model, "main")
        assert latent is not None
        overrides = latent.overrides()
    arguments = {
        "max_model_len": 192,
        "kv_cache_memory_bytes": 64 << 20,
        "block_size": 32,
        "dtype": "float32",
        "enforce_eager": True,
    }
    arguments |= {"skip_tokenizer_init": True, "disable_log_stats": True, **options}
    held = [new_engine(path, overrides, **arguments)]

    def generate(
        depths: Sequence[int | None],
        prompts: Sequence[list[int]] = PROMPTS,
        lengths: Sequence[int] = (N_TOKENS,) * 9,
    ) -> list[Any]:
        inputs = [
            {"prompt_token_ids": p} | ({"cache_salt": cache_salt(d)} if d else {})
            for p, d in zip(prompts, depths, strict=False)
        ]
        params = [
            SamplingParams(
                temperature=0,
                max_tokens=n,
                detokenize=False,
                ignore_eos=True,
                extra_args={DEPTH_ARGUMENT: d} if d else None,
            )
            for n, d in zip(lengths, depths, strict=False)
        ]
        return list(held[0].generate(inputs, params, use_tqdm=False))

    yield generate
    end(held)


def ids(outputs: Sequence[Any]) -> list[list[int]]:
    return [list(o.outputs[0].token_ids) for o in outputs]


def expected(
    model: Any, layers: str, depths: Sequence[int | None], default: int = 1, **options: Any
) -> list[list[int]]:
    prompts, lengths = options.get("prompts", PROMPTS), options.get("lengths", (N_TOKENS,) * 9)
    return [
        _reference(model, tuple(p), n, layers, d or default)
        for p, n, d in zip(prompts, lengths, depths, strict=False)
    ]


@functools.cache
def _reference(
    model: Any, prompt: tuple[int, ...], n_tokens: int, layers: str, depth: int
) -> list[int]:
    s = parse_schedule(layers)
    return reference.greedy(model, prompt, n_tokens, s.head, s.think, s.tail, depth)


def pair(
    generate: Generate,
    model: Any,
    layers: str,
    depths: Sequence[int | None],
    default: int = 1,
    **options: Any,
) -> dict[str, Any]:
    return {
        "got": ids(generate(depths, **options)),
        "want": expected(model, layers, depths, default, **options),
    }


def depth_one(folder: Path, llama: Any) -> dict[str, Any]:
    with opened(folder) as generate:
        stock = ids(generate([None] * 9))
    with opened(folder, model=Model("tiny", layers=THINK)) as generate:
        ours = ids(generate([None] * 9))
    return {"got": ours, "want": stock, "reference": expected(llama, "0-3", [None] * 9)}


def fixed_schedules(folder: Path, llama: Any) -> dict[str, Any]:
    found = {}
    for layers in ("0 (1-2)*2 3", "0 2 1 1 3", "3 0"):
        with opened(folder, model=Model("tiny", layers=layers)) as generate:
            found[layers] = pair(generate, llama, layers, [None] * 9)
    return found


def whole_stack(folder: Path, llama: Any) -> dict[str, Any]:
    """No head and no tail: a row that stops has no residual of its own yet, and the norm follows
    the loop.
    """
    with opened(folder, model=Model("tiny", layers="(0-3)*r", max_depth=3)) as generate:
        return pair(generate, llama, "(0-3)*r", MIXED)


def mixed(folder: Path, llama: Any) -> dict[str, Any]:
    with opened(folder, model=Model("tiny", layers=THINK, max_depth=3)) as generate:
        separate = [ids(generate([d], [p]))[0] for p, d in zip(PROMPTS, MIXED, strict=True)]
        return {**pair(generate, llama, THINK, MIXED), "separate": separate}


def staggered(folder: Path, llama: Any) -> dict[str, Any]:
    """Four seats for nine requests of 3 to 24 tokens, which come and go while others run."""
    lengths = [3, 24, 7, 15, 4, 20, 9, 12, 5]
    with opened(folder, model=Model("tiny", layers=THINK, max_depth=3), max_num_seqs=4) as generate:
        return pair(generate, llama, THINK, MIXED, lengths=lengths)


def preempted(folder: Path, llama: Any) -> dict[str, Any]:
    """Eight blocks of 32 tokens: nine prompts nearly fill them, so that growing ones push others
    out, to be computed anew.
    """
    from vllm.v1.core.sched.scheduler import Scheduler

    pushed_out = []
    stock: Callable[..., Any] = Scheduler._preempt_request
    Scheduler._preempt_request = lambda self, request, *a, **k: (
        pushed_out.append(request.request_id),
        stock(self, request, *a, **k),
    )[1]
    with opened(
        folder,
        model=Model("tiny", layers=THINK, max_depth=3),
        max_model_len=96,
        num_gpu_blocks_override=8,
    ) as generate:
        found = pair(generate, llama, THINK, MIXED, lengths=[30] * 9)
    Scheduler._preempt_request = stock
    return {**found, "n_preempted": len(pushed_out)}


def prefix_hits(folder: Path, llama: Any) -> dict[str, Any]:
    """One prompt of 80 tokens, four times one after another: at depth 2 twice, then at 3 twice."""
    prompt = [random.Random(7).randrange(3, 128) for _ in range(80)]
    with opened(
        folder, model=Model("tiny", layers=THINK, max_depth=3), enable_prefix_caching=True
    ) as generate:
        outputs = [generate([d], [prompt])[0] for d in (2, 2, 3, 3)]
    want = expected(llama, THINK, [2, 2, 3, 3], prompts=[prompt] * 4)
    return {"got": ids(outputs), "want": want, "cached": [o.num_cached_tokens for o in outputs]}


def chunked(folder: Path, llama: Any) -> dict[str, Any]:
    """Prompts of up to 39 tokens, prefilled 16 tokens of all requests a step.

    Possible here because these requests have no seeds.
    """
    options = {"enable_chunked_prefill": True, "max_num_batched_tokens": 16, "max_num_seqs": 9}
    with opened(folder, model=Model("tiny", layers=THINK, max_depth=3), **options) as generate:
        return pair(generate, llama, THINK, MIXED)


def masked(folder: Path, llama: Any) -> dict[str, Any]:
    """The way of attention backends whose builder is not a known one."""
    can, loop.can_reduce = loop.can_reduce, lambda visits: False
    with opened(folder, model=Model("tiny", layers="(1 2)*r 3", max_depth=3)) as generate:
        found = pair(generate, llama, "(1 2)*r 3", MIXED)
    loop.can_reduce = can
    return found


def damped(folder: Path, llama: Any) -> dict[str, Any]:
    want = [
        reference.greedy_damped(llama, p, N_TOKENS, [0], [1, 2], [3], d or 1)
        for p, d in zip(PROMPTS, MIXED, strict=True)
    ]
    with opened(folder, model=Model("tiny", layers=THINK, max_depth=3, damped=True)) as generate:
        return {
            "got": ids(generate(MIXED)),
            "want": want,
            "undamped": expected(llama, THINK, MIXED),
        }


def own_depth(folder: Path, llama: Any) -> dict[str, Any]:
    """A folder that brings its schedule: the default is its depth."""
    path = folder / "llama" / "config.json"
    config = path.read_text()
    path.write_text(
        json.dumps({**json.loads(config), "latent": {"layers": THINK, "depth": 2, "max_depth": 4}})
    )
    with opened(folder, model=Model("tiny")) as generate:
        found = pair(generate, llama, THINK, MIXED, default=2)
    path.write_text(config)
    return found


def families(folder: Path, llama: Any) -> dict[str, Any]:
    found = {}
    for family in ("mistral", "qwen2", "qwen3"):
        model = random_model(folder, family)
        with opened(folder, family, Model("tiny", layers=THINK, max_depth=3)) as generate:
            found[family] = pair(generate, model, THINK, MIXED)
    return found


def runner_v2(folder: Path, llama: Any) -> dict[str, Any]:
    """V2's hook in the place of V1's: its model state is told of requests and asked for rows, from
    a batch with V2's fields.
    """
    v1 = runner._batch_v1
    state = object.__new__(runner.model_state_v2())
    state.depths, state.prompts, state.noise = {}, {}, {}
    state.rope_state = state.prompt_embeds_state = None

    def through_v2(engine_runner: Any, default: int) -> Any:
        state.model = engine_runner.get_model()
        n, held = engine_runner.input_batch.num_reqs, engine_runner.requests
        for name in set(state.depths) - set(held):
            state.remove_request(name)
        ids = engine_runner.input_batch.req_ids
        for i, name in enumerate(ids[:n]):
            state.add_request(
                i,
                SimpleNamespace(
                    req_id=name,
                    sampling_params=held[name].sampling_params,
                    prompt_token_ids=held[name].prompt_token_ids,
                ),
            )
        batch = SimpleNamespace(
            req_ids=ids, num_reqs=n, query_start_loc_np=engine_runner.query_start_loc.np[: n + 1]
        )
        return state.prepare_inputs(batch, None)["batch"]

    runner._batch_v1 = through_v2
    with opened(folder, model=Model("tiny", layers=THINK, max_depth=3)) as generate:
        found = pair(generate, llama, THINK, MIXED)
    runner._batch_v1 = v1
    dummy = SimpleNamespace(
        req_ids=["dummy"], num_reqs=1, query_start_loc_np=torch.tensor([0, 1]).numpy()
    )
    return {
        **found,
        "dummy_batch": runner.batch_v2(state.depths, state.prompts, state.noise, dummy),
    }


CASES = (
    *(depth_one, fixed_schedules, whole_stack, mixed, staggered, preempted, prefix_hits, chunked),
    *(masked, damped, own_depth, families, runner_v2),
)


def results(folder: Path) -> dict[str, Any]:
    """Return what each case generated and should have."""
    tiny = random_model(folder, "llama")
    return {case.__name__: case(folder, tiny) for case in CASES}
