"""Packs of slides, objects and tables with invented identifiers in every place we can think of: the adversary's bench.

`people` invents, `slides`, `objects` and `tables` plant, `rareslides` and `rareobjects` what few programs write, in the
codings of `encodings`; `pack` writes them with the list of what was planted, in the form the samples' scorer reads;
`damage` breaks files. What a pack finds becomes a test of its own.
"""
