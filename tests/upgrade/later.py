"""The database of a next state: today's migrations and one more. `python -m tests.upgrade.later STATE`.

The one more adds what an expanding migration may add (docs/upgrade.md), everywhere at once: a column to every table and
a word to every enum. So who reads rows by their order, or inserts without naming columns, is found before a real one
comes.
"""

from __future__ import annotations

import sys
from pathlib import Path

from mover.catalog import migrate as module
from mover.catalog.migrate import Migration, migrate, read_migrations
from mover.catalog.postgres import Embedded

EXPAND = """
do $$
declare one record;
begin
    for one in select c.oid::regclass::text as name from pg_class c
        where c.relnamespace in ('mover'::regnamespace, 'vault'::regnamespace) and c.relkind in ('r', 'p')
        and not c.relispartition
    loop
        execute format('alter table %s add column later_added text default ''of the next state''', one.name);
    end loop;
    for one in select t.oid::regtype::text as name from pg_type t where t.typtype = 'e'
        and t.typnamespace in ('mover'::regnamespace, 'vault'::regnamespace)
    loop
        execute format('alter type %s add value ''later-word''', one.name);
    end loop;
end $$;
"""


def next_state() -> list[Migration]:
    every = read_migrations()
    return [*every, Migration(f"{len(every) + 1:04}_later.sql", EXPAND)]


def main(state: Path) -> None:
    later = next_state()
    module.read_migrations = lambda *_: later
    embedded = Embedded(state)
    try:
        migrate(embedded.start().superuser_dsn)
    finally:
        embedded.stop()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
