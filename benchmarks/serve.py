"""Measures what `leadline serve` costs and saves, over real servers and HTTP.

python benchmarks/serve.py [--part plain,voting,cancel,soak] [--rounds 5]
    [--its-hub PYTHON] [--optillm PYTHON]

plain    one attempt a request, 64 in flight: `leadline serve` against `vllm serve`, the same
         model, threads and cache; rounds alternate, tokens a second, ratio within a round
voting   self-consistency with 16 attempts in front of one `vllm serve`, 16 questions in flight:
         `leadline serve` (16 attempts, and a strategy that stops early), its_hub's gateway and
         optillm's majority_voting; seconds, tokens, right answers, and the answers that agree
         with ours of 16 attempts. The two others run in environments of their own, made with
         `python -m venv DIR` and `pip install "its_hub[iaas]==1.2.0"` or `optillm==0.4.0`
cancel   64 requests in flight whose clients leave at once: the time until the engine's
         processes are idle
soak     100,000 requests on the fake engine, 64 in flight: memory and open files of the server
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import random
import re
import statistics
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import aiohttp
import psutil
from servers import (
    N_IN_FLIGHT,
    SERVED,
    ask,
    free_port,
    generated,
    leadline,
    posted,
    server,
    tree,
    vllm_plan,
    vllm_server,
)

N_ATTEMPTS = 16
N_QUESTIONS = 16  # in flight
# tokens of a reply to cancel, and the seconds after which its client leaves
LONG = {"smollm2": (1500, 8.0), "sounder": (200, 0.7)}
PARTS = ("plain", "voting", "cancel", "soak")
FACTS = (  # the small model knows some of them
    ("How many days are in a week?", "7"),
    ("How many months are in a year?", "12"),
    ("How many hours are in a day?", "24"),
    ("How many minutes are in an hour?", "60"),
    ("How many seconds are in a minute?", "60"),
    ("How many legs does a spider have?", "8"),
    ("How many letters are in the English alphabet?", "26"),
    ("How many sides does a triangle have?", "3"),
    ("How many sides does a square have?", "4"),
    ("How many planets are in the solar system?", "8"),
    ("How many continents are there on Earth?", "7"),
    ("How many wheels does a bicycle have?", "2"),
    ("How many days are in a leap year?", "366"),
    ("How many centimeters are in a meter?", "100"),
    ("How many years are in a century?", "100"),
    ("How many fingers does a human hand have?", "5"),
)
ANSWER = re.compile(r"-?\d+")


def main() -> None:
    """Run the benchmark and print its results."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--part", default=",".join(PARTS), help="default: %(default)s")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--requests", type=int, default=128, help="of a round of `plain`")
    parser.add_argument("--soak", type=int, default=100_000, help="requests of `soak`")
    parser.add_argument("--model", default="smollm2", choices=list(LONG))
    parser.add_argument("--its-hub", help="the Python of an environment with its_hub")
    parser.add_argument("--optillm", help="the Python of an environment with optillm")
    options = parser.parse_args()
    parts = {"plain": plain, "voting": voting, "cancel": cancel, "soak": soak}
    with tempfile.TemporaryDirectory() as folder:
        for name in options.part.split(","):
            asyncio.run(parts[name](options, Path(folder)))


async def plain(options: argparse.Namespace, folder: Path) -> None:
    """Compare plain requests with those to vLLM's own server."""
    n_max = SERVED["smollm2"].n_tokens
    bodies = [chat(question, max_tokens=n_max) for question, _ in sums(options.requests)]
    async with vllm_server(folder) as raw, leadline("consistency n=1", folder, vllm_plan()) as ours:
        rates: dict[str, list[float]] = {raw: [], ours: []}
        for number in range(options.rounds + 1):
            for address, values in rates.items():
                replies, seconds = await ask(address, bodies, N_IN_FLIGHT)
                if number:  # the first round warms up
                    values.append(n_tokens(replies) / seconds)
    ratios = [b / a for a, b in zip(rates[raw], rates[ours], strict=True)]
    print(
        f"plain: {options.requests} requests a round, {N_IN_FLIGHT} in flight: vllm serve "
        f"{statistics.median(rates[raw]):.0f} tokens/s, leadline serve "
        f"{statistics.median(rates[ours]):.0f}; ratio {shown(ratios)}",
        flush=True,
    )


