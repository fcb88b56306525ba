"""The parts of the vLLM engine that do not need vLLM: rules, metrics, prompts, the host."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestrator.core.errors import PlanError
from orchestrator.core.plan import Model
from orchestrator.core.values import (
    Capability,
    ConfidenceFloor,
    Delimiter,
    LikelyToken,
    Request,
    Sampling,
    TokenLogprob,
    WordLimit,
)
from orchestrator.engines.vllm import pooling
from orchestrator.engines.vllm.options import Vllm
from orchestrator.engines.vllm.prompts import (
    Refused,
    checkpoint_tokens,
    fitting_tokens,
    piece_bytes,
)
from orchestrator.engines.vllm.reply import inherited_logprobs, with_prompt_logprobs
from orchestrator.engines.vllm.start import guard, host
from orchestrator.engines.vllm.watch import (
    TokenWatch,
    by_top_k,
    confidence,
    series_class,
    tokens_so_far,
)

GIB = host.GIB


class Flat:
    """Implements the part of vLLM's FlatLogprobs that the watch uses."""

    def __init__(self) -> None:
        self.start_indices: list[int] = []
        self.end_indices: list[int] = []
        self.token_ids: list[int] = []
        self.logprobs: list[float] = []

    def __len__(self) -> int:
        return len(self.start_indices)

    def append_fast(
        self, token_ids: list[int], logprobs: list[float], ranks: Any, decoded_tokens: Any
    ) -> None:
        self.start_indices.append(len(self.logprobs))
        self.token_ids += token_ids
        self.logprobs += logprobs
        self.end_indices.append(len(self.logprobs))


class Queue:
    """Replaces vLLM's collector of a request's outputs."""

    def __init__(self) -> None:
        self.outputs: list[Any] = []

    def put(self, output: Any) -> None:
        self.outputs.append(output)

    def get_nowait(self) -> Any:
        return self.outputs.pop() if self.outputs else None


class WatchedEngine:
    """Feeds a watch like vLLM's output processor.

    It detokenises, records log-probabilities, then puts one output per step.
    """

    def __init__(self, request: Request) -> None:
        self.queue = Queue()
        self.detokenizer = SimpleNamespace(
            output_text="",
            output_token_ids=[],
            num_output_tokens=lambda: len(self.detokenizer.output_token_ids),
            decode_next=lambda token: self.texts[token - 1],
        )
        self.texts: list[str] = []
        logprobs = SimpleNamespace(logprobs=Flat(), tokenizer=object())
        self.state = SimpleNamespace(
            detokenizer=self.detokenizer, logprobs_processor=logprobs, queue=self.queue
        )
        self.watch = TokenWatch(request, self.queue, Flat, self.state)

    def step(
        self, *texts: str, logprobs: list[float] | None = None, finish: str | None = None
    ) -> Any:
        for text in texts:
            self.texts.append(text)
            self.detokenizer.output_token_ids.append(len(self.texts))
            self.detokenizer.output_text += self.detokenizer.decode_next(len(self.texts))
        if logprobs:
            self.state.logprobs_processor.logprobs.append_fast(
                [0] * len(logprobs), logprobs, (), ()
            )
        output = SimpleNamespace(
            finished=finish is not None,
            outputs=[SimpleNamespace(finish_reason=finish, logprobs=None)],
        )
        self.state.queue.put(output)
        return output


def test_importing_the_engine_loads_neither_vllm_nor_torch() -> None:
    """The light installation must be able to list and validate engines."""
    code = (
        "import sys, orchestrator.engines.vllm.engine, orchestrator.engines.vllm.options; "
        "print({'vllm', 'torch', 'transformers', 'ray'} & set(sys.modules))"
    )
    shown = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    ).stdout
    assert shown == "set()\n"


def test_the_engine_offers_everything() -> None:
    """This engine has every capability.

    A plan that needs a missing one is refused before a minute is spent on starting engines.
    """
    assert Vllm().capabilities() == frozenset(Capability)


