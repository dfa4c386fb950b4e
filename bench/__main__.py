"""``python -m netc.bench``: the command ``netc bench``."""

import sys

from ..compiler.cli import main

if __name__ == "__main__":
    main(["bench", *sys.argv[1:]])
