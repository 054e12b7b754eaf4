"""Where things of the repository are, for tests in any folder."""

from __future__ import annotations

import os
from pathlib import Path

SUPPORT = Path(__file__).resolve().parent
TESTS = SUPPORT.parent
ROOT = TESTS.parent
PATHS = os.pathsep.join([str(SUPPORT), str(TESTS), str(ROOT)])
"""For PYTHONPATH of a process that imports the tests' stages and engines."""
