"""From the text of a formula to a sympy expression that is not evaluated."""
