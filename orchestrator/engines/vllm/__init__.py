"""vLLM as an engine, in this process or in a replica of the Ray fleet.

The only folder that imports vllm, and only when an engine is opened. The rules for every engine's
replies are in `engines.reply`; the rules for requests, in `plan`.
"""
