"""Where a reply gives its answer explicitly: boxes, words, labels, tags, fields.

`explicit` finds all of them, `boxes` and `phrases` two kinds, `statement` is what they find.
"""
