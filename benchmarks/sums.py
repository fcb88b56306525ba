"""Prints a problem file of sums of two small numbers, drawn from a seed.

Usage: python benchmarks/sums.py 48 > sums.jsonl
"""

import json
import random
import sys

rng = random.Random(0)
for i in range(int(sys.argv[1])):
    a, b = rng.randint(11, 60), rng.randint(3, 30)
    print(json.dumps({"id": f"s{i}", "prompt": f"What is {a} + {b}?", "answer": str(a + b)}))
