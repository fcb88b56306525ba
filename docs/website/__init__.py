"""The generated pages of the documentation site, and the hook by which mkdocs shows them.

Only `hook` needs mkdocs. Not here: what a person writes, which is in docs/*.md and docs/methods.
"""
