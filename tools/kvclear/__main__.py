"""`python -m kvclear`."""

from kvclear.cli import main

if __name__ == "__main__":
    main()