def test_a_rule_fires_at_its_token_among_several_of_a_step() -> None:
    """A model that drafts for itself gives several tokens in a step; what follows the rule's token
    is as if it had never been, even the end of the sequence.
    """
    engine = WatchedEngine(Request(rules=(Delimiter(";"),)))
    engine.step("one")
    last = engine.step(" two", " ;", " three", "", finish="stop")
    assert engine.queue.outputs == [last]
    assert (engine.watch.fired, engine.watch.text) == (True, "one two ;")
    assert engine.watch.ids == (1, 2, 3)


def test_the_end_of_the_sequence_takes_precedence_at_the_same_token() -> None:
    """So it does where a step has one token."""
    engine = WatchedEngine(Request(rules=(Delimiter(";"),)))
    engine.step("one", " ;", finish="stop")
    assert (engine.watch.fired, engine.watch.text, engine.watch.ids) == (False, "one ;", (1, 2))


def test_a_text_rule_ends_the_trace_at_its_token() -> None:
    """Steps that run before the abort add nothing, and only one output reaches the consumer."""
    engine = WatchedEngine(Request(rules=(Delimiter(";"),)))
    engine.step("one")
    assert engine.queue.outputs == []
    last = engine.step(" ;")
    engine.step(" two")
    engine.step(" three", finish="abort")
    assert engine.queue.outputs == [last]
    assert engine.watch.fired
    assert (engine.watch.text, engine.watch.ids) == ("one ;", (1, 2))


def test_what_came_before_the_watch_is_not_lost() -> None:
    """An output may arrive while the request is submitted.

    Its text counts for the rule, its log-probabilities for the metrics.
    """
    request = Request(rules=(Delimiter(";", 2),), metrics=("mean_logprob",))
    engine = WatchedEngine(Request(rules=(WordLimit(("never",), 1),)))
    engine.state.queue, engine.state.logprobs_processor.logprobs = engine.queue, Flat()
    early = engine.step(" ;", logprobs=[-1.0])
    assert engine.queue.outputs == [early]
    engine.watch = TokenWatch(request, engine.queue, Flat, engine.state)
    assert engine.queue.outputs == []
    last = engine.step(" ;", logprobs=[-3.0])
    assert engine.watch.fired
    assert engine.watch.metrics(("mean_logprob",), last, 2, str) == {"mean_logprob": -2.0}


@pytest.mark.parametrize(("finish", "fired"), [("length", True), ("stop", False), ("abort", False)])
def test_a_rule_wins_over_the_length_limit_and_loses_to_the_end(finish: str, fired: bool) -> None:
    """A step that ends at its delimiter and at max_new_tokens is a whole step.

    An ended sequence cannot be continued.
    """
    engine = WatchedEngine(Request(rules=(Delimiter(";"),)))
    last = engine.step(";", finish=finish)
    assert engine.watch.fired is fired
    assert engine.queue.outputs == [last]
    assert engine.watch.text == ";"


def test_the_prompt_s_log_probabilities_are_asked_for_only_where_they_are_wanted() -> None:
    """They disable the prefix cache.

    Many requests share one parameters object, so a copy is changed.
    """
    template = SimpleNamespace(prompt_logprobs=None, skip_reading_prefix_cache=False)
    assert (
        with_prompt_logprobs(template, Request(metrics=("mean_logprob",))).prompt_logprobs is None
    )
    params = with_prompt_logprobs(template, Request(metrics=("prefix_logprob",)))
    assert (params.prompt_logprobs, params.skip_reading_prefix_cache) == (0, True)
    assert (template.prompt_logprobs, template.skip_reading_prefix_cache) == (None, False)
    with pytest.raises(Refused, match="stop rules"):
        with_prompt_logprobs(
            template, Request(metrics=("prefix_logprob",), rules=(Delimiter("x"),))
        )


