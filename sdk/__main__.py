"""``python -m sdk``: the same as the command ``toonedge``."""

from sdk.cli import main

if __name__ == "__main__":
    main()
