"""The demo, chapter by chapter. Each does what a user would do, and says what it did."""

from __future__ import annotations

import asyncio
import json
import statistics
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from feilun.demo import traffic
from feilun.demo.audit import Audit, audit
from feilun.demo.commands import MemoryWatch, Shell
from feilun.demo.traffic import Answer, Customer, Sentence
from feilun.errors import StepError
from feilun.serve import background
from feilun.show import interval, print_table, say, short
from feilun.store.money import format_about, format_money

DOMAINS = ("films", "products", "tweets", "editorials")
CLIENTS = 8  # connections of each customer
BATCH = 2  # sentences in a request
SENT = 1_500  # sentences of each customer before the wheel turns
CORRECTED = 0.8  # share of their requests that the two customers correct
PAUSE = 0.25  # seconds between requests of a customer while the model learns


@dataclass
class Turn:
    """What is known so far; it becomes ``turn.json``."""

    shell: Shell
    folder: Path
    seconds: dict[str, float] = field(default_factory=dict)
    steps: dict[str, Any] = field(default_factory=dict)
    customers: list[Customer] = field(default_factory=list)
    steady: list[Answer] = field(default_factory=list)
    during: list[Answer] = field(default_factory=list)
    before: dict[str, Any] = field(default_factory=dict)
    after: dict[str, Any] = field(default_factory=dict)
    decision: dict[str, Any] = field(default_factory=dict)
    invoices: list[dict[str, Any]] = field(default_factory=list)
    audited: Audit | None = None

    def learn(self, told: dict[str, Any]) -> None:
        """Remember each step as it was first told: a step that this demo ran is reused by its own later commands."""
        for step in told["steps"]:
            self.steps.setdefault(step["step"], step)

    @contextmanager
    def chapter(self, name: str, title: str) -> Iterator[None]:
        """Announce a chapter and keep its time."""
        say(f"\n[bold cyan]{len(self.seconds) + 1}. {name}[/bold cyan]  {title}")
        begun = time.perf_counter()
        yield
        self.seconds[name] = round(time.perf_counter() - begun, 2)
        say(f"   [dim]{self.seconds[name]:.1f} s[/dim]")


def tell(project: Path, folder: Path, *, stay: bool = False) -> dict[str, Any]:
    """Turn the wheel once and return the summary, which is also in ``folder/turn.json``.

    Args:
        project: the folder of ``examples/reviews``.
        folder: where artefacts, the ledger and the summary go. Artefacts are kept and reused; the ledger begins anew.
        stay: leave the gateway running until Ctrl-C.
    """
    folder.mkdir(parents=True, exist_ok=True)
    for old in folder.glob("home/feilun.db*"):  # the demo's own ledger: a second demo begins with empty books
        old.unlink()
    echo = lambda line: say(f"   [dim]$ {line}[/dim]")  # noqa: E731
    turn = Turn(Shell(project, {"FEILUN_HOME": str(folder / "home"), **_pepper()}, echo), folder)
    begun = time.perf_counter()
    with MemoryWatch() as memory:
        build(turn)
        port = background.free_port()
        turn.shell.echo(f"feilun serve --port {port}")
        with background.start(
            project, folder / "gateway.log", port=port, environment=turn.shell.environment
        ) as running:
            url = running.url
            welcome_customers(turn)
            serve(turn, url)
            feedback(turn, url)
            relearn(turn, url)
            bill(turn)
            trace(turn)
            turn.seconds["total"] = round(time.perf_counter() - begun, 2)
            summary = summarise(turn, memory.peak_bytes)
            if stay:
                say(f"\nthe gateway stays up at [bold]{url}[/bold] (Ctrl-C ends it)")
                say(f"a key: {turn.customers[0].key}")
                running.process.wait()
    return summary