def test_the_inherited_tokens_stand_between_the_prompt_and_the_suffix() -> None:
    """There are two prompt tokens, three inherited ones and one of the suffix.

    The first has no number, as in vLLM.
    """
    flat = Flat()
    flat.append_fast([], [], (), ())
    for i in range(1, 6):
        flat.append_fast([i, 0], [-float(i), -0.1], (), ())
    request = Request(prefix_ids=(2, 3, 4))
    assert inherited_logprobs(request, flat, 1) == [-2.0, -3.0, -4.0]
    assert inherited_logprobs(request, None, 1) == inherited_logprobs(Request(), flat, 1) == ()


def test_after_a_prompt_without_tokens_the_first_inherited_one_has_no_number() -> None:
    """A blank prompt may have no tokens. The number of the next one would be counted twice."""
    flat = Flat()
    flat.append_fast([], [], (), ())
    assert inherited_logprobs(Request(prefix_ids=(2,)), flat, 0) == []
    flat.append_fast([3, 0], [-3.0, -0.1], (), ())
    assert inherited_logprobs(Request(prefix_ids=(2, 3)), flat, 0) == [-3.0]


def test_the_death_of_the_engine_is_passed_on() -> None:
    """Otherwise the consumer would wait forever."""
    engine = WatchedEngine(Request(rules=(Delimiter(";"),)))
    death = RuntimeError("gone")
    engine.state.queue.put(death)
    assert engine.queue.outputs == [death]


def test_each_floor_reads_its_own_number_of_alternatives() -> None:
    """Confidences are 1, 1 with one alternative and 2, 2 with two.

    Only the second floor is above its own.
    """
    low, high = ConfidenceFloor(0.5, 2, top_k=1), ConfidenceFloor(2.5, 2, top_k=2)
    assert list(by_top_k((low, Delimiter("x"), high))) == [
        (0, [Delimiter("x")]),
        (1, [low]),
        (2, [high]),
    ]
    for rules, expected in (((low,), False), ((high,), True), ((low, high), True)):
        engine = WatchedEngine(Request(rules=rules))
        engine.step("a", logprobs=[-9.0, -1.0, -3.0])
        engine.step("b", logprobs=[-9.0, -1.0, -3.0])
        assert engine.watch.fired is expected


def test_confidence_leaves_out_the_sampled_token_beyond_the_top() -> None:
    """The sampled token is first and is not an alternative; exactly top_k alternatives count."""
    assert confidence([-1.0, -2.0, -3.0], 2) == 1.5
    series = series_class(Flat)({2})
    series.append_fast([7, 8, 9], [-5.0, -1.0, -2.0], (), ())
    assert (series.sampled, series.confidences) == ([-5.0], {2: [1.5]})


def test_too_few_alternatives_give_no_confidence() -> None:
    """There is no mean with only the sampled token's log-probability, and none is made up."""
    series = series_class(Flat)({20})
    series.append_fast([7], [-5.0], (), ())
    assert (series.sampled, series.confidences) == ([-5.0], {20: []})


def test_the_likely_first_tokens_are_kept_for_the_first_place_only() -> None:
    """The sampled token is among them by rank, not because it was sampled."""
    series = series_class(Flat)({2})
    series.append_fast([7, 8, 9], [-5.0, -1.0, -2.0], (), ())
    series.append_fast([1, 2, 3], [-5.0, -1.0, -2.0], (), ())
    assert series.first == [(8, -1.0), (9, -2.0)]


def test_metrics_stop_where_the_trace_was_cut() -> None:
    """Tokens generated before the abort arrived do not count."""
    engine = WatchedEngine(Request(rules=(Delimiter(";"),), metrics=("mean_logprob",)))
    engine.step("a", logprobs=[-1.0])
    last = engine.step(";", logprobs=[-2.0])
    engine.step("b", logprobs=[-30.0])
    assert engine.state.logprobs_processor.tokenizer is None  # alternatives are not decoded
    assert engine.watch.metrics(("mean_logprob",), last, len(engine.watch.ids), str) == {
        "mean_logprob": -1.5
    }


