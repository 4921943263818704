"""Several keys, one repository: each opens it, each can go, the last cannot."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from mover.errors import Conflict, Denied, NotFound, RepositoryLocked, RequestInvalid
from mover.repository import keys as keys_room
from mover.repository.facts import KeyFacts
from mover.repository.locks import locked
from mover.repository.repository import Repository, open_repository
from mover.tiers.posix import PosixTier
from tests.repository.conftest import PASSWORD, Restic, listing, take


def opened(tier: PosixTier, password: bytes) -> Repository:
    return open_repository(tier, password, prefix="repo")


def keys_of(repository: Repository) -> list[KeyFacts]:
    return repository.keys()


def test_keys_say_who_made_them_and_which_is_in_use(repository: Repository, tier: PosixTier) -> None:
    """A custodian must see which key to remove when somebody leaves."""
    second = repository.add_key(b"second")

    mine = repository.keys()
    theirs = opened(tier, b"second").keys()

    assert [key.key_id for key in mine] == [key.key_id for key in theirs]
    assert [key.key_id for key in theirs if key.current] == [second]
    assert all(key.hostname and key.created for key in mine)


def test_a_removed_key_opens_nothing_and_the_others_still_do(repository: Repository, tier: PosixTier) -> None:
    """What a leaked password opens must end."""
    second = repository.add_key(b"second")

    repository.remove_key(second)

    with pytest.raises(Denied):
        opened(tier, b"second")
    assert opened(tier, PASSWORD).repository_id == repository.repository_id
    with pytest.raises(NotFound):
        repository.remove_key(second)


@pytest.mark.parametrize("other", [None, b"wrong", PASSWORD])
def test_the_key_in_use_goes_only_when_another_is_proved_to_stay(other: bytes | None, repository: Repository) -> None:
    """Not even with another key file there: nobody may know its password any more. Its own password proves nothing."""
    (mine,) = [key.key_id for key in keys_of(repository)]
    repository.add_key(b"forgotten by all")

    with pytest.raises((Conflict, Denied)):
        repository.remove_key(mine, other_password=other)
    assert mine in {key.key_id for key in keys_of(repository)}

    repository.remove_key(mine, other_password=b"forgotten by all")
    assert [key.current for key in keys_of(repository)] == [True]


def test_the_last_key_never_goes(repository: Repository, tier: PosixTier) -> None:
    """Also not when the key in use went meanwhile, and the last seems to be just another."""
    (mine,) = repository.keys()
    with pytest.raises((Conflict, Denied)):
        repository.remove_key(mine.key_id, other_password=PASSWORD)
    second = repository.add_key(b"second")
    opened(tier, b"second").remove_key(mine.key_id)

    with pytest.raises(Conflict):
        repository.remove_key(second)
    assert opened(tier, b"second").repository_id == repository.repository_id


def test_a_changed_password_is_proved_before_the_old_one_goes(repository: Repository, tier: PosixTier) -> None:
    """The repository at hand works on, and a repeat changes nothing."""
    new = repository.change_password(b"new")

    assert [key.key_id for key in keys_of(repository) if key.current] == [new]
    with pytest.raises(Denied):
        opened(tier, PASSWORD)
    assert opened(tier, b"new").snapshots() == []
    assert repository.change_password(b"new") == new


def test_keys_are_bounded_and_never_empty(repository: Repository, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each key costs whoever opens a scrypt; an empty password is none."""
    monkeypatch.setattr(keys_room, "MAX_KEYS", 2)
    repository.add_key(b"second")

    with pytest.raises(RequestInvalid):
        repository.add_key(b"third")
    with pytest.raises(RequestInvalid):
        repository.add_key(b"")


def test_removing_waits_for_nobody_and_is_refused_beside_others(repository: Repository) -> None:
    """Two who remove at the same moment could each leave the other's."""
    second = repository.add_key(b"second")

    with locked(repository._files, repository._key), pytest.raises(RepositoryLocked):
        repository.remove_key(second)


@pytest.mark.slow
def test_restic_and_we_open_remove_and_change_each_others_keys(tier: PosixTier, restic: Restic, tmp_path: Path) -> None:
    """A repository made by `restic init`, with keys that `restic key add` made, is ours as well; and the other way."""
    (tmp_path / "two").write_text("two\n")
    (tmp_path / "source").mkdir()
    (tmp_path / "source" / "a").write_bytes(b"a" * 5000)
    restic("init", "--repository-version", "2")
    restic("key", "add", "--new-password-file", str(tmp_path / "two"))

    repository = opened(tier, b"two")
    assert len(repository.keys()) == 2
    mine = repository.add_key(b"three")
    snapshot_id = take(repository, tmp_path / "source").snapshot_id
    listed = json.loads(restic("key", "list", "--json", RESTIC_PASSWORD="three").stdout)
    assert {key["id"] for key in listed} == {key.key_id[: len(listed[0]["id"])] for key in keys_of(repository)}
    (theirs,) = [key for key in keys_of(repository) if not key.current and key.key_id != mine]
    repository.remove_key(theirs.key_id)
    assert "wrong password" in restic("snapshots", ok=False).stderr
    repository.change_password(b"four")
    restic("key", "remove", mine, RESTIC_PASSWORD="four")

    with pytest.raises(Denied):
        opened(tier, b"three")
    assert "no errors were found" in restic("check", "--read-data", RESTIC_PASSWORD="four").stdout
    restic("restore", snapshot_id, "--target", str(tmp_path / "back"), RESTIC_PASSWORD="four")
    assert listing(tmp_path / "back/artifacts") == listing(tmp_path / "source")
