"""What exits cost and save: accuracy, mean depth and layers run under fixed depths and under exit rules, on one model's problems.

    python benchmarks/exits.py --model sounder --problems examples/sounder.jsonl --samples 4 --deepest 16

Every problem is answered `samples` times at temperature 1 with the same seeds under every setting, one batch per setting, in this process.
Prints per setting: single-trace accuracy with its 95 % interval over problems, iterations per generated token, layers run per problem (what
`layer_tokens` charges), and iterations computed over iterations needed, per token of the think block: what the batch computed beyond what
its tokens took. An answer is right when the completion ends with the reference.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import re
import statistics
import time
from pathlib import Path
from typing import Any

os.environ |= {"VLLM_ENABLE_V1_MULTIPROCESSING": "0", "VLLM_NO_USAGE_STATS": "1", "VLLM_CPU_OMP_THREADS_BIND": "nobind"}
os.environ.setdefault("VLLM_LOGGING_LEVEL", "ERROR")
os.environ.setdefault("OMP_NUM_THREADS", "1")

from orchestrator.core.plan import Model, derive_seed
from orchestrator.embedded import resolve_model
from orchestrator.latent.check import DEPTH_ARGUMENT, cache_salt, latent_of
from orchestrator.latent.counts import Counts
from orchestrator.latent.native import usual_names

RULES = ("state<1", "state<0.7", "state<0.5", "state<0.35", "state<0.2", "kl<0.5", "kl<0.05", "kl<5e-3", "kl<5e-4")


class Bench:
    """One model and its problems."""

    def __init__(self, model: str, problems: Path, n_samples: int, deepest: int) -> None:
        self.path, self.n_samples, self.deepest = resolve_model(model), n_samples, deepest
        self.rows = [json.loads(line) for line in problems.read_text().splitlines() if line]
        self.config = usual_names(json.loads((Path(self.path) / "config.json").read_text()))

    def opened(self, rule: str) -> tuple[Any, Any]:
        """Return an engine under a rule ("": none), and how the model runs in it."""
        from vllm import LLM

        latent = latent_of(self.config, Model(self.path, max_depth=self.deepest, exit=rule), "main")
        assert latent is not None
        return LLM(
            self.path, dtype="float32", enforce_eager=True, disable_log_stats=True, hf_overrides=latent.overrides(), block_size=32,
            kv_cache_memory_bytes=512 << 20, max_num_seqs=64, worker_extension_cls="orchestrator.latent.worker.DepthCounts",
            enable_chunked_prefill=False,
        ), latent  # fmt: skip

    def measured(self, llm: Any, latent: Any, depth: int, rule: str) -> str:
        """Return the line of one setting."""
        from vllm import SamplingParams

        jobs = [(row, sample) for row in self.rows for sample in range(self.n_samples)]
        inputs = [{"prompt": row["prompt"], "cache_salt": cache_salt(depth)} for row, _ in jobs]
        params = [
            SamplingParams(temperature=1, max_tokens=16, seed=derive_seed(0, row["id"], sample), extra_args={DEPTH_ARGUMENT: depth})
            for row, sample in jobs
        ]
        computed = _Computed()
        started = time.perf_counter()
        outputs = llm.generate(inputs, params, use_tqdm=False)
        seconds = time.perf_counter() - started
        right = [
            bool(re.search(rf"\b{re.escape(row['answer'])}\W*$", o.outputs[0].text)) for (row, _), o in zip(jobs, outputs, strict=True)
        ]
        per_problem = [statistics.fmean(right[i : i + self.n_samples]) for i in range(0, len(right), self.n_samples)]
        half = 1.96 * statistics.stdev(per_problem) / math.sqrt(len(per_problem))
        counts, n_computed = _counts(llm, rule), computed.stop()
        n_tokens = sum(len(o.prompt_token_ids) - o.num_cached_tokens + len(o.outputs[0].token_ids) - 1 for o in outputs)
        if counts is None:
            own, mean, beyond = float(depth), float(depth), "1.00"
        else:
            own, mean = counts.mean_depth, counts.mean_of_all
            beyond = f"{n_computed / (counts.prompt_iterations + counts.iterations):.2f}"
        layers = n_tokens * (latent.schedule.n_layers_run(0) + len(latent.schedule.think) * mean) / len(self.rows)
        accuracy = f"{100 * statistics.fmean(per_problem):.1f} ± {100 * half:.1f}"
        return f"| {rule or f'depth {depth}'} | {accuracy} | {own:.2f} | {layers:.0f} | {beyond} | {seconds:.1f} |"


class _Computed:
    """Counts the token iterations that the recurrence computes, from its making until `stop`."""

    def __init__(self) -> None:
        from orchestrator.latent.recurrence import Recurrence

        self._class, self._stock, self._n = Recurrence, Recurrence._iterated, 0
        stock = self._stock

        def counting(recurrence: Any, iteration: Any, positions: Any, *rest: Any) -> Any:
            self._n += len(positions)
            return stock(recurrence, iteration, positions, *rest)

        Recurrence._iterated = counting  # type: ignore[method-assign]  # put back by `stop`

    def stop(self) -> int:
        """Return the count, and leave everything as it was."""
        self._class._iterated = self._stock  # type: ignore[method-assign]  # as it was
        return self._n


def _counts(llm: Any, rule: str) -> Counts | None:
    """Return what all requests have used together; None without a rule."""
    if not rule:
        return None
    ledger = llm.llm_engine.model_executor.driver_worker.worker.model_runner.get_model().ledger
    total = Counts()
    for name in list(ledger._counts):
        one = Counts(*llm.collective_rpc("take_depth_counts", args=(name,))[0])
        total.prompt_tokens += one.prompt_tokens
        total.prompt_iterations += one.prompt_iterations
        total.tokens += one.tokens
        total.iterations += one.iterations
    return total


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="sounder")
    parser.add_argument("--problems", type=Path, default=Path("examples/sounder.jsonl"))
    parser.add_argument("--samples", type=int, default=4)
    parser.add_argument("--deepest", type=int, default=16)
    parser.add_argument("--rules", nargs="*", default=RULES)
    asked = parser.parse_args()
    bench = Bench(asked.model, asked.problems, asked.samples, asked.deepest)
    print(f"{len(bench.rows)} problems, {asked.samples} samples each")
    print("| setting | accuracy % | iterations per generated token | layers run per problem | computed / needed | seconds |")
    print("|---|---|---|---|---|---|")
    llm, latent = bench.opened("")
    for depth in (d for d in (1, 2, 4, 6, 8, 12, 16) if d <= asked.deepest):
        print(bench.measured(llm, latent, depth, ""), flush=True)
    del llm  # before the next one: engines of one process share what vLLM keeps globally
    for rule in asked.rules:
        llm, latent = bench.opened(rule)
        print(bench.measured(llm, latent, asked.deepest, rule), flush=True)
        del llm


if __name__ == "__main__":
    main()