def test_what_a_trace_keeps_is_its_own_tokens_and_their_most_likely_alternatives() -> None:
    """Not those after the cut, nor the further alternatives that a metric needs; minus infinity,
    which JSON lacks, is the least number that vLLM's server sends.
    """
    sampling = Sampling(logprobs=True, top_logprobs=1)
    request = Request(rules=(Delimiter(";"),), metrics=("mean_confidence",), sampling=sampling)
    engine = WatchedEngine(request)
    engine.step("a", logprobs=[-1.0, -0.5] + [-9.0] * 19)
    last = engine.step(";", logprobs=[-2.0, float("-inf")] + [-9.0] * 19)
    engine.step("b", logprobs=[-30.0] * 21)
    kept = engine.watch.logprobs(last, 2, lambda id, p: LikelyToken(str(id), p))
    assert kept == (
        TokenLogprob("0", -1.0, None, (LikelyToken("0", -0.5),)),
        TokenLogprob("0", -2.0, None, (LikelyToken("0", -9999.0),)),
    )
    plain = WatchedEngine(Request(metrics=("mean_logprob",)))
    last = plain.step("a", logprobs=[-1.0], finish="stop")
    assert plain.watch.logprobs(last, 1, LikelyToken) == ()


@pytest.mark.parametrize(
    ("piece", "expected"),
    [("<0xE2>", (0xE2,)), ("\u0120\u00c3", (0x20, 0xC3)), ("\u2581x", None)],
)
def test_a_token_that_is_part_of_a_character_has_its_bytes(
    piece: str, expected: tuple[int, ...] | None
) -> None:
    """Of byte-fallback and of byte-level vocabularies (GPT-2's alphabet: 0x20 is \u0120)."""
    assert piece_bytes(piece) == expected


@pytest.mark.parametrize(("n_prompt", "wanted", "fits"), [(10, 5, 5), (10, 500, 90), (99, 5, 1)])
def test_new_tokens_are_clamped_to_the_context(n_prompt: int, wanted: int, fits: int) -> None:
    """Prompt and completion share the context of 100 tokens."""
    assert fitting_tokens(n_prompt, wanted, 100, "main") == fits


def test_a_prompt_that_fills_the_context_is_refused_with_both_lengths() -> None:
    """The error names the pool, the lengths and the remedy."""
    with pytest.raises(Exception, match=r"100 tokens .*'main' holds 100.*max_context_tokens"):
        fitting_tokens(100, 5, 100, "main")


@given(
    n_prompt=st.integers(1, 5000),
    wanted=st.integers(1, 3000),
    block=st.sampled_from([0, 16, 32, 128]),
)
def test_a_checkpoint_lies_where_only_the_token_drawn_last_is_computed_again(
    n_prompt: int, wanted: int, block: int
) -> None:
    """The tokens before it fill whole blocks, which the cache keeps.

    Never late, never before the half, exact without a cache.
    """
    n = checkpoint_tokens(n_prompt, wanted, block)
    assert wanted / 2 < n <= wanted
    if block == 0:
        assert n == wanted
    elif n < wanted or wanted >= 2 * block:
        assert (n_prompt + n - 1) % block == 0
    assert (
        checkpoint_tokens(n_prompt + n, 2 * (block or 1), block) == 2 * (block or 1) or n == wanted
    ), "then every second block is one"


def test_the_kv_cache_takes_no_more_than_there_is() -> None:
    """The default is a quarter of the free memory, at most 4 GiB.

    A requested size is used, or is an error before anything starts.
    """
    assert host.cpu_kv_bytes(0, 8 * GIB) == 2 * GIB
    assert host.cpu_kv_bytes(0, 64 * GIB) == 4 * GIB
    assert host.cpu_kv_bytes(1.5, 8 * GIB) == 3 * GIB // 2
    with pytest.raises(PlanError, match=r"kv_cache_gib = 9.*8\.0 GiB"):
        host.cpu_kv_bytes(9, 8 * GIB)


