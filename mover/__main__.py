"""`python -m mover`."""

from mover.cli import main

if __name__ == "__main__":
    main()