def build(turn: Turn) -> None:
    """Chapters one to four: from rated sentences to a release."""
    stages = (
        (
            "prepare",
            "sentences that people rated -1 or less are negative, 1 or more positive; clean, deduplicate, split",
        ),
        ("finetune", "train the upper layers of MiniLM on film reviews"),
        ("compress", "to int8, and prove that it still says the same"),
        ("evaluate", "held-out sentences, 95 % intervals, and the gate"),
    )
    for stage, title in stages:
        with turn.chapter(stage, title):
            turn.learn(turn.shell.feilun("run", "--until", stage))
            _show_stage(turn, stage)
    turn.learn(turn.shell.feilun("run"))
    reused = sum(step["reused"] for step in turn.steps.values())
    say(f"   the release is registered; {reused} of {len(turn.steps)} steps were known from an earlier run")
    reports = [told["path"] for name, told in turn.steps.items() if name.startswith("evaluate.")]
    for path in reports:  # of the compressed model, which is the one that answers
        turn.before |= json.loads((Path(path) / "report.json").read_text("utf-8"))["domains"]
    _show_domains("the served model, on each domain's held-out sentences", {"before": turn.before})


def welcome_customers(turn: Turn) -> None:
    """Three tenants, each with a plan and a key of its own."""
    plans = (
        ("shopwise", "starter", "products", True),
        ("chirp", "growth", "tweets", True),
        ("gazette", "metered", "editorials", False),
    )
    for tenant, plan, domain, corrects in plans:
        turn.shell.feilun("tenant", "add", tenant, "--plan", plan)
        customer = Customer(tenant, plan, domain, corrects)
        customer.key = turn.shell.feilun("key", "create", tenant, quiet=True)["key"]
        customer.sentences = _sentences(turn, domain)
        turn.customers.append(customer)


def serve(turn: Turn, url: str) -> None:
    """Every customer sends sentences of its own domain; every answer is in the ledger before it leaves."""

    async def everyone() -> None:
        await asyncio.gather(
            *(traffic.send(url, c, c.take(SENT), clients=CLIENTS, batch=BATCH) for c in turn.customers)
        )
        await traffic.replay(url, turn.customers[0], 5)

    with turn.chapter("serve", "three customers send what their users wrote"):
        asyncio.run(everyone())
        turn.steady = [a for c in turn.customers for a in c.answers if not a.replayed]
        rows = []
        for customer in turn.customers:
            mine = [a for a in customer.answers if not a.replayed]
            right = [a == s.label for answer in mine for a, s in zip(answer.labels, answer.sentences, strict=True)]
            paid = format_money(sum(a.amount_nano for a in mine), "USD")
            rows.append(
                [customer.tenant, customer.plan, customer.domain, len(mine), len(right), sum(right) / len(right), paid]
            )
        print_table("traffic", ["customer", "plan", "sends", "requests", "sentences", "accuracy", "metered"], rows)
        took = _latency(turn.steady)
        say(f"   latency p50 {took['p50']} ms, p99 {took['p99']} ms at {CLIENTS * 3} clients")


def feedback(turn: Turn, url: str) -> None:
    """Two of the customers tell what would have been right."""
    with turn.chapter("feedback", "two customers correct part of the answers, with their authors' consent"):
        for customer in turn.customers:
            if customer.corrects:
                mine = [a for a in customer.answers if not a.replayed]
                some = sorted(mine, key=lambda a: a.key)[: round(CORRECTED * len(mine))]
                count = asyncio.run(traffic.correct(url, customer, some))
                wrong = sum(label != s.label for a in some for label, s in zip(a.labels, a.sentences, strict=True))
                say(f"   {customer.tenant}: {count} human ratings, {wrong} of them disagree with the answer")


