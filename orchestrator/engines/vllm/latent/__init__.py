"""Models under a layer schedule, inside vLLM: at a depth that each request may choose.

docs/depth.md describes it. The modules here run in vLLM's own processes. `plan.looped` checks a
model's schedules and depths before anything starts.
"""
