"""Similarity: how likely two unfinished traces are to come to the same answer, a module each; they
share how texts are read.
"""
