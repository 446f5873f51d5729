"""Starts a handler in an interpreter of its own; a sandbox has it as `/var/runtime/bootstrap.py`."""

import os
import sys

sys.path.append(os.path.dirname(os.path.abspath(__file__)))

from _millstream.bootstrap.program import main

main()
