"""``python -m likely.inference``: the same as the command ``likely``."""

from likely.inference.cli import main

if __name__ == "__main__":
    main(prog_name="python -m likely.inference")
