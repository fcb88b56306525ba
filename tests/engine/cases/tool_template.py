"""The embedded model's chat template, with tools and calls as Qwen's templates write them."""

TOOL_TEMPLATE = (
    "{% for message in messages %}"
    "{% if loop.first %}"
    "{% if tools or messages[0]['role'] != 'system' %}<|im_start|>system\n"
    "{{ messages[0]['content'] if messages[0]['role'] == 'system' else "
    "'You are a helpful AI assistant named SmolLM, trained by Hugging Face' }}"
    "{% if tools %}\n\nCall functions if they help. They are:\n<tools>"
    "{% for tool in tools %}\n{{ tool | tojson }}{% endfor %}\n</tools>\n"
    "For each call, return:\n<tool_call>\n"
    '{"name": <function-name>, "arguments": <args-json-object>}\n</tool_call>{% endif %}'
    "<|im_end|>\n{% endif %}{% endif %}"
    "{% if not (tools and loop.first and message['role'] == 'system') %}"
    "<|im_start|>{{ 'user' if message['role'] == 'tool' else message['role'] }}\n"
    "{% if message['role'] == 'tool' %}<tool_response>{{ message['content'] }}</tool_response>"
    "{% else %}{{ message['content'] }}{% endif %}"
    "{% for call in message['tool_calls'] or [] %}<tool_call>\n"
    '{"name": "{{ call.function.name }}", "arguments": {{ call.function.arguments | tojson }}}'
    "\n</tool_call>{% endfor %}<|im_end|>\n{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
