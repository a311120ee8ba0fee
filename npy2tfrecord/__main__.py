"""`python -m npy2tfrecord`."""

import sys

from npy2tfrecord.commands.main import main

if __name__ == "__main__":
    sys.exit(main())
