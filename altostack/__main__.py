"""`python -m altostack`."""

import sys

from altostack.cli import main

sys.exit(main())