def relearn(turn: Turn, url: str) -> None:
    """Learn, decide and promote while all three customers go on sending."""
    with turn.chapter("relearn", "learn from the corrections while traffic runs, decide, swap"):
        done = threading.Event()
        marks = [len(c.answers) for c in turn.customers]
        sender = threading.Thread(
            target=lambda: asyncio.run(traffic.keep_sending(url, turn.customers, done.is_set, PAUSE)), daemon=True
        )
        sender.start()
        try:
            told = turn.shell.feilun("relearn", "reviews")
            time.sleep(2.0)  # traffic on the new release, and the old one finishing what it began
        finally:
            done.set()
            sender.join()
        turn.during = [a for c, mark in zip(turn.customers, marks, strict=True) for a in c.answers[mark:]]
        turn.decision = told["decision"] | {
            "promoted": told["promoted"],
            "champion": told["champion"],
            "candidate": told["candidate"],
        }
        for reason in turn.decision["reasons"]:
            say(f"   {reason}")
        say(f"   verdict: [bold]{turn.decision['verdict']}[/bold]")
        champion = sum(a.release == told["champion"] for a in turn.during)
        others = len(turn.during) - champion
        say(
            f"   answered meanwhile: {champion} requests by {short(told['champion'])}, then {others} by the new release"
        )
    turn.after = turn.shell.feilun("releases", "evaluate", "reviews")["domains"]
    _show_domains("the served model, before and after the turn", {"before": turn.before, "after": turn.after})


def bill(turn: Turn) -> None:
    """Close the books and see who earned what."""
    with turn.chapter("bill", "an invoice for each customer, and what it really earned"):
        told = turn.shell.feilun("bill", "--close", "--now")
        margins = {m["name"]: m for m in told["margin"]["rows"]}
        for invoice in told["invoices"]:
            margin = margins[invoice["tenant"]]
            turn.invoices.append(
                {
                    "number": invoice["number"],
                    "tenant": invoice["tenant"],
                    "currency": invoice["currency"],
                    "amount_nano": invoice["total_nano"],
                    "serving_cost_nano": margin["serving_nano"],
                    "training_cost_nano": margin["training_nano"],
                    "cost_nano": margin["cost_nano"],
                    "margin_nano": margin["margin_nano"],
                    "amount": format_money(invoice["total_nano"], invoice["currency"]),
                    "cost": format_about(margin["cost_nano"], invoice["currency"]),
                    "margin": format_about(margin["margin_nano"], invoice["currency"]),
                    "lines": invoice["lines"],
                }
            )
        rows = [[i["number"], i["tenant"], i["amount"], i["cost"], i["margin"]] for i in turn.invoices]
        print_table("invoices", ["number", "customer", "amount", "all it cost", "margin"], rows)
        for line in turn.invoices[0]["lines"]:
            say(f"   {line['id']}  {line['description']}: {line['arithmetic']}")


def trace(turn: Turn) -> None:
    """One line back to the people behind it, and one person forward to every line."""
    with turn.chapter("trace", "one invoice line back to its examples, one contributor forward to the money"):
        release = turn.decision["candidate"] if turn.decision["promoted"] else turn.decision["champion"]
        lines = (line for invoice in turn.invoices for line in invoice["lines"])
        line = next(line for line in lines if line["release"] == release)
        back = turn.shell.feilun("trace", line["id"])
        say(
            f"   {line['id']} <- {back['usage']['rows']} requests <- release {short(line['release'])} "
            f"<- {len(back['models'])} models <- {back['examples']:,} examples of {back['contributors']:,} people; "
            f"{back['feedback']['rows']} are corrections; "
            f"{back['feedback']['consent_in_force']:,} of their authors consent, "
            f"{back['feedback']['consent_withdrawn']:,} have withdrawn"
        )
        author = next(c for c in turn.customers if c.corrects).answers[0].sentences[0].contributor
        forward = turn.shell.feilun("trace", author)
        say(
            f"   {author} -> {sum(d['train'] for d in forward['datasets'])} training rows "
            f"-> {len(forward['models'])} models -> {len(forward['releases'])} releases "
            f"-> {len(forward['lines'])} invoice lines"
        )


