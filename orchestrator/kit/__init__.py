"""What plugin authors build with, beside `orchestrator.core`. Pure.

- `compose`: strategies made of other strategies, and several explorations side by side.
- `options`: options that many plugins have, such as the model and its depth.
- `prompts`: follow-up prompts that keep the plan's template and system message.
- `thinking`: a model's reasoning in pieces, up to its closing tag and then its answer.
- `partial_solutions`: solutions grown and scored step by step, as in beam search.
- `tree_search`: attempts as a tree of revisions, and UCB1 among models.
- `verdicts`: the verdicts and comparisons that LLM judges write.
- `model_verifier`: verifiers that ask models.
- `prefixes`: similarities of unfinished traces.
- `answers/`: where a reply gives its answer, and what numbers, formulas and programs it holds.

What two or more plugins share belongs here; what one plugin alone uses stays beside it, and what
acts belongs elsewhere.
"""
