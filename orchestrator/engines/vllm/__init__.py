"""vLLM as an engine, in this process or in a replica of the fleet.

The only folder that imports vllm.
"""
