-- Cluster-wide roles; run once by a superuser before the first migration. Passwords are set apart from this file.
do $$
declare r text;
begin
    foreach r in array array['mover_owner', 'mover_dispatch', 'mover_guard'] loop
        if not exists (select from pg_roles where rolname = r) then execute format('create role %I nologin', r); end if;
    end loop;
    foreach r in array array['mover_daemon', 'mover_vault'] loop
        if not exists (select from pg_roles where rolname = r) then execute format('create role %I login', r); end if;
    end loop;
end $$;
do $$ begin
    if not (select rolbypassrls from pg_roles where rolname = 'mover_dispatch') then
        alter role mover_dispatch bypassrls;
    end if;
end $$;
