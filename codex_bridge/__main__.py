"""`python -m codex_bridge`, and the entry of the single-file program."""

import sys

from codex_bridge.cli import main

if __name__ == "__main__":
    sys.exit(main())
