"""A tiny Idefics3 with random weights, which sees images of 32 by 32 pixels, each as four tokens.

Of the families that vLLM knows it is one whose processor needs no torchvision. The tokenizer is the
embedded model's.
"""

from __future__ import annotations

import base64
import io
from pathlib import Path

_TOKENS = ["<image>", "<fake_token_around_image>", "<global-img>", "<end_of_utterance>"]
_THINKING = ["[THINK]", "[/THINK]", "[TOOL_CALLS]"]  # those that vLLM's parser `mistral` wants
_TEMPLATE = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n"
    "{% if m.content is string %}{{ m.content }}{% else %}"
    "{% for p in m.content %}{% if p.type == 'image' %}<image>{% else %}{{ p.text }}{% endif %}"
    "{% endfor %}{% endif %}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


def make(folder: Path, thinks: bool = False) -> Path:
    """Write the model's folder and return it; one that thinks begins every reply with thinking."""
    import torch
    from transformers import (
        AutoTokenizer,
        Idefics3Config,
        Idefics3ForConditionalGeneration,
        Idefics3Processor,
        LlamaConfig,
    )
    from transformers.models.idefics3.image_processing_pil_idefics3 import (
        Idefics3ImageProcessorPil,
    )

    from orchestrator.plan.models import resolve_model

    tokenizer = AutoTokenizer.from_pretrained(resolve_model("smollm2"))
    tokens, template = (
        (_TOKENS + _THINKING, f"{_TEMPLATE}[THINK]") if thinks else (_TOKENS, _TEMPLATE)
    )
    tokenizer.add_special_tokens({"additional_special_tokens": tokens})
    tokenizer.chat_template = template
    text = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=1,
        num_key_value_heads=1,
        max_position_embeddings=1024,
        eos_token_id=2,
        pad_token_id=2,
    )
    vision = {"hidden_size": 32, "intermediate_size": 32, "num_hidden_layers": 2}
    vision |= {"num_attention_heads": 1, "image_size": 32, "patch_size": 8}
    torch.manual_seed(0)
    shape = Idefics3Config(
        vision_config=vision,
        text_config=text,
        image_token_id=tokenizer.convert_tokens_to_ids("<image>"),
        scale_factor=2,
        tie_word_embeddings=False,
        pad_token_id=2,
    )
    Idefics3ForConditionalGeneration(shape).save_pretrained(folder)
    side = {"longest_edge": 32}
    images = Idefics3ImageProcessorPil(size=side, max_image_size=side, do_image_splitting=False)
    Idefics3Processor(
        image_processor=images, tokenizer=tokenizer, image_seq_len=4, chat_template=template
    ).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def png(colour: str) -> bytes:
    """Return an image of one colour."""
    from PIL import Image

    file = io.BytesIO()
    Image.new("RGB", (32, 32), colour).save(file, "PNG")
    return file.getvalue()


def image(colour: str) -> dict[str, object]:
    """Return an image of one colour as a content part."""
    data = base64.b64encode(png(colour)).decode()
    return {"type": "image_url", "image_url": {"url": f"data:image/png;base64,{data}"}}