def test_the_cpu_engine_never_chunks_a_prompt_and_is_eager_unless_told() -> None:
    """A chunked prompt with a seed kills a vLLM 0.32 engine on a CPU.

    Compiling takes longer than most CPU jobs.
    """
    arguments = host.cpu_arguments(Vllm(), 8 * GIB)
    assert arguments["enable_chunked_prefill"] is False
    assert arguments["enforce_eager"] is True
    assert host.cpu_arguments(Vllm(enforce_eager=False), 8 * GIB)["enforce_eager"] is False
    assert (
        host.engine_arguments(Vllm(), Model("m"), "/m")
        .keys()
        .isdisjoint({"enable_chunked_prefill"})
    )


def test_a_continuation_on_a_cpu_computes_at_most_one_small_block_again() -> None:
    """The kernel only supports multiples of 32.

    With vLLM's default of 128, most of a short prefix would be computed again at every checkpoint.
    """
    assert host.cpu_arguments(Vllm(), 8 * GIB)["block_size"] == 32


def test_a_pool_may_have_options_of_its_own() -> None:
    """A reward model needs less memory than a policy, and they share a GPU.

    It only makes one pass. Mistakes are found before a start.
    """
    options = Vllm(
        kv_cache_gib=8, pools={"rm": {"kv_cache_gib": 0.5, "gpu_memory_utilization": 0.2}}
    )
    started = host.by_pool(options, ["main", "rm"])
    assert {name: (o.kv_cache_gib, o.gpu_memory_utilization) for name, o in started.items()} == {
        "main": (8, 0.45),
        "rm": (0.5, 0.2),
    }
    assert host.by_pool(Vllm(), ["main"]) == {"main": Vllm()}
    with pytest.raises(
        PlanError, match=r"pools names 'rm', which is no model of the plan; those are: main"
    ):
        host.by_pool(options, ["main"])
    with pytest.raises(
        PlanError, match=r"pools\.rm has no option 'kv_cache' \(did you mean 'kv_cache_gib'\?\)"
    ):
        Vllm(pools={"rm": {"kv_cache": 1}})


def test_a_pool_with_a_task_runs_in_the_pooling_runner() -> None:
    """vLLM decides whether its model can have a prefix cache.

    Values of all tokens are returned, regardless of its own step tag.
    """
    arguments = host.engine_arguments(Vllm(), Model("m", task="token_classify"), "/m")
    assert (arguments["runner"], arguments["enable_prefix_caching"]) == ("pooling", None)
    assert arguments["pooler_config"] == {"tok_pooling_type": "ALL"}
    assert "pooler_config" not in host.engine_arguments(Vllm(), Model("m", task="embed"), "/m")
    assert "runner" not in host.engine_arguments(Vllm(), Model("m"), "/m")


def test_labels_are_one_number() -> None:
    """Two labels give the second minus the first: its sigmoid is the softmax.

    Three labels cannot be reduced to one number.
    """
    assert [pooling.raw(logits) for logits in ([2.5], [1.0, 2.5])] == [2.5, 1.5]
    with pytest.raises(Refused, match="3 labels"):
        pooling.raw([1.0, 2.0, 3.0])


def test_options_reach_the_engine() -> None:
    """Each option changes the argument of the same name; 0 means vLLM's default."""
    options = Vllm(
        kv_cache_gib=2,
        max_num_seqs=7,
        tensor_parallel=2,
        enforce_eager=True,
        prefix_caching=False,
        seed=5,
        processed_logprobs=True,
    )
    arguments = host.engine_arguments(options, Model("m", "main", 512), "/m")
    expected = {
        "model": "/m",
        "revision": "main",
        "max_model_len": 512,
        "kv_cache_memory_bytes": 2 * GIB,
        "max_num_seqs": 7,
        "tensor_parallel_size": 2,
        "enforce_eager": True,
        "enable_prefix_caching": False,
        "seed": 5,
        "logprobs_mode": "processed_logprobs",
    }
    assert expected.items() <= arguments.items()
    plain = host.engine_arguments(Vllm(), Model("m"), "/m")
    assert {"kv_cache_memory_bytes", "max_num_seqs"}.isdisjoint(plain)
    assert plain["logprobs_mode"] == "raw_logprobs"


