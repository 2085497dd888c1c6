"""The database goes away, its link goes silent, the gateway is told to stop (cases 14, 15, 16)."""

from __future__ import annotations

import random
import threading
import time

from faults import checks
from faults.counting import Count, Setup, case
from faults.crashes import CLIENTS, LEASE, crowd, fleet
from faults.house import House, Running, readiness, start, wait_until_ready
from faults.load import Clients
from faults.postgres import Server
from faults.proxy import Proxy

A_ROUND = 10
RECOVERY_S = 15.0  # how long after the database is back the first answer may take
BOUND_S = 20.0  # no attempt of a client may take longer while the link is silent
WAYS = ("restart", "immediate", "kill")


def answered_since(crowds: list[Clients], before: int, timeout: float) -> bool:
    """Whether answers flow again."""
    end = time.monotonic() + timeout
    while time.monotonic() < end:
        if sum(len(c.answers) for c in crowds) > before + CLIENTS:
            return True
        time.sleep(0.05)
    return False


def outage(server: Server, way: str, chance: random.Random) -> None:
    """Take the database away, for up to a second, and bring it back."""
    if way == "kill":
        server.kill()
    else:
        server.stop("fast" if way == "restart" else "immediate")
    time.sleep(chance.uniform(0.0, 1.0))
    server.start()


def outage_round(setup: Setup, server: Server, times: int, seed: int) -> list[str]:
    """``times`` outages on one database under load, then all invariants."""
    chance = random.Random(seed)
    broken = []
    with setup.house() as house, fleet(house, 2) as gateways:
        with crowd(house, gateways.bases, seed) as crowds:
            for number in range(times):
                time.sleep(chance.uniform(0.2, 1.0))
                way = WAYS[number % len(WAYS)]
                outage(server, way, chance)
                before = sum(len(c.answers) for c in crowds)
                if not answered_since(crowds, before, RECOVERY_S):
                    broken.append(f"no answers {RECOVERY_S:.0f} s after the database was back ({way})")
        broken += [f"gateway ended with {g.process.poll()}" for g in gateways.running if g.process.poll() is not None]
        broken += checks.everything(house, *crowds)
        if any('"unexpected"' in g.log.read_text() for g in gateways.running):
            broken.append("a gateway met something unexpected")
        return broken + ([f"{crowds[0].lost} patient clients were never answered"] if crowds[0].lost else [])


@case(14, "PostgreSQL restarted, stopped at once and killed in mid-load: only 503 meanwhile", ("postgresql",))
def database_outages(setup: Setup) -> Count:
    """Restarts, crashes that it knows of, and kill -9, in turn."""
    count = Count(notes=[f"in turn: {', '.join(WAYS)}"])
    assert setup.server is not None
    left = setup.times(51, 3)
    while left > 0:
        times = min(A_ROUND, left)
        count.trial(outage_round(setup, setup.server, times, setup.seed + left), times)
        left -= times
    return count


@case(15, "the link to the database is silent for 30 s: bounded, 503, recovers", ("postgresql",))
def silent_link(setup: Setup) -> Count:
    """Each silence is a trial."""
    count = Count()
    assert setup.server is not None
    silence = 30.0 if not setup.quick else 12.0
    for number in range(setup.times(3, 1)):
        with setup.house() as house, Proxy(setup.server.port) as proxy:
            house.tenant("globex", plan="starter")
            through = house.url.replace(f":{setup.server.port}/", f":{proxy.port}/")
            behind = House(through, house.folder, house.database, house.store, house.release, house.tokens)
            behind.nursery = setup.nursery
            with fleet(behind, 1) as gateways:
                clients = Clients(gateways.bases, list(house.tokens.values()), giving_up=90, timeout=60)
                with clients.at_work(8, setup.seed + number):
                    time.sleep(1.0)
                    proxy.passes.clear()
                    time.sleep(0.2)
                    red = _is_red(gateways.running[0], silence - 1)
                    time.sleep(max(0.0, silence - red))
                    proxy.passes.set()
                    flows = answered_since([clients], len(clients.answers), RECOVERY_S)
                broken = checks.everything(house, clients)
                broken += [] if red < silence - 1 else ["readyz did not become red"]
                broken += [] if flows else [f"no answers {RECOVERY_S:.0f} s after the link was back"]
                broken += [] if clients.slowest < BOUND_S else [f"a client waited {clients.slowest:.1f} s"]
                broken += [] if clients.refused[503] else ["nobody was told 503"]
                count.trial(broken)
                count.notes.append(
                    f"{silence:.0f} s: readyz red after {red:.1f} s, the longest attempt {clients.slowest:.1f} s, "
                    f"refused {dict(clients.refused)}"
                )
    return count


def _is_red(running: Running, most: float) -> float:
    begun = time.monotonic()
    while time.monotonic() - begun < most:
        if readiness(running, most) == 503:
            break
        time.sleep(0.2)
    return time.monotonic() - begun


@case(16, "SIGTERM under load: readyz red, what is in flight is finished, nothing is lost")
def told_to_stop(setup: Setup) -> Count:
    """A gateway of two is told to stop while clients without patience ask it; its successor is there before."""
    count = Count()
    for number in range(setup.times(20, 2)):
        with setup.house() as house:
            leaving = start(house, **LEASE)
            clients = Clients([leaving.base], list(house.tokens.values()), giving_up=5)
            reds: list[int] = []
            with clients.at_work(CLIENTS, setup.seed + number):
                time.sleep(random.Random(setup.seed + number).uniform(0.5, 1.5))
                staying = start(house, wait=False, **LEASE)
                wait_until_ready(staying)
                clients.bases.append(staying.base)
                watcher = threading.Thread(target=_watch, args=(leaving, reds))
                watcher.start()
                clients.bases.remove(leaving.base)
                code = leaving.stop()
                watcher.join()
                time.sleep(0.3)
            staying.kill()
            broken = checks.everything(house, clients)
            broken += [] if code == 0 else [f"it ended with {code}"]
            broken += [] if clients.broken_off == 0 else [f"{clients.broken_off} requests were broken off"]
            broken += ["something unexpected"] if '"unexpected"' in leaving.log.read_text() else []
            broken += [] if set(reds) <= {200, 503} else [f"readyz said {sorted(set(reds))}"]
            count.trial(broken)
    return count


def _watch(running: Running, said: list[int]) -> None:
    while (status := readiness(running, 2.0)) is not None:
        said.append(status)
        time.sleep(0.005)
