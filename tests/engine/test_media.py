"""Images through a real vLLM, with a model that sees: they reach it, or fail with the reason."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio

from orchestrator.core.errors import PlanError
from orchestrator.core.plan import FewShot, Model, Plan
from orchestrator.core.values import Capability, Media, Message, PluginSpec, Request, Sampling
from orchestrator.engines.vllm.engine import VllmEngine
from orchestrator.engines.vllm.options import Vllm
from orchestrator.jobs.job import open_job
from orchestrator.jobs.openai_batch import write_batch_output
from orchestrator.jobs.problems import read_problems
from orchestrator.jobs.rows import Rows
from orchestrator.jobs.rows.copy import write_copy
from orchestrator.jobs.rows.examples import with_examples
from orchestrator.plan.check import row_requirement
from orchestrator.plan.execution import Execution
from orchestrator.plan.keys import Columns
from orchestrator.runtime.api import run_job

pytest.importorskip("vllm")

from tiny_vision import image, make, png

pytestmark = [
    pytest.mark.engine,
    pytest.mark.asyncio(loop_scope="session"),
    pytest.mark.timeout(400),
]
GREEDY = Sampling(temperature=0.0, max_new_tokens=8)


@pytest.fixture(scope="session")
def vision_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make(tmp_path_factory.mktemp("vision"))


@pytest_asyncio.fixture(loop_scope="session")
async def vision_engine(shared_engine: Any, vision_model: Path) -> VllmEngine:
    options = Vllm("float32", kv_cache_gib=0.25, max_num_seqs=8, threads=1)
    model = Model(str(vision_model), max_context_tokens=512)
    engine: VllmEngine = await shared_engine.get(options, {"main": model})
    return engine


def seen(*colours: str, text: str = "What is it?", **fields: Any) -> Request:
    media = [Media("image_url", json.dumps(image(c)["image_url"])) for c in colours]
    prompt = (Message("user", text, tuple(media)),)
    fields = {"max_new_tokens": 8, "sampling": GREEDY, "model": "main"} | fields
    return Request(prompt, problem_id=" ".join(colours) + text, ordinal=0, **fields)


async def test_an_image_reaches_the_model(vision_engine: VllmEngine) -> None:
    """Greedy replies differ by the image, by the order of two, and by nothing else."""
    replies = {}
    for colours in (("red",), ("blue",), ("red", "blue"), ("blue", "red")):
        metrics = ("mean_logprob",)
        first = await vision_engine.generate(seen(*colours, metrics=metrics))
        again = await vision_engine.generate(seen(*colours, metrics=metrics))
        assert first.error == ""
        assert first.token_ids == again.token_ids
        replies[colours] = (first.token_ids, round(first.metrics["mean_logprob"], 3))
    assert len(set(replies.values())) == 4


async def test_each_image_is_part_of_the_prompt_and_of_a_continuation(
    vision_engine: VllmEngine,
) -> None:
    """Seven tokens each here; the continuation of a cut trace is the whole trace's."""
    one = await vision_engine.generate(seen("red"))
    two = await vision_engine.generate(seen("red", "blue"))
    assert two.usage.prompt_tokens - one.usage.prompt_tokens == 7
    begun = await vision_engine.generate(seen("red", "blue", max_new_tokens=3))
    rest = seen("red", "blue", max_new_tokens=5, parent=0, prefix_ids=begun.token_ids)
    end = await vision_engine.generate(rest)
    assert (*begun.token_ids, *end.token_ids) == two.token_ids


class Opened:
    """Yields the engine that the tests share; checks are those of vLLM."""

    def __init__(self, engine: VllmEngine) -> None:
        self._engine = engine

    def capabilities(self) -> frozenset[Capability]:
        return Vllm().capabilities()

    @asynccontextmanager
    async def open(self, models: Mapping[str, Model]) -> AsyncIterator[VllmEngine]:
        yield self._engine


def chat(name: str, *parts: object) -> dict[str, Any]:
    content = [*parts, {"type": "text", "text": "Which colour?"}]
    body = {"model": "any", "max_tokens": 6, "messages": [{"role": "user", "content": content}]}
    return {"custom_id": name, "method": "POST", "url": "/v1/chat/completions", "body": body}


async def test_a_batch_with_images_gets_answers_and_a_bad_image_fails_its_row(
    vision_engine: VllmEngine, vision_model: Path, tmp_path: Path
) -> None:
    (tmp_path / "blue.png").write_bytes(png("blue"))
    broken = {"type": "image_url", "image_url": {"url": "data:image/png;base64,AAAA"}}
    sound = {"type": "input_audio", "input_audio": {"data": "AAAA", "format": "wav"}}
    file = {"type": "image_url", "image_url": {"url": "blue.png"}}
    rows = [
        chat("red", image("red")),
        chat("two", image("red"), image("blue")),
        chat("file", file),
        chat("same", image("blue")),
        chat("broken", broken),
        chat("sound", sound),
    ]
    path = tmp_path / "batch.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    copy = write_copy(Rows(path, Columns(media=str(tmp_path))), tmp_path)
    copy.keep()
    plan = Plan(
        strategy=PluginSpec("consistency", {"n": 1}),
        models={"main": Model(str(vision_model))},
        sampling=GREEDY,
        domain="text",
    )
    execution = Execution(engine=PluginSpec("vllm"))
    require = row_requirement(plan, execution)
    problems = read_problems(copy.path, default_domain="text", require=require)
    [refused] = problems.invalid
    assert refused.problem_id == "sound"
    assert "it takes image beside text" in refused.error
    with open_job(
        tmp_path / "job", plan, problems.problems, problems.invalid, problems.order
    ) as job:
        async for _ in run_job(job, plan, execution, factory=Opened(vision_engine)):
            pass
        lines = {
            line["custom_id"]: line
            for line in map(json.loads, write_batch_output(job, plan).read_text().splitlines())
        }
        journal = (tmp_path / "job" / "journal.db").read_bytes()
    replies = {
        name: line["response"]["body"]["choices"][0]["message"]["content"]
        for name, line in lines.items()
        if line["response"]
    }
    assert replies.keys() == {"red", "two", "file", "same"}
    assert replies["file"] == replies["same"]
    assert "its image cannot be used" in lines["broken"]["error"]["message"]
    assert b"iVBORw0KGgo" not in journal  # no image is in it


async def test_a_text_model_refuses_images_before_it_starts(tmp_path: Path) -> None:
    """Those of examples with the whole plan."""
    require = row_requirement(
        Plan(models={"main": Model("smollm2")}), Execution(engine=PluginSpec("vllm"))
    )
    path = tmp_path / "p.jsonl"
    message = {"role": "user", "content": [image("red")]}
    rows = [{"id": "a", "messages": [message]}, {"id": "b", "prompt": "2+2?"}]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    file = read_problems(path, default_domain="math", require=require)
    [refused] = file.invalid
    assert "its messages have image, and 'smollm2' cannot: it takes text only" in refused.error
    path.write_text(json.dumps({"messages": [message], "answer": "red"}) + "\n")
    examples = FewShot(str(path), n=1)
    plan = with_examples(Plan(models={"main": Model("smollm2")}, few_shot=examples))
    with pytest.raises(PlanError, match=r"few_shot\.file: an example: its messages have image"):
        row_requirement(plan, Execution(engine=PluginSpec("vllm")))
