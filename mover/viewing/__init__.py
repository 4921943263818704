"""Published slides as pictures: tiles for a deep zoom, regions for a report.

Read first: `pyramid.py` (which pixels a tile is), then `shelf.py` (slides held open, and brought here from object
tiers), `child.py` (the only code that opens one, in the parsing child). Only levels are ever read: no function here
knows how to ask for a label or an overview.

Nothing is imported here: the parsing child comes through this door, and needs no database.
"""
