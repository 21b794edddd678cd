"""The storm: a digits service under attack, three ways of building it.

``python -m benchmarks.storm [--quick] [--minutes N] [--json FILE] [--plot FILE]``

Three servers, one after the other, each in a process of its own: plain ``jax.jit``;
``jax.jit`` behind a hand-written shape check and chex; safejax. An honest client asks
100 times a second, all the time. A hostile one, in another process and from another
address, attacks in seven ways in turn, at the same rates for all servers. Everything
runs on this machine, over loopback. The exit status is 1 if a figure breaks its limit.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import dataclasses
import gc
import itertools
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from benchmarks._harness import (
    OUT,
    ROOT,
    Limit,
    Row,
    machine_facts,
)
from benchmarks._storm_client import (
    ATTACKS,
    HONEST,
    Connections,
    Question,
    Sample,
    honest,
    post,
)
from benchmarks._storm_plot import plot

GROUP = "storm"
KINDS = {
    "plain": "jax.jit",
    "checked": "jax.jit, a shape check, chex",
    "safejax": "safejax",
}
_PER_S = 100.0
_STEP_S = 0.25


@dataclasses.dataclass(frozen=True, kw_only=True)
class Plan:
    """How long each part takes.

    Attributes:
        before_s: Honest requests alone, before each attack.
        attack_s: Together.
        after_s: Alone again, when the attack has ended.
        settle_s: How long a server may take to become quick again, before it is
            attacked once more.
        timeout_s: After so long an honest request is lost.
        rounds: How often all attacks are played.
        minutes: The same as a time, for each server; rules if it is not 0.
        kinds: Which servers.
    """

    before_s: float = 4.0
    attack_s: float = 6.0
    after_s: float = 2.0
    settle_s: float = 60.0
    timeout_s: float = 10.0
    rounds: int = 3
    minutes: float = 0.0
    kinds: tuple[str, ...] = tuple(KINDS)


QUICK = Plan(
    before_s=1.0,
    attack_s=1.5,
    after_s=0.5,
    settle_s=3.0,
    timeout_s=3.0,
    rounds=1,
    kinds=("plain", "safejax"),
)


# --- one server -------------------------------------------------------------------


class Server:
    """A server of one kind in its own process."""

    def __init__(self, kind: str, folder: Path) -> None:
        self.folder = folder
        command = [sys.executable, "-m", "benchmarks._storm_server", kind, str(folder)]
        self._process = subprocess.Popen(  # noqa: S603  our own module
            command,
            cwd=ROOT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=(folder / "log").open("wb"),
            env={**os.environ, "JAX_PLATFORMS": "cpu"},
            text=True,
        )
        assert self._process.stdout is not None
        self.port = int(self._process.stdout.readline() or "0")
        if not self.port:
            raise RuntimeError((folder / "log").read_text(errors="replace")[-2000:])

    def resident_mb(self) -> float:
        statm = Path(f"/proc/{self._process.pid}/statm").read_text(encoding="ascii")
        return int(statm.split()[1]) * os.sysconf("SC_PAGE_SIZE") / 1e6

    def cpu_s(self) -> float:
        stat = Path(f"/proc/{self._process.pid}/stat").read_text(encoding="ascii")
        user, system = stat.rpartition(")")[2].split()[11:13]
        return (int(user) + int(system)) / os.sysconf("SC_CLK_TCK")

    def compiled(self) -> int:
        return int((self.folder / "count").read_text(encoding="ascii"))

    def end(self) -> None:
        self._process.kill()
        self._process.communicate()


@contextlib.contextmanager
def _server(kind: str) -> Iterator[Server]:
    with tempfile.TemporaryDirectory() as folder:
        server = Server(kind, Path(folder))
        try:
            yield server
        finally:
            server.end()


async def _questions(port: int) -> list[Question]:
    """Requests whose answers the server has given before it was attacked."""
    from safejax.demo._digits import load  # noqa: PLC0415  brings JAX

    x = load(0).test_x
    single = [post("/predict", x[i : i + 1].tobytes()) for i in range(6)]
    many = [
        post(
            "/predict",
            json.dumps({"images": x[i : i + 8].tolist()}).encode(),
            "application/json",
        )
        for i in (8, 16)
    ]
    connections, questions = Connections(port, HONEST), []
    for request in (*single, *many):
        status, body = await connections.ask(request)
        assert status == 200, status
        questions.append(Question(request, tuple(json.loads(body)["digits"])))
    connections.close()
    return questions


@dataclasses.dataclass
class Phase:
    """What the honest client saw in one stretch of time."""

    attack: str
    part: str
    began_s: float
    seconds: float
    samples: list[Sample]
    compiled: int
    cpu_s: float
    mb: float
    hostile: int = 0

    def took_ms(self) -> list[float]:
        return [sample.took_s * 1e3 for sample in self.samples]

    def ends(self, end: str) -> int:
        return sum(sample.end == end for sample in self.samples)


class Run:
    """The storm over one server."""

    def __init__(self, server: Server, plan: Plan) -> None:
        self._server, self._plan = server, plan
        self._started = time.perf_counter()
        self.phases: list[Phase] = []
        self.memory: list[tuple[float, float]] = []

    async def go(self) -> None:
        plan = self._plan
        self._questions = await _questions(self._server.port)
        calm = await honest(self._server.port, 2.0, _PER_S, self._questions)
        self._calm_s = 3 * statistics.median(sample.took_s for sample in calm)
        watch = asyncio.create_task(self._watch())
        until = time.perf_counter() + plan.minutes * 60
        rounds = itertools.count() if plan.minutes else range(plan.rounds)
        for _ in rounds:
            for name in ATTACKS:
                hostile = self._attack(name)
                await asyncio.to_thread(hostile.stdout.readline)
                await self._settle()
                await self._phase(name, "before", plan.before_s)
                hostile.stdin.write("go\n")
                hostile.stdin.flush()
                await self._phase(name, "during", plan.attack_s)
                sent, _ = await asyncio.to_thread(hostile.communicate)
                self.phases[-1].hostile = int(sent)
                await self._restore()
                await self._phase(name, "after", plan.after_s)
            if plan.minutes and time.perf_counter() > until:
                break
        watch.cancel()

    async def _settle(self) -> None:
        """Waits until what the last attack has left behind is worked off."""
        until = time.perf_counter() + self._plan.settle_s
        quick = 0
        while quick < 10 and time.perf_counter() < until:
            (sample,) = await honest(
                self._server.port, 0.0, _PER_S, self._questions[:1]
            )
            quick = quick + 1 if sample.took_s < self._calm_s else 0

    def _attack(self, name: str) -> Any:
        """The hostile client, which prepares itself and then waits for a line."""
        module = ("-m", "benchmarks._storm_client")
        arguments = (name, str(self._server.port), str(self._plan.attack_s))
        return subprocess.Popen(  # noqa: S603  our own module
            [sys.executable, *module, *arguments, str(self._server.folder)],
            cwd=ROOT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    async def _phase(self, name: str, part: str, seconds: float) -> None:
        began, compiled = time.perf_counter(), self._server.compiled()
        cpu_s = self._server.cpu_s()
        samples = await honest(
            self._server.port,
            seconds,
            _PER_S,
            self._questions,
            timeout_s=self._plan.timeout_s,
        )
        self.phases.append(
            Phase(
                attack=name,
                part=part,
                began_s=began - self._started,
                seconds=seconds,
                samples=samples,
                compiled=self._server.compiled() - compiled,
                cpu_s=self._server.cpu_s() - cpu_s,
                mb=self._server.resident_mb(),
            )
        )

    async def _restore(self) -> None:
        """The good checkpoint back in its place, as an operator would put it."""
        folder = self._server.folder
        (folder / "fresh").write_bytes((folder / "good").read_bytes())
        (folder / "fresh").replace(folder / "current")
        connections = Connections(self._server.port, HONEST)
        with contextlib.suppress(OSError, asyncio.IncompleteReadError):
            await connections.ask(post("/reload", b""))
        connections.close()

    async def _watch(self) -> None:
        while True:
            now = time.perf_counter() - self._started
            self.memory.append((round(now, 2), self._server.resident_mb()))
            await asyncio.sleep(_STEP_S)


def storm(plan: Plan) -> dict[str, Run]:
    """Plays the whole on each server."""
    runs = {}
    for kind in plan.kinds:
        print(f"{KINDS[kind]} ...", end=" ", file=sys.stderr, flush=True)
        with _server(kind) as server:
            runs[kind] = Run(server, plan)
            gc.collect()
            gc.freeze()
            asyncio.run(runs[kind].go())
        print("done", file=sys.stderr, flush=True)
    return runs


# --- what it comes to -------------------------------------------------------------


def _percentile(values: Sequence[float], share: float) -> float:
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))]


def _quiet(run: Run) -> list[float]:
    return [t for p in run.phases if p.part == "before" for t in p.took_ms()]


def summary(run: Run) -> list[dict[str, Any]]:
    """A line for each attack: honest latency before, during, after."""
    lines = []
    for name in ATTACKS:
        parts = {
            part: [p for p in run.phases if (p.attack, p.part) == (name, part)]
            for part in ("before", "during", "after")
        }
        line: dict[str, Any] = {"attack": name}
        for part, phases in parts.items():
            took = [t for phase in phases for t in phase.took_ms()]
            count = sum(phase.ends("right") for phase in phases)
            line[part] = {
                "p50_ms": _percentile(took, 0.5),
                "p99_ms": _percentile(took, 0.99),
                "right_per_s": count / sum(phase.seconds for phase in phases),
                "wrong": sum(phase.ends("wrong") for phase in phases),
                "lost": sum(phase.ends("lost") for phase in phases),
                "refused": len(took)
                - sum(
                    p.ends(end) for p in phases for end in ("right", "wrong", "lost")
                ),
                "cpu_share": sum(p.cpu_s for p in phases)
                / sum(p.seconds for p in phases),
            }
        line["hostile"] = sum(phase.hostile for phase in parts["during"])
        line["compiled"] = sum(p.compiled for p in run.phases if p.attack == name)
        # Each round against its own quiet time: the machine may change meanwhile.
        line["ratios"] = [
            _percentile(during.took_ms(), 0.99) / _percentile(before.took_ms(), 0.99)
            for before, during in zip(parts["before"], parts["during"], strict=True)
        ]
        line["ratio"] = statistics.median(line["ratios"])
        lines.append(line)
    return lines


def _late_growth_mb(run: Run) -> float:
    """Growth over the second half of the storm."""
    half = run.memory[-1][0] / 2
    middle = next(mb for at, mb in run.memory if at >= half)
    return run.memory[-1][1] - middle


def rows(runs: dict[str, Run], *, quick: bool) -> list[Row]:
    """The rows of the table of benchmarks."""
    found = []
    for kind, run in runs.items():
        for line in summary(run):
            safe = kind == "safejax"
            during = line["during"]
            found.append(
                Row(
                    group=GROUP,
                    name=f"{KINDS[kind]}: p99 under: {ATTACKS[line['attack']].title}",
                    unit="x",
                    samples=tuple(line["ratios"]),
                    # A hundred requests have one slowest, which the machine decides.
                    limit=Limit(10.0 if quick else 1.3) if safe else None,
                    note=f"{during['p99_ms']:.1f} ms; {during['wrong']} wrong, "
                    f"{during['lost']} lost, {line['compiled']} compiled by "
                    f"{line['hostile']:,} hostile requests",
                )
            )
        found += _totals(kind, run, quick=quick)
    return found


def _totals(kind: str, run: Run, *, quick: bool) -> list[Row]:
    zero = Limit(0.0) if kind == "safejax" else None
    phases = run.phases
    asked = sum(len(phase.samples) for phase in phases)
    wrong = sum(phase.ends("wrong") for phase in phases)
    lost = asked - wrong - sum(phase.ends("right") for phase in phases)  # or refused
    # A short run gives up early, and what else the machine does counts.
    some = zero and Limit(0.05 if quick else 0.0)
    figures = {
        "honest requests answered wrongly": (float(wrong), "", zero),
        "honest requests lost or refused, of all": (lost / asked, "", some),
        "programs compiled": (float(sum(p.compiled for p in phases)), "", zero),
        "growth in the second half": (
            _late_growth_mb(run), "MB", Limit(10.0) if zero else None
        ),
    }  # fmt: skip
    return [
        Row(
            group=GROUP,
            name=f"{KINDS[kind]}: {name}",
            unit=unit,
            samples=(value,),
            limit=limit,
        )
        for name, (value, unit, limit) in figures.items()
    ]


async def _alternating(ports: Sequence[int], rounds: int, each: int) -> list[Any]:
    """The median time of an honest request, for each server in each round."""
    questions = await _questions(ports[0])
    connections = [Connections(port, HONEST) for port in ports]
    found = []
    for _ in range(rounds + 1):
        took: list[list[float]] = [[] for _ in ports]
        for number in range(each):
            request = questions[number % len(questions)].request
            # As seldom as the honest client asks, which is below the service's limit.
            await asyncio.sleep(1 / _PER_S)
            # A B, then B A: neither is always the one that comes second.
            for i in (0, 1) if number % 2 else (1, 0):
                began = time.perf_counter()
                status, _ = await connections[i].ask(request)
                took[i].append(time.perf_counter() - began)
                assert status == 200
        found.append([statistics.median(times) * 1e3 for times in took])
    return found[1:]


def quiet_pair(*, quick: bool) -> Row:
    """The safejax server beside the plain one, both up, asked in turns."""
    with _server("plain") as plain, _server("safejax") as ours:
        found = asyncio.run(
            _alternating((plain.port, ours.port), 5 if quick else 21, 100)
        )
    medians = [statistics.median(times) for times in zip(*found, strict=True)]
    return Row(
        group=GROUP,
        name="honest p50 without attack, against the plain server",
        unit="x",
        samples=tuple(mine / other for other, mine in found),
        limit=Limit(1.2 if quick else 1.03),
        note=f"{medians[1]:.2f} ms, plain {medians[0]:.2f}",
    )


# --- the command ------------------------------------------------------------------


def _document(runs: dict[str, Run], plan: Plan) -> dict[str, Any]:
    return {
        "machine": machine_facts(),
        "plan": dataclasses.asdict(plan),
        "honest_per_s": _PER_S,
        "attacks": {
            name: {"title": attack.title, "per_s": attack.per_s}
            for name, attack in ATTACKS.items()
        },
        "servers": {
            kind: {
                "title": KINDS[kind],
                "quiet_p50_ms": _percentile(_quiet(run), 0.5),
                "quiet_p99_ms": _percentile(_quiet(run), 0.99),
                "attacks": summary(run),
                "memory": run.memory,
                "phases": [
                    {
                        "attack": phase.attack,
                        "part": phase.part,
                        "began_s": round(phase.began_s, 3),
                        "seconds": phase.seconds,
                        "at_s": [
                            round(s.at_s - run._started, 3) for s in phase.samples
                        ],
                        "took_ms": [round(t, 3) for t in phase.took_ms()],
                    }
                    for phase in run.phases
                ],
            }
            for kind, run in runs.items()
        },
    }


def _table(runs: dict[str, Run]) -> str:
    head = "| attack | " + " | ".join(KINDS[kind] for kind in runs) + " |"
    lines = [head, "|---" * (len(runs) + 1) + "|"]
    quiet = [
        f"{_percentile(_quiet(r), 0.5):.1f}; {_percentile(_quiet(r), 0.99):.1f} ms"
        for r in runs.values()
    ]
    lines.append("| none: p50; p99 | " + " | ".join(quiet) + " |")
    by_kind = {kind: summary(run) for kind, run in runs.items()}
    for i, attack in enumerate(ATTACKS.values()):
        cells = []
        for found in by_kind.values():
            during = found[i]["during"]
            cell = f"{during['p99_ms']:,.1f} ms ({found[i]['ratio']:,.1f} x)"
            bad = {k: during[k] for k in ("wrong", "lost", "refused") if during[k]}
            cell += "".join(f", {count} {kind}" for kind, count in bad.items())
            cells.append(cell)
        lines.append(f"| {attack.title}: p99 | " + " | ".join(cells) + " |")
    for name, cells in {
        "programs compiled": [
            f"{sum(p.compiled for p in run.phases):,}" for run in runs.values()
        ],
        "memory at the start; at the end": [
            f"{run.memory[0][1]:,.0f}; {run.memory[-1][1]:,.0f} MB"
            for run in runs.values()
        ],
        "growth in the second half": [
            f"{_late_growth_mb(run):,.1f} MB" for run in runs.values()
        ],
    }.items():
        lines.append(f"| {name} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command; its exit status."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.storm")
    parser.add_argument("--quick", action="store_true", help="some seconds an attack")
    parser.add_argument(
        "--minutes", type=float, default=0.0, help="go round for so long, each server"
    )
    parser.add_argument("--rounds", type=int, default=0, help="instead of three")
    parser.add_argument("--pair", action="store_true", help="nothing but the quiet p50")
    parser.add_argument("--kinds", nargs="+", choices=KINDS, help="leave others out")
    parser.add_argument("--json", type=Path, metavar="FILE", help="all figures")
    parser.add_argument("--plot", type=Path, metavar="FILE", help="draw it (SVG)")
    options = parser.parse_args(arguments)
    plan = dataclasses.replace(
        QUICK if options.quick else Plan(), minutes=options.minutes
    )
    if options.rounds:
        plan = dataclasses.replace(plan, rounds=options.rounds)
    if options.kinds:
        plan = dataclasses.replace(plan, kinds=tuple(options.kinds))
    if options.pair:
        pair = quiet_pair(quick=options.quick)
        print(f"{pair.name}: {pair.median:.3f} {pair.quartiles}; {pair.note}")
        return 0
    runs = storm(plan)
    document = _document(runs, plan)
    OUT.mkdir(exist_ok=True)
    for target in {OUT / "storm.json", options.json} - {None}:
        target.write_text(json.dumps(document) + "\n", encoding="utf-8")
    if options.plot:
        print(plot(document, options.plot), file=sys.stderr)
    print(_table(runs))
    if {"plain", "safejax"} - set(runs):
        return 0
    found = [quiet_pair(quick=options.quick), *rows(runs, quick=options.quick)]
    print(f"\n{found[0].name}: {found[0].median:.3f} ({found[0].note})")
    tolerance = 1.3 if options.quick else 1.0
    missed = [row for row in found if row.verdict(tolerance) == "MISSED"]
    for row in missed:
        print(f"missed: {row.name}: {row.median:.2f}", file=sys.stderr)
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main())
