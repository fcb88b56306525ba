"""vLLM's guest: models that run under a layer schedule, at a depth that each request may choose.
docs/depth.md describes it.

`check` and `families` are plain Python and may be imported anywhere; the other modules belong to
vLLM's own processes.
"""
