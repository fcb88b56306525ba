"""vLLM as an engine, in this process or in a replica of the Ray fleet.

The only folder that imports vllm, and then only when an engine is opened. What every engine's reply
has to be is in `engines.reply`; what may be requested of which model, in `plan`.
"""
