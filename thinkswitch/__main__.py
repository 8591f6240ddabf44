"""`python -m thinkswitch <verb>`; see cli/main.py."""

import sys

from thinkswitch.cli.main import main

if __name__ == "__main__":
    sys.exit(main())