async def voting(options: argparse.Namespace, folder: Path) -> None:
    """Compare self-consistency with that of other gateways in front of one vLLM server."""
    model, served = options.model, SERVED[options.model]
    questions = FACTS if model == "smollm2" else puzzles()
    async with contextlib.AsyncExitStack() as stack:
        engine = await stack.enter_async_context(vllm_server(folder, model))
        systems = await gateways(stack, options, engine, folder)
        ours = next(iter(systems))
        seconds: dict[str, list[float]] = {name: [] for name in systems}
        tokens: dict[str, list[int]] = {name: [] for name in systems}
        answers: dict[str, list[str]] = {name: [] for name in systems}
        for number in range(options.rounds + 1):
            for name, (address, extra) in systems.items():
                more = {"model": model, "max_tokens": served.n_tokens, **extra}
                bodies = [chat(q, **more) for q, _ in questions]
                before = await generated(engine)
                replies, taken = await ask(address, bodies, N_QUESTIONS)
                if number:
                    seconds[name].append(taken)
                    tokens[name].append(await generated(engine) - before)
                    answers[name] += [answer_of(reply) for reply in replies]
    right = [answer for _, answer in questions] * options.rounds
    print(
        f"voting: {len(questions)} questions a round to {model}, {N_QUESTIONS} in flight, "
        f"{N_ATTEMPTS} attempts at most"
    )
    for name in systems:
        ratios = [a / b for a, b in zip(seconds[name], seconds[ours], strict=True)]
        print(
            f"  {name:28s} {statistics.median(seconds[name]):6.1f} s a round, of ours "
            f"{shown(ratios)}; {statistics.median(tokens[name]):,.0f} tokens; right "
            f"{equal(answers[name], right):.0%}, as ours {equal(answers[name], answers[ours]):.0%}",
            flush=True,
        )


async def gateways(
    stack: contextlib.AsyncExitStack, options: argparse.Namespace, engine: str, folder: Path
) -> dict[str, tuple[str, dict[str, Any]]]:
    """Start the systems; return the address of each, and what its requests have in addition."""
    plan = {
        "execution.engine.name": "openai",
        "execution.engine.base_url": f"{engine}/v1",
        "execution.engine.server": "vllm",
        "domain": "number",
    }
    model = options.model
    ours = await stack.enter_async_context(
        leadline(f"consistency n={N_ATTEMPTS}", folder, plan, model)
    )
    early = {"leadline": {"strategy": f"sounding?n={N_ATTEMPTS}"}}
    systems: dict[str, tuple[str, dict[str, Any]]] = {
        "leadline, consistency": (ours, {}),
        "leadline, sounding": (ours, early),
    }
    if options.its_hub:
        port = free_port()
        command = [options.its_hub, "-m", "its_hub.integration.iaas.app_server"]
        command += ["--port", f"{port}", "--log-level", "ERROR"]
        hub = await stack.enter_async_context(server(command, port, "/v1/models", folder))
        body = {
            "endpoint": f"{engine}/v1",
            "api_key": "none",
            "model": model,
            "alg": "self-consistency",
            "budget": N_ATTEMPTS,
            "regex_patterns": [r".*?(-?\d+)[^\d]*$"],
        }
        async with aiohttp.ClientSession() as session:
            await posted(session, f"{hub}/configure", body)
        systems["its_hub, self-consistency"] = (hub, {})
    if options.optillm:
        port = free_port()
        command = [options.optillm, "-c", "from optillm import main; main()"]
        command += ["--base-url", f"{engine}/v1", "--port", f"{port}", "--log", "error"]
        opt = await stack.enter_async_context(
            server(command, port, "/health", folder, {"OPENAI_API_KEY": "none"})
        )
        more = {"model": f"majority_voting-{model}", "k": N_ATTEMPTS}
        more["temperature"] = SERVED[model].temperature
        systems["optillm, majority_voting"] = (opt, more)
    return systems


