"""A pair that works for a long time; a part of the torture run that goes on beside all others."""

from __future__ import annotations

import random
import statistics
import threading
import time
from collections import Counter
from contextlib import suppress
from pathlib import Path

from tests.e2e.harness import LIMIT_S, Pair
from tests.soak.flatness import BOUNDS, IDLE_BOUNDS, can_be_judged, growth
from tests.soak.gauge import Sample, measure
from tests.soak.load import Load
from tests.torture.outcome import Failure, Outcome

SHARE = None
_MOST_LATE_S = 4 * LIMIT_S
_QUIET_S = 3.0
_PAUSES_S = (0.05, 0.2, 0.5, 1.0, 2.0)
_EVENTS = ("cut", "cut", "client", "server")
"""What happens now and then; restarts in the first third only, so that a leak shows in the rest."""


class Soak:
    """One run of a pair under load, and what was measured in it."""

    def __init__(self, seed: int, seconds: float, work: Path) -> None:
        self.samples: list[Sample] = []
        self.idle_samples: list[Sample] = []
        self.figures: Counter[str] = Counter()
        self.faults: list[str] = []
        self._seconds = seconds
        self._random = random.Random(f"soak {seed}")
        self._pair = Pair(work / "pair")
        self._load = Load(self._pair.source, self._random)
        self._keep = f"{max(2, int(seconds / 15))}s"
        self._every_s = min(10.0, max(0.5, seconds / 360))
        self._compare_every_s = min(180.0, max(4.0, seconds / 15))
        self._event_every_s = min(120.0, max(3.0, seconds / 15))
        self._began_s = 0.0
        self._restarting = threading.Lock()
        self._ended = threading.Event()

    @property
    def now_s(self) -> float:
        """Seconds since the load began."""
        return time.monotonic() - self._began_s

    def run(self) -> None:
        """Work for the time given, then compare once more and end both sides."""
        pair = self._pair
        gauge = threading.Thread(target=self._measure_forever)
        try:
            pair.start_server("--keep", self._keep)
            proxy = pair.proxy()
            self._proxy = proxy
            pair.start_client(proxy=proxy).expect("in_sync")
            self._began_s = time.monotonic()
            gauge.start()
            self._work()
            self._compare()
            self._end()
        except AssertionError as error:
            self.faults.append(str(error))
        finally:
            self._ended.set()
            if gauge.ident is not None:
                gauge.join()
            with suppress(AssertionError):
                pair.close()
        self._judge()

    def _work(self) -> None:
        compare_s, event_s = self._compare_every_s, self._event_every_s
        while self.now_s < self._seconds:
            self._load.step()
            self._check_alive()
            if self.now_s > event_s:
                event_s = self.now_s + self._event_every_s * (0.5 + self._random.random())
                self._disturb()
            if self.now_s > compare_s:
                compare_s = self.now_s + self._compare_every_s
                self._compare()
            time.sleep(self._random.choice(_PAUSES_S) * min(1.0, self._seconds / 60))

    def _check_alive(self) -> None:
        assert self._pair.server.alive, self._pair.server.describe()
        assert self._pair.client.alive, self._pair.client.describe()

    def _disturb(self) -> None:
        event = self._random.choice(_EVENTS)
        if self.now_s > self._seconds / 3:
            event = "cut"
        self.figures[f"disturbances/{event}"] += 1
        if event == "cut":
            self._proxy.cut()
            return
        with self._restarting:
            if event == "client":
                assert self._pair.client.terminate()[0] == 0, self._pair.client.describe()
                self._pair.start_client(proxy=self._proxy)
            else:
                assert self._pair.server.terminate()[0] == 0, self._pair.server.describe()
                self._pair.restart_server("--keep", self._keep)
        self._pair.expect_answering()

    def _compare(self) -> None:
        """Wait until all is durable, compare, and measure what is held while nothing is to do."""
        result = self._pair.wait(_MOST_LATE_S)
        assert result.code == 0, (result, self._pair.client.describe())
        found = self._pair.differences()
        assert found == [], found
        self.figures["comparisons"] += 1
        time.sleep(_QUIET_S)
        self.idle_samples.append(measure(self._pair, self.now_s))

    def _measure_forever(self) -> None:
        while not self._ended.wait(self._every_s):
            # A side that has ended is a fault that the load finds.
            with self._restarting, suppress(OSError):
                self.samples.append(measure(self._pair, self.now_s))

    def _end(self) -> None:
        drift = [*self._pair.client.events("drift"), *self._pair.server.events("message")]
        assert not drift, drift
        with self._restarting:
            for running in (self._pair.client, self._pair.server):
                code, _ = running.terminate()
                assert code == 0, running.describe()

    def _judge(self) -> None:
        end_s = self._seconds
        if can_be_judged(self.samples, end_s):
            self.figures["judged"] = 1
            self.faults += growth(self.samples, BOUNDS, end_s)
            self.faults += growth(self.idle_samples, IDLE_BOUNDS, end_s)
        self.figures["operations"] = sum(self._load.done.values())
        self.figures["samples"] = len(self.samples)

    def outcome(self, seed: int) -> Outcome:
        """Return the figures, and all faults as one failure with the series that show them."""
        figures = {name: float(count) for name, count in self.figures.items()}
        figures |= {f"operations/{name}": float(n) for name, n in self._load.done.items()}
        for name in BOUNDS | IDLE_BOUNDS:
            series = [sample[name] for sample in self.samples]
            if series:
                figures[f"{name}/max"] = max(series)
                figures[f"{name}/median"] = statistics.median(series)
        if not self.faults:
            return Outcome(figures, [])
        told = "\n".join(
            [*self.faults, *map(str, self.samples[:: max(1, len(self.samples) // 40)])]
        )
        replay = f"python -m tests.torture --only soak --seed {seed}"
        return Outcome(figures, [Failure(f"soak, seed {seed}", replay, told)])


def run(seed: int, seconds: float, work: Path) -> Outcome:
    """Work for so long, judge what was measured."""
    soak = Soak(seed, seconds, work)
    soak.run()
    return soak.outcome(seed)
