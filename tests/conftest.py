"""What holds for every test: no property test is given a deadline, since no test may fail because
the machine is busy.
"""

from __future__ import annotations

from hypothesis import settings

settings.register_profile("leadline", deadline=None)
settings.load_profile("leadline")
