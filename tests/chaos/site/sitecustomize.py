"""Python imports this at the start of every process whose PYTHONPATH has this folder: workers, and what workers start, then meet
rows that crash them. It does nothing in any other process.
"""

from __future__ import annotations

import importlib.util
import os
import sys
from pathlib import Path

if "CHAOS_POISON" in os.environ and "worker" in sys.orig_argv:
    _place = Path(__file__).parent.parent / "doomed.py"
    _found = importlib.util.spec_from_file_location("chaos_doomed", _place)
    assert _found is not None
    assert _found.loader is not None
    _doomed = importlib.util.module_from_spec(_found)
    _found.loader.exec_module(_doomed)
    _doomed.at_poison(_doomed.Doom(1, 0.0, os.environ["CHAOS_POISON"]))
