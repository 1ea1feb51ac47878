"""``python -m faceattr_fast`` is the command ``faceattr``."""

import sys

from .cli import main

sys.exit(main())
