"""Models under a layer schedule, inside vLLM: at a depth that each request may choose.

docs/depth.md describes it. The modules here run in vLLM's own processes. Which schedules and depths
a model can have is checked before anything starts, in `plan.looped`.
"""
