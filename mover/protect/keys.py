"""Passwords of the policies' repositories: looked at and added by an administrator, removed by two persons.

Passwords come from files of the daemon's machine and never through a request, so that a stolen token adds nobody.
"""

from __future__ import annotations

from functools import partial

from mover.errors import Conflict, NotFound, RequestInvalid
from mover.jobs import in_thread
from mover.log import get_logger
from mover.model import wire
from mover.model.access import Identity
from mover.model.policy import ProtectPolicy
from mover.protect.site import ProtectSite, patiently, second_of
from mover.repository.repository import Repository

log = get_logger("protect")


class Keys:
    def __init__(self, site: ProtectSite) -> None:
        self._site = site

    async def list(self, policy: str | None, *, second: bool = False) -> wire.RepositoryKeys:
        chosen = self._policy(policy)
        return await in_thread(self._told, chosen, second)

    async def add(self, identity: Identity, body: wire.KeyRequest, *, request: str = "") -> wire.RepositoryKeys:
        """The password of a key that is there adds none."""
        policy = self._policy(body.policy)
        added, key = await in_thread(self._add, policy, body)
        if added:
            async with self._site.database.project(identity.project) as conn:
                await self._site.record(
                    conn, identity.project, "repository key added", policy.name, actor=identity.actor,
                    request=request, key=key, name=body.name, second=body.second,
                )  # fmt: skip
            log.warning("repository key added", policy=policy.name, actor=identity.actor)
        return await self.list(policy.name, second=body.second)

    def _add(self, policy: ProtectPolicy, body: wire.KeyRequest) -> tuple[bool, str]:
        """Blocking."""
        repository, password = self._repository(policy, body.second), self._site.repositories.password_named(body.name)
        standing = repository.key_opened_by(password)
        return standing is None, standing or patiently(lambda: repository.add_key(password))

    def _told(self, policy: ProtectPolicy, second: bool) -> wire.RepositoryKeys:
        """Blocking."""
        place = policy.copy if second and policy.copy is not None else policy
        found = self._repository(policy, second).keys()
        told = [
            wire.RepositoryKey(id=one.key_id, made_by=f"{one.username}@{one.hostname}", created=one.created,
                               current=one.current)
            for one in found
        ]  # fmt: skip
        return wire.RepositoryKeys(tier=place.repository, prefix=place.prefix, keys=told)

    def _repository(self, policy: ProtectPolicy, second: bool) -> Repository:
        repository = second_of(self._site, policy) if second else self._site.repositories.of(policy)
        if repository is None:
            raise RequestInvalid("the policy keeps no second repository (`copy`)", where=policy.name)
        return repository

    def _policy(self, name: str | None) -> ProtectPolicy:
        if name is None:
            return self._site.policies.default(ProtectPolicy)
        return self._site.policies.get(name, ProtectPolicy)


# --- removal: what two persons asked for ------------------------------------------------------------------------


def check_removable(site: ProtectSite, policy: ProtectPolicy, ids: list[str]) -> None:
    """Blocking. Refused at once is what could never be carried out."""
    standing = [repository.keys() for repository in _of(site, policy)]
    for key_id in ids:
        found = next((keys for keys in standing if key_id in {one.key_id for one in keys}), None)
        if found is None:
            raise NotFound("no repository of this policy has such a key", where=key_id, hint="mover protect keys list")
        if len(found) == 1:
            raise Conflict("the last key of a repository is not removed", where=key_id, hint="Add another one first.")
        if any(one.current and one.key_id == key_id for one in found):
            hint = "Put another key's password into the daemon's password file, and start it again."
            raise Conflict("the daemon works with this key", where=key_id, hint=hint)


def remove_keys(site: ProtectSite, policy: ProtectPolicy, ids: list[str]) -> None:
    """Blocking. One that is gone already is removed."""
    for repository in _of(site, policy):
        standing = repository.keys()
        for key_id in {one.key_id for one in standing} & set(ids):
            patiently(partial(repository.remove_key, key_id))


def _of(site: ProtectSite, policy: ProtectPolicy) -> list[Repository]:
    second = second_of(site, policy)
    return [site.repositories.of(policy), *([second] if second is not None else [])]
