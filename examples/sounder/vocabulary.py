"""Words as tokens. The tokenizer drops what carries nothing ("follows", "goes to room"), so a fact
is two tokens.

Whoever a fact is about is another token than whom it leads to ("Gus:", "Gus"), or the end of one
fact and the beginning of the next would look like a fact.

The one rule: ids come from `WORDS` alone, here and in the shipped tokenizer.json.
"""

from puzzles import MAX_STRIDE, NAMES, ROOMS

PAD, END, UNKNOWN, ASK = "<pad>", "<end>", "<unknown>", "Where does"
STEPS = tuple(f"{stride} steps:" for stride in range(1, MAX_STRIDE + 1))
ANSWERS = tuple(f"Answer: {room}" for room in ROOMS)
SUBJECTS = tuple(f"{name}:" for name in NAMES)
WORDS = (PAD, END, UNKNOWN, ASK, *ROOMS, *ANSWERS, *STEPS, *NAMES, *SUBJECTS)
ID = {word: i for i, word in enumerate(WORDS)}
VERBS = r" (follows|goes to room) "  # read as ": "
PIECES = r"Where does|[0-9]+ steps:|Answer: [0-9]+|[A-Z][a-z]*:?|[0-9]+"
