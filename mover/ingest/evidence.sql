-- name: slide
-- A slide that the project may see.
select s.number, s.family, s.thumbnail_key is not null as thumbnail, s.created_at, s.tier
  from mover.slide s where s.number = %(number)s;

-- name: made
-- The pack it was made from, with what was judged and proved; none where it was adopted.
select p.id as pack, p.batch_id as batch, p.decisions, p.seconds, d.details
  from mover.pack p join mover.proof d on d.id = p.deidentified_proof
 where p.number = %(number)s and p.state = 'published' order by d.at, p.id limit 1;

-- name: searches
-- What was sought in it since, for the words of later tables; the newest first.
select record_set_id as record_set, outcome, strings, forms, bytes, at
  from mover.slide_search where number = %(number)s order by at desc, record_set_id limit %(limit)s;

-- name: thumbnail
-- Where the picture stands that was made anew of what is left, unless its slide's bytes are gone.
select s.tier, s.thumbnail_key as key, s.thumbnail_bytes as bytes, s.thumbnail_digest as digest
  from mover.slide s left join mover.slide_withdrawal w using (number)
 where s.number = %(number)s and s.thumbnail_key is not null and w.removed_at is null;
