"""The guard against mass deletion, through the real program."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from tests.e2e.harness import Event, Pair, Result, assert_one_line, run
from tests.e2e.trees import make_small_files

pytestmark = pytest.mark.process


def release(pair: Pair, *options: str) -> Result:
    return run("release", pair.source, *options, state=pair.client_state)


def status(pair: Pair) -> Event:
    result = run("status", pair.source, "--json", state=pair.client_state)
    assert result.code == 0, result
    (found,) = result.objects
    return found


def kept(pair: Pair) -> int:
    return sum(1 for _ in (pair.dest / "many").rglob("*.js"))


def test_a_mass_deletion_is_held_and_released_on_purpose(pair: Pair) -> None:
    """Over 1,000 entries and over half of all vanish: held, exit 3; --max-delete lets it pass."""
    make_small_files(pair.source / "many", 1_500)
    (pair.source / "kept").write_bytes(b"kept")
    pair.start_server()
    pair.sync()
    shutil.rmtree(pair.source / "many")
    (pair.source / "later").write_bytes(b"later")
    held = pair.once()
    assert held.code == 3
    assert any(event.get("event") == "held" for event in held.objects)
    assert (pair.dest / "later").exists(), "other changes go on"
    assert kept(pair) == 1_500
    assert pair.once("--max-delete", "100%").code == 0
    assert not (pair.dest / "many").exists()


def test_a_live_mass_deletion_is_never_called_in_sync(pair: Pair) -> None:
    """While deletions are held the client does not say in_sync; it does once they are back."""
    make_small_files(pair.source / "many", 1_500)
    pair.start()
    client = pair.client
    mark = client.mark()
    (pair.source / "many").rename(pair.base / "away")
    client.expect("held", since=mark)
    assert kept(pair) == 1_500
    assert not client.events("in_sync", since=mark)
    mark = client.mark()
    (pair.base / "away").rename(pair.source / "many")
    client.expect("in_sync", since=mark)
    pair.assert_equal()


@pytest.mark.parametrize("successor", [None, "file", "symlink"])
def test_held_deletions_are_released_while_live(pair: Pair, successor: str | None) -> None:
    """``release`` lets what is held now pass, once; a directory that was replaced counts too."""
    make_small_files(pair.source / "many", 1_500)
    pair.start()
    pair.expect_answering()
    assert "nothing is held" in assert_one_line(release(pair))
    mark = pair.client.mark()
    (pair.source / "many").rename(pair.base / "away")
    if successor == "file":
        (pair.source / "many").write_bytes(b"a file now")
    elif successor == "symlink":
        (pair.source / "many").symlink_to("elsewhere")
    pair.client.expect("held", since=mark)
    (pair.source / "later").write_bytes(b"later")
    assert pair.wait().code == 3
    assert (pair.dest / "later").exists(), "other changes go on"
    assert kept(pair) == 1_500
    found = status(pair)
    assert found["deletions"] >= 1_500
    assert found["activity"] == "held"
    assert "release" in found["held"]
    result = release(pair, "--json")
    assert result.code == 0, result
    (told,) = result.objects
    assert told["released"] == found["deletions"]
    pair.assert_equal()
    assert (status(pair)["deletions"], status(pair)["held"]) == (0, None)


def test_a_release_is_for_what_is_held_now(pair: Pair) -> None:
    """What vanishes after it is held again."""
    make_small_files(pair.source / "more", 3_000)
    make_small_files(pair.source / "many", 1_500)
    pair.start()
    for name in ("more", "many"):
        mark = pair.client.mark()
        (pair.source / name).rename(pair.base / f"{name} away")
        pair.client.expect("held", since=mark)
        assert (pair.dest / name).exists()
        result = release(pair)
        assert result.code == 0, result
        assert "deletions pass" in result.out
        pair.assert_equal()


def test_release_needs_a_client(pair: Pair) -> None:
    """Without one it fails with one line."""
    assert "no client" in assert_one_line(release(pair))


def test_a_replaced_source_can_be_accepted(pair: Pair) -> None:
    """Another folder in the source's place deletes nothing until a person says it is meant."""
    (pair.source / "file").write_bytes(b"file")
    pair.start()
    pair.client.terminate()
    swap_source(pair)
    line = assert_one_line(pair.once())
    assert "unmounted" in line
    assert "twinfold release" in line
    pair.start_client().expect("problem")
    accept(pair)
    mark = pair.client.mark()
    swap_source(pair)
    pair.client.expect("problem", since=mark)
    accept(pair)
    pair.client.terminate()
    pair.sync()


def swap_source(pair: Pair) -> None:
    away = Path(f"{pair.source}-away-{len(list(pair.base.iterdir()))}")
    pair.source.rename(away)
    pair.source.mkdir()
    (pair.source / f"of {away.name}").write_bytes(b"another")


def accept(pair: Pair) -> None:
    pair.expect_answering()
    before = sorted(path.name for path in pair.dest.iterdir())
    assert "release" in status(pair)["held"]
    assert sorted(path.name for path in pair.dest.iterdir()) == before
    result = release(pair)
    assert result.code == 0, result
    pair.assert_equal()
