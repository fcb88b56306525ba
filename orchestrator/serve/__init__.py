"""The HTTP service: plans behind the OpenAI protocol. A request is a problem of a job's driver.

Nothing here explores, votes or reads answers: that is `orchestrator.runtime`. Needs the extra
`serve` (FastAPI and uvicorn).
"""
