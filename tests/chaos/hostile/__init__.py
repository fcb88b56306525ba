"""Inputs that nobody should give: plans, problem files and replies of models, by a seed.

The one rule: whatever is given, a command ends with an exit code and a message, never a traceback.
"""
