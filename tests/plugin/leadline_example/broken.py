"""A plugin whose module does not import: a dependency is missing."""

import a_module_that_nobody_has  # noqa: F401

Broken = object