async def cancel(options: argparse.Namespace, folder: Path) -> None:
    """Measure how long an engine works for clients that have left."""
    model, n_tokens, seconds = options.model, *LONG[options.model]
    more = {"model": model, "max_tokens": n_tokens, "ignore_eos": True}
    bodies = [{"prompt": f"A long story about {i} ships:", **more} for i in range(N_IN_FLIGHT)]
    taken = []
    async with leadline("consistency n=1", folder, vllm_plan(), model) as ours:
        processes = tree(ours)
        for number in range(options.rounds + 1):
            asking = asyncio.create_task(ask(ours, bodies, N_IN_FLIGHT, "/v1/completions"))
            await asyncio.sleep(seconds)
            assert not asking.done()
            asking.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await asking
            last = await last_busy(processes, seconds=3)
            if number:
                taken.append(last * 1000)
    print(
        f"cancel: {N_IN_FLIGHT} in flight of {model}, all clients leave: the engine is idle after "
        f"{statistics.median(taken):.0f} ms ({min(taken):.0f} to {max(taken):.0f}, n = {len(taken)}"
        "), by the time on processors of its processes",
        flush=True,
    )


async def last_busy(processes: Sequence[psutil.Process], seconds: float) -> float:
    """Return when, in seconds from now, the processes last used a fifth of a core for 10 ms."""
    began = time.monotonic()
    before, last, then = cpu_seconds(processes), 0.0, began
    while (now := time.monotonic()) < began + seconds:
        used = cpu_seconds(processes)
        if now > then and (used - before) / (now - then) > 0.2:
            last = now - began
        before, then = used, now
        await asyncio.sleep(0.01)
    return last


def cpu_seconds(processes: Sequence[psutil.Process]) -> float:
    """Return the time on processors of all threads of the processes so far (proc(5): schedstat)."""
    total = 0
    for process in processes:
        for path in Path(f"/proc/{process.pid}/task").glob("*/schedstat"):
            with contextlib.suppress(FileNotFoundError, ProcessLookupError):
                total += int(path.read_text().split()[0])
    return total / 1e9


async def soak(options: argparse.Namespace, folder: Path) -> None:
    """Send very many requests, and look at the server's memory and descriptors."""
    plan = {"execution.engine.name": "fake", "domain": "math"}
    async with leadline("consistency n=4", folder, plan) as ours:
        [process, *_] = tree(ours)
        share = options.soak // 10
        began = time.monotonic()
        rows = []
        for _ in range(10):
            await ask(ours, [chat(f"What is {i} + 1?") for i in range(share)], N_IN_FLIGHT)
            rows.append((process.memory_info().rss >> 20, process.num_fds()))
    rate = options.soak / (time.monotonic() - began)
    print(f"soak: {options.soak:,} requests, {rate:.0f} a second; MiB resident and descriptors:")
    print("  " + ", ".join(f"{mib} ({n})" for mib, n in rows), flush=True)


def chat(question: str, **more: Any) -> dict[str, Any]:
    """Return the body of a request."""
    return {"model": "smollm2", "messages": [{"role": "user", "content": question}], **more}


def puzzles() -> Sequence[tuple[str, str]]:
    """Return the problems of the example of the shipped looped model, and their answers."""
    path = Path(__file__).parent.parent / "examples" / "sounder.jsonl"
    rows = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    return [(row["prompt"], row["answer"]) for row in rows]


def sums(n: int) -> list[tuple[str, str]]:
    """Return questions and their answers."""
    rng = random.Random(0)
    pairs = [(rng.randint(2, 30), rng.randint(2, 9)) for _ in range(n)]
    return [(f"What is {a} + {b}? Reply with the number only.", f"{a + b}") for a, b in pairs]


def answer_of(reply: Mapping[str, Any]) -> str:
    """Return the last number of a reply."""
    numbers = ANSWER.findall(reply["choices"][0]["message"]["content"] or "")
    return numbers[-1] if numbers else ""


def n_tokens(replies: Sequence[Mapping[str, Any]]) -> int:
    """Return the tokens that replies report."""
    return sum(reply["usage"]["completion_tokens"] for reply in replies)


def equal(a: Sequence[str], b: Sequence[str]) -> float:
    """Return the share of equal answers."""
    return statistics.mean(x == y != "" for x, y in zip(a, b, strict=True))


def shown(ratios: Sequence[float]) -> str:
    """Return the median and the range of ratios."""
    return (
        f"{statistics.median(ratios):.3f} ({min(ratios):.3f} to {max(ratios):.3f}, "
        f"n = {len(ratios)})"
    )


if __name__ == "__main__":
    main()
