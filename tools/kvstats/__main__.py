"""`python -m kvstats`."""

from kvstats.cli import main

if __name__ == "__main__":
    main()
