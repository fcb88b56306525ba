"""From a sympy expression to its value, exact where it is rational, and the key of that."""
