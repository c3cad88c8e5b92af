"""Run the command line by ``python -m aiao``."""

import sys
from pathlib import Path

# Python puts the working folder first, where a folder named like one of our modules must not be taken for it.
if not sys.flags.safe_path and Path(sys.path[0]) != Path(__file__).parents[1]:
    del sys.path[0]

from aiao._cli.main import main

if __name__ == "__main__":
    main()
