"""`python -m kvreport`."""

from kvreport.cli import main

if __name__ == "__main__":
    main()
