-- === what people look for in long lists, each question from its index =============================================

set role mover_owner;

-- slides of a family or of a time, page by page in the order of their numbers
create index slide_family on mover.slide (family, number);
create index slide_created on mover.slide (created_at, number);
-- what stands more than once, and where
create index entry_digest on mover.entry (project_id, tier, digest) include (size_bytes)
 where gone_at is null and kind = 'file' and digest is not null and size_bytes > 0;

reset role;
