"""Mathematical answers as typed values, each with a key that decides equality by itself.

Two answers are one exactly when their keys are equal, so equality is symmetric and transitive and
does not depend on the order in which answers arrive. Everything here may take long on a hostile
text: call it only in a process that can be killed.
"""
