-- name: place
-- A hold, by whoever proves to be somebody; one on what is in the trash brings it back.
select mover.hold_place(%(id)s, %(snapshot)s, %(reason)s, %(until)s, %(proof)s, %(actor)s, %(node)s) as hold

-- name: tag
-- Tags are added by anybody, and taken away by two.
select mover.snapshot_tag(%(snapshot)s, %(tags)s, %(proof)s, %(actor)s, %(node)s)

-- name: until
-- A moment by the database's clock.
select now() + make_interval(secs => %(seconds)s) as until
