-- name: ages
-- How old the newest verified dump of each policy is.
select policy, age_s from mover.dump_ages()
