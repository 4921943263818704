"""Measures what the project claims about speed, beside every peer, in one run: `python -m bench`. See README.md."""
