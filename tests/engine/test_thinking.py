"""A real engine whose template opens the thinking with a special token, as Mistral's models do.

SmolLM2 with three of its unused special tokens renamed stands in for such a model.
"""

from __future__ import annotations

import asyncio
import json
from pathlib import Path

import pytest

from orchestrator.core.plan import Model
from orchestrator.core.values import Finish, Message, Request, Sampling, changed
from orchestrator.engines.vllm.options import Vllm
from orchestrator.plan.models import resolve_model

pytest.importorskip("vllm")

pytestmark = [pytest.mark.engine, pytest.mark.timeout(600)]

RENAMED = {
    "<gh_stars>": "[THINK]",
    "<issue_start>": "[/THINK]",
    "<issue_comment>": "[TOOL_CALLS]",  # which vLLM's parser of this family asks for
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    shipped, path = Path(resolve_model("smollm2")), tmp_path_factory.mktemp("thinker")
    for file in shipped.iterdir():
        if file.name in ("tokenizer.json", "tokenizer_config.json"):
            text = file.read_text()
            for old, new in RENAMED.items():
                text = text.replace(json.dumps(old), json.dumps(new))
            (path / file.name).write_text(text)
        elif file.name == "chat_template.jinja":
            (path / file.name).write_text(
                "{% for m in messages %}{{ m.role }}: {{ m.content }}\n{% endfor %}[THINK]"
            )
        else:
            (path / file.name).symlink_to(file)
    return path


async def test_thinking_that_the_template_opened_is_told_from_the_reply(folder: Path) -> None:
    """Cut, all of it is thinking; what follows a forced closing token is the reply."""
    options = Vllm("float32", kv_cache_gib=1, threads=1)
    models = {
        "main": Model(str(folder), max_context_tokens=256, reasoning_parser="mistral"),
    }
    asked = Request(
        (Message("user", "What is 2+2?"),),
        problem_id="p",
        ordinal=0,
        max_new_tokens=6,
        sampling=Sampling(temperature=0),
    )
    async with options.open(models) as engine:
        thought = await engine.generate(asked)
        answered = await engine.generate(
            changed(
                asked,
                ordinal=1,
                parent=0,
                prefix_ids=thought.token_ids,
                prefix_text=thought.text,
                suffix="[/THINK]The answer is",
            )
        )
    assert thought.finish is Finish.LENGTH
    assert thought.text.startswith("[THINK]")
    assert (thought.reply, thought.usage.reasoning_tokens) == ("", 6)
    assert len(answered.suffix_ids) > 1
    assert answered.suffix_ids[0] not in thought.token_ids  # one special token
    assert (answered.thinking, answered.usage.reasoning_tokens) == ("", 0)
    assert answered.reply == answered.text != ""


async def test_thinking_ends_at_its_limit_and_the_reply_follows(folder: Path) -> None:
    """The closing tag is forced after exactly so many tokens, those of a parent included.

    This model never closes its thinking by itself, and here it does not end its text either:
    without a limit all of it is thinking.
    """
    models = {"main": Model(str(folder), max_context_tokens=256, reasoning_parser="mistral")}
    options = Vllm("float32", kv_cache_gib=1, threads=1)
    options.require_thinking(8, models)
    added = json.loads((folder / "tokenizer.json").read_text())["added_tokens"]
    [closing] = [token["id"] for token in added if token["content"] == "[/THINK]"]
    endless = Sampling(temperature=0, extra={"ignore_eos": True})
    free = Request(
        (Message("user", "What is 2+2?"),),
        problem_id="p",
        ordinal=0,
        seed=1,
        max_new_tokens=24,
        sampling=endless,
    )
    limited = changed(free, ordinal=1, sampling=changed(endless, thinking_tokens=8))
    drawn = changed(limited, ordinal=2, sampling=changed(limited.sampling, temperature=1.0))
    async with options.open(models) as engine:
        unlimited, ended, sampled = await asyncio.gather(
            *map(engine.generate, (free, limited, drawn))
        )
        begun = await engine.generate(changed(limited, ordinal=3, max_new_tokens=5))
        inherited = {"prefix_ids": begun.token_ids, "prefix_text": begun.text}
        continued = await engine.generate(changed(limited, ordinal=4, parent=3, **inherited))
    assert closing not in unlimited.token_ids
    assert (len(unlimited.token_ids), unlimited.reply) == (24, "")
    for trace in (ended, sampled):
        assert trace.token_ids.index(closing) == 8
        assert trace.token_ids.count(closing) == 1
        assert abs(trace.usage.reasoning_tokens - 8) <= 1  # counted from the text
        assert trace.reply.strip()
    assert ended.token_ids[:8] == unlimited.token_ids[:8]
    assert closing not in begun.token_ids
    assert continued.token_ids.index(closing) == 3