def summarise(turn: Turn, peak_bytes: int) -> dict[str, Any]:
    """Check the ledger against the customers' logs, write ``turn.json``, and say how it went."""
    from feilun.flywheel import Flywheel

    checked = turn.during + turn.steady[:500]
    with Flywheel(turn.shell.project, home=turn.folder / "home") as wheel:
        turn.audited = audit(wheel.store, turn.customers, checked)
    summary = {
        "before": turn.before,
        "after": turn.after,
        "requests": asdict(turn.audited),
        "latency_ms": {"steady": _latency(turn.steady), "while_learning": _latency(turn.during)}
        | _latency(turn.steady),
        "decision": turn.decision,
        "invoices": turn.invoices,
        "seconds": turn.seconds,
        "peak_memory_mb": round(peak_bytes / 2**20),
        "steps_reused": sum(step["reused"] for step in turn.steps.values()),
        "steps": len(turn.steps),
    }
    (turn.folder / "turn.json").write_text(json.dumps(summary, indent=2, ensure_ascii=False) + "\n", "utf-8")
    print_table("the ledger against the customers' own logs", ["requests", "count"], list(asdict(turn.audited).items()))
    say(
        f"   {turn.seconds['total']:.0f} s, peak memory {summary['peak_memory_mb']} MB; "
        f"all of it in {turn.folder / 'turn.json'}"
    )
    bad = {
        k: v
        for k, v in asdict(turn.audited).items()
        if k in ("missing", "duplicated", "dropped_in_swap", "wrong_release") and v
    }
    if bad:
        raise StepError(f"the ledger and the customers disagree: {bad}", where=str(turn.folder / "turn.json"))
    return summary


def _pepper() -> dict[str, str]:
    import secrets

    return {"FEILUN_PEPPER": secrets.token_hex(32)}  # keys of the demo live as long as the demo


def _sentences(turn: Turn, domain: str) -> list[Sentence]:
    """The training side of a domain's rated sentences: what is held out stays unseen."""
    import polars as pl

    frame = pl.read_parquet(Path(turn.steps[f"prepare.{domain}"]["path"]) / "data.parquet").filter(
        pl.col("split") == "train"
    )
    return [Sentence(row["text"], row["label"], row["contributor"]) for row in frame.iter_rows(named=True)]


def _latency(answers: list[Answer]) -> dict[str, float]:
    cuts = statistics.quantiles([a.seconds * 1000 for a in answers], n=100)
    return {"p50": round(cuts[49], 1), "p99": round(cuts[98], 1)}


def _show_stage(turn: Turn, stage: str) -> None:
    steps = {name: told for name, told in turn.steps.items() if name.startswith(stage + ".")}
    for name, told in steps.items():
        how = "reused" if told["reused"] else f"{told['seconds']:.1f} s"
        say(f"   [bold]{name}[/bold] {short(told['digest'])} ({how})")
    if stage == "prepare":
        cards = {n: json.loads((Path(t["path"]) / "card.json").read_text("utf-8")) for n, t in steps.items()}
        rows = [[n.split(".")[1], *_card_counts(card)] for n, card in cards.items()]
        print_table(
            "prepared",
            ["domain", "rows in", "exact duplicates", "near duplicates", "leaks removed", "train", "test"],
            rows,
        )
    if stage == "compress":
        parity = json.loads((Path(steps["compress.reviews"]["path"]) / "parity.json").read_text("utf-8"))
        say(f"   {_parity(parity)}")


def _card_counts(card: dict[str, Any]) -> list[int]:
    removed = card["removed"]
    exact = removed["exact_duplicates"] + removed["tied_labels"] + removed["outvoted_labels"]
    splits = [sum(card["labels"].get(split, {}).values()) for split in ("train", "test")]
    return [card["rows_read"], exact, removed["near_duplicates"], removed["leaked_into_train"], *splits]


def _parity(parity: dict[str, Any]) -> str:
    before, after = (parity["bytes"][when] / 2**20 for when in ("before", "after"))
    return (
        f"{before:.0f} -> {after:.0f} MiB; {1 - parity['disagreement']:.1%} of {parity['n']:,} answers are the same, "
        f"macro-F1 {parity['before']['macro_f1']:.3f} -> {parity['after']['macro_f1']:.3f}"
    )


def _show_domains(title: str, columns: dict[str, dict[str, Any]]) -> None:
    for metric, name in (("macro_f1", "macro-F1"), ("accuracy", "accuracy")):
        rows = [[domain, *(interval(figures[domain][metric]) for figures in columns.values())] for domain in DOMAINS]
        print_table(f"{name} of {title}", ["domain", *columns], rows)