@pytest.mark.parametrize(
    ("features", "dtype"),
    [
        ({"avx2"}, "float32"),
        ({"avx512_bf16"}, "float32"),
        ({"avx512_bf16", "amx_bf16"}, "bfloat16"),
    ],
)
def test_the_cpu_format_follows_what_was_measured(features: set[str], dtype: str) -> None:
    """The docstring of `cpu_dtype` has the machines and numbers."""
    assert host.cpu_dtype(features) == dtype


def test_the_environment_is_as_before_after_the_start(monkeypatch: pytest.MonkeyPatch) -> None:
    """This includes variables that vLLM sets, such as LD_PRELOAD, which our workers would inherit.

    The user's settings take precedence.
    """
    monkeypatch.setenv("OMP_NUM_THREADS", "3")
    monkeypatch.delenv("LEADLINE_VLLM_LOG", raising=False)
    monkeypatch.delenv("VLLM_LOGGING_LEVEL", raising=False)
    before = dict(os.environ)
    with host.environment(0):
        assert os.environ["OMP_NUM_THREADS"] == "3"
        assert os.environ["VLLM_LOGGING_LEVEL"] == "ERROR"
        os.environ["LD_PRELOAD"] = "something"
    assert dict(os.environ) == before
    monkeypatch.setenv("LEADLINE_VLLM_LOG", "INFO")
    with host.environment(1):
        assert (os.environ["OMP_NUM_THREADS"], os.environ["VLLM_LOGGING_LEVEL"]) == ("1", "INFO")


def test_free_memory_is_known_and_plausible() -> None:
    """It is between 16 MiB and a pebibyte."""
    assert 1 << 24 < host.free_bytes() < 1 << 50


def test_the_guard_does_nothing_outside_an_engine_process(monkeypatch: pytest.MonkeyPatch) -> None:
    """vLLM loads it in every process where Leadline is installed, even in unrelated ones."""
    monkeypatch.setenv(guard.OPENER, str(os.getppid()))
    before = threading.active_count()
    guard.install()
    assert threading.active_count() == before


@pytest.mark.parametrize(
    ("device", "world_size", "bind", "executor"),
    [
        ("cpu", 1, "nobind", "uni"),
        ("cpu", 2, "nobind", "mp"),
        ("cuda", 1, "nobind", "mp"),
        ("cpu", 1, "0-7", "mp"),
    ],
)
def test_a_single_worker_on_a_cpu_needs_no_process(
    device: str, world_size: int, bind: str, executor: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With bound threads, or several workers, vLLM's method is kept: it sets their environment."""
    monkeypatch.setenv("VLLM_CPU_OMP_THREADS_BIND", bind)
    parallel = SimpleNamespace(world_size=world_size, distributed_executor_backend="mp")
    config = SimpleNamespace(
        parallel_config=parallel, device_config=SimpleNamespace(device_type=device)
    )
    assert host.without_worker_process(config) is config
    assert parallel.distributed_executor_backend == executor


def test_running_tokens_are_those_of_vllms_detokenizers() -> None:
    """A pooling model has none."""

    class Detokenizer:
        def num_output_tokens(self) -> int:
            return 5

    states = {
        "a": SimpleNamespace(detokenizer=Detokenizer()),
        "b": SimpleNamespace(detokenizer=Detokenizer()),
        "c": SimpleNamespace(detokenizer=None),
    }
    assert tokens_so_far(states) == 10
