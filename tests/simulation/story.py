"""What happens in one world: acts, faults, crashes, and the promises between them."""

from __future__ import annotations

import sys

assert sys.platform == "linux"

import errno

from tests.simulation.fuse import GROUPS
from tests.simulation.network import Weather
from tests.simulation.world import BrokenError, World


def tell(world: World) -> None:
    """Let the world go on until its end.

    Raises:
        BrokenError: a promise was broken.
        StuckError: it does not end.
    """
    rng = world.rng
    world.start("server")
    world.await_listening()
    world.start("client")
    kept: dict[bytes, bytes] = {}
    for _ in range(rng.randint(1, 3)):
        _trouble(world)
        for _ in range(rng.randint(1, 5)):
            world.user.act()
            _pause(world)
            if rng.random() < 0.3:
                world.observe()
            if rng.random() < 0.25:
                _crash(world)
        _calm(world)
        world.converge()
        tree = world.tree("server")
        kept |= {node.content: path for path, node in tree.items() if node.kind == "file"}
        if rng.random() < 0.6:
            _prove_durable(world)
    _prove_idempotent(world)
    if world.counts["attic gave way"]:
        return
    if not world.keeps_order and world.counts["crashes/server power"]:
        # The attic's name of a replaced file and the new file's are in two directories.
        return
    lost = [repr(kept[content]) for content in kept.keys() - world.contents_at_server()]
    if lost:
        raise BrokenError(f"in neither tree nor attic: what was acknowledged as {sorted(lost)}")


def _pause(world: World) -> None:
    rng = world.rng
    world.network.strike()
    world.scheduler.sleep(rng.choice([0.0, 0.003, 0.03, 0.2, 2.0]) * rng.random())
    world.check_source()


def _trouble(world: World) -> None:
    """Begin what may go wrong for a while."""
    rng = world.rng
    if rng.random() < 0.5:
        world.network.weather = Weather(
            delay_s=rng.choice([0.001, 0.05, 1.0]), fault_chance=rng.choice([0.0, 0.2, 0.6])
        )
    if rng.random() < 0.45:
        group = rng.choice([*GROUPS, "syncs", "syncs"])
        number = errno.EIO if group == "reads" else rng.choice([errno.EIO, errno.ENOSPC])
        after = rng.randrange(60 if group in ("any", "content") else 8)
        disk = rng.choice(["server", "server", "client"])
        world.fail(disk, group, number, after, lasts=rng.choice([1, 1, 3, 30]))
    if rng.random() < 0.08:
        world.fill(rng.choice(["server", "client"]), True)


def _calm(world: World) -> None:
    world.network.weather = Weather()
    for disk in ("server", "client"):
        world.fail(disk, "any", errno.EIO, after=0, lasts=0)
        world.fill(disk, False)


def _crash(world: World) -> None:
    """End one side or both, and start it again some time later."""
    rng = world.rng
    power = rng.random() < 0.6
    names = rng.choice([["server"], ["server"], ["client"], ["server", "client"]])
    for name in names:
        after_calls = (
            None if rng.random() < 0.3 else rng.choice([rng.randrange(6), rng.randrange(60)])
        )
        world.crash(name, power=power, after_calls=after_calls)
    world.scheduler.sleep(rng.choice([0.0, 0.1, 20.0]) * rng.random())
    if rng.random() < 0.3:
        world.user.act()
    world.keep_running()


def _prove_durable(world: World) -> None:
    """Cut the power right after an acknowledgement: the server alone has everything."""
    rng = world.rng
    world.crash("client", power=rng.random() < 0.5, after_calls=None)
    world.crash("server", power=True, after_calls=None)
    world.start("server")
    world.await_listening()
    world.expect_equal("after a power cut that followed an acknowledgement")
    world.counts["acknowledgements proved durable"] += 1
    world.start("client")


def _prove_idempotent(world: World) -> None:
    """Nothing to do means that nothing is done."""
    world.converge()
    commits, changes = world.commits, world.signals.changes("server")
    world.scheduler.sleep(3.0)
    settled = world.signals.changes("server")
    world.converge()
    if world.commits != commits or world.signals.changes("server") != settled:
        raise BrokenError(
            f"with nothing to do, {world.commits - commits} batches were committed and"
            f" {world.signals.changes('server') - changes} calls changed the disk"
        )
