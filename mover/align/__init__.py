"""Step 3a: rows tied to slides. `ingest` declares tables and holds their state; this room reads them (`gather`),
decides in the parsing child (`child`, by `mover.decide.alignment`), asks the vault what must be known (`examine`)
and writes the ledger and the slides' documents (`record`).

It stands one storey below the workflows, because it is no workflow: it has no state and no shard of its own. This
front stays empty of imports, because the parsing child loads it.
"""
