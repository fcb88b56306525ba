"""The toolkit for plugin authors, in addition to `orchestrator.core`. Pure.

- `compose`: strategies made of other strategies, and several explorations side by side.
- `options`: options that many plugins have, such as the model and its depth.
- `prompts`: follow-up prompts that keep the plan's template and system message.
- `thinking`: a model's thinking, requested in pieces up to its closing tag, and then its answer.
- `partial_solutions`: solutions extended and scored step by step, as in beam search.
- `tree_search`: attempts as a tree of revisions, and UCB1 among models.
- `verdicts`: the verdicts and comparisons that LLM judges write.
- `model_verifier`: verifiers that query models.
- `prefixes`: similarities of unfinished traces.
- `answers/`: telling thinking from reply; finding answers, numbers, formulas and programs in it.

Code that two or more plugins share belongs here. Code that only one plugin uses stays in that
plugin's module, and code that performs I/O belongs elsewhere.
"""
