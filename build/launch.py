"""Entry point of the frozen program."""

import sys

from fastproxy.__main__ import main

sys.exit(main())
