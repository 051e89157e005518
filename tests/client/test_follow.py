"""A client with nothing to send learns what happens at its server."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from tests.client.mirror import snapshot
from tests.client.running import WITHIN_S, RunningClient, client_settings, running_server
from twinfold.client.events import Connected, Drifted, InSync, Waiting
from twinfold.errors import StaleEpochError
from twinfold.server import drift


async def converged(folder: Path) -> None:
    """Return when the destination is equal to the source."""
    async with asyncio.timeout(WITHIN_S):
        while True:
            try:
                found = snapshot(folder / "destination")
            except FileNotFoundError:
                found = {}
            kept = {p: e for p, e in found.items() if p.split(b"/")[0] != b".twinfold"}
            if kept == snapshot(folder / "source"):
                return
            await asyncio.sleep(0.02)


async def test_what_the_regular_check_finds_is_healed_live(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nobody has to ask: the server looks again and again, and the client is told at once."""
    monkeypatch.setattr(drift, "CHECK_EVERY_S", 0.0)
    monkeypatch.setattr(drift, "LOOK_EVERY_S", 0.05)
    async with running_server(tmp_path) as address:
        client = RunningClient(client_settings(tmp_path, address))
        source, destination = tmp_path / "source", tmp_path / "destination"
        (source / "folder").mkdir()
        (source / "folder" / "file").write_bytes(b"the source's")
        await client.told(InSync)
        await converged(tmp_path)
        for number in (1, 2, 3):
            if number == 2:
                (destination / "folder").rename(tmp_path / "taken away")
            else:
                (destination / "folder" / "file").write_bytes(b"another's")
            await client.told(Drifted, number)
            await converged(tmp_path)
        (destination / "folder" / "file").chmod(0o600)
        (destination / "extra").write_bytes(b"extra")
        await converged(tmp_path)
        assert await client.stop() == 0


async def test_an_idle_client_notices_a_server_that_stops_and_comes_back(tmp_path: Path) -> None:
    """It says why it waits, and that the session stands again."""
    async with running_server(tmp_path) as address:
        client = RunningClient(client_settings(tmp_path, address))
        await client.told(InSync)
    await client.told(Waiting)
    connected = sum(isinstance(event, Connected) for event in client.events)
    async with running_server(tmp_path, address.port):
        await client.told(Connected, connected + 1)
        (tmp_path / "source" / "new").write_bytes(b"new")
        await converged(tmp_path)
        assert await client.stop() == 0


async def test_an_idle_client_ends_when_it_is_fenced_off(tmp_path: Path) -> None:
    """Another client took over: this one has nothing to send, and ends all the same."""
    async with running_server(tmp_path) as address:
        client = RunningClient(client_settings(tmp_path, address))
        await client.told(InSync)
        settings = client_settings(
            tmp_path, address, state_dir=tmp_path / "other", once=True, take_over=True
        )
        assert await RunningClient(settings).result() == 0
        with pytest.raises(StaleEpochError, match="taken over"):
            await client.result()
