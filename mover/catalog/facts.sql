-- name: fact_columns
-- The columns a project can ask about, besides those of every slide.
select name, type, table_name, allowed from mover.fact_column order by name limit %(limit)s;

-- name: put_fact_columns
-- A column keeps its type for ever; an enumeration grows by the values of later policies.
insert into mover.fact_column as c (project_id, name, type, table_name, allowed)
values (%(project)s, %(name)s, %(type)s, %(table)s, %(allowed)s)
on conflict (project_id, name) do update set table_name = excluded.table_name,
    allowed = case when c.allowed is null or excluded.allowed is null then null
                   else (select array_agg(distinct v order by v) from unnest(c.allowed || excluded.allowed) v) end
where (c.table_name, c.allowed) is distinct from (excluded.table_name, excluded.allowed);

-- name: put_ledger
-- Lines of one record set. COPY is not possible on a table with row level security.
insert into mover.ledger (project_id, record_set_id, table_name, line, state, reason, number, facts)
select %(project)s, %(record_set)s, t.*
  from unnest(%(tables)s::text[], %(lines)s::integer[], %(states)s::mover.ledger_state[], %(reasons)s::text[],
              %(numbers)s::text[], %(facts)s::jsonb[]) as t (table_name, line, state, reason, number, facts);

-- name: put_aligned
-- One document per slide. The newest record set wins, by the database's clock, whoever commits last.
insert into mover.aligned as a (project_id, number, subject, block, facts, record_set_id)
select %(project)s, t.number, t.subject, t.block, t.facts, %(record_set)s
  from unnest(%(numbers)s::text[], %(subjects)s::text[], %(blocks)s::text[], %(facts)s::jsonb[])
    as t (number, subject, block, facts)
on conflict (project_id, number) do update
   set subject = excluded.subject, block = excluded.block, facts = excluded.facts, record_set_id = excluded.record_set_id, aligned_at = now()
 where (select created_at from mover.record_set where id = a.record_set_id)
    <= (select created_at from mover.record_set where id = excluded.record_set_id);

-- name: empty_aligned
-- What earlier versions of these tables said of slides that this version no longer knows anything about.
update mover.aligned a set subject = null, block = null, facts = '{}', record_set_id = %(record_set)s, aligned_at = now()
  from mover.record_set r
 where r.id = a.record_set_id and r.batch_id = %(batch)s and r.version < %(version)s and a.facts <> '{}';

-- name: ledger_page
-- One page of a ledger, in the order of tables and lines.
select table_name as table, line, state::text, reason, number from mover.ledger
 where record_set_id = %(record_set)s and (%(table)s::text is null or table_name = %(table)s)
   and (%(state)s::text is null or state = %(state)s::mover.ledger_state)
   and (table_name, line) > (%(after_table)s, %(after_line)s)
 order by table_name, line limit %(limit)s;
