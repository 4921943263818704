"""The daemon from Python, for schedulers and notebooks.

with SyncClient("unix:///run/mover/mover.sock") as mover:
    run = mover.runs.request(RunRequest(cohort="prostate"), key="cluster/4711/2026-01-01T00:00:00/0")
    run = mover.runs.wait(run.id)
check(run.root)  # at the job, without a daemon
"""

from mover.sdk.client import Client, SyncClient
from mover.sdk.rootcheck import Checked, Finding, check, run_of

__all__ = ["Checked", "Client", "Finding", "SyncClient", "check", "run_of"]
