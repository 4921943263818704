-- name: begin
-- A hook begins, once more if it was cut off or did not succeed; nothing when it has succeeded.
insert into mover.run_hook as h (project_id, run_id, phase, name, state, node)
values (%(project)s, %(run)s, %(phase)s, %(name)s, 'running', %(node)s)
on conflict (run_id, phase, name) do update
   set state = 'running', attempts = h.attempts + 1, node = excluded.node, exit_status = null, why = null,
       output = null, output_bytes = null, began_at = now(), ended_at = null
 where h.state <> 'succeeded'
returning attempts

-- name: end
-- How it ended.
update mover.run_hook
   set state = %(state)s, why = %(why)s, exit_status = %(exit_status)s, output = %(output)s,
       output_bytes = %(output_bytes)s, ended_at = now()
 where run_id = %(run)s and phase = %(phase)s and name = %(name)s

-- name: explain
-- What is left to say of a run whose root is gone.
update mover.run set explanation = %(explanation)s where id = %(id)s
