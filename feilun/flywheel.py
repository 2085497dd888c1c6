"""The wheel in one screen: the stages in order, and the verbs that a command line, a notebook or a page calls.

prepare -> finetune -> evaluate -> compress -> serve -> bill
   ^                                             |
   +------------- relearn <------ feedback <-----+
"""

from __future__ import annotations

import os
import re
import threading
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from sqlalchemy import select
from ulid import ULID

import feilun.compress.step  # each registers its step
import feilun.evaluate.step
import feilun.feedback.step
import feilun.finetune.step
import feilun.prepare.step
import feilun.relearn.step
import feilun.serve.step
import feilun.trials.step  # noqa: F401
from feilun import catalog, turn
from feilun.accounts import keys, tenants
from feilun.accounts.terms import Terms
from feilun.bill.settings import BillSettings
from feilun.errors import AccessError, ConflictError, DataError, ProjectError, SettingError, did_you_mean
from feilun.evaluate import declared
from feilun.pipeline import plan as planning
from feilun.pipeline import project as projects
from feilun.pipeline.execute import Inputs, Observer, Outcome, follows, run_step
from feilun.pipeline.kinds import Dataset, Model, Release, Report
from feilun.pipeline.steps import STEPS, Settings
from feilun.relearn.settings import RelearnSettings
from feilun.serve.prompts import FOLDER as PROMPTS
from feilun.serve.prompts import Prompts, PromptSettings
from feilun.store import consents, deployment, ledger, periods, releases, runs, tables
from feilun.store import products as selling
from feilun.store.artifacts import Artifact, ArtifactStore
from feilun.store.counts import METERS, MORE_METERS
from feilun.store.database import Database, now_us
from feilun.store.migrations import open_database
from feilun.store.money import parse_money
from feilun.store.periods import period_of
from feilun.store.seals import Seal
from feilun.templates import shipped

if TYPE_CHECKING:
    from feilun.bill.counterfactual import Replay
    from feilun.bill.forecast import Forecast
    from feilun.bill.invoices import Invoice
    from feilun.bill.margin import Query
    from feilun.bill.margin import Report as Margins
    from feilun.bill.office import Office
    from feilun.bill.products import Built
    from feilun.bill.trace import ContributorTrace, LineTrace
    from feilun.bill.verify import Verification
    from feilun.serve.background import Background
    from feilun.serve.listening import Tls
    from feilun.store.jobs import Job
    from feilun.trials.subject import Subject

STAGES = ("prepare", "finetune", "evaluate", "compress", "serve", "bill", "feedback", "relearn")
OTHERS: dict[str, type[Settings]] = {"bill": BillSettings, "prompts": PromptSettings, "relearn.*": RelearnSettings}
LINE = re.compile(r"[A-Z]+-\d+/\d+")


class Usage(NamedTuple):
    """What a tenant used in a calendar month; ``spent_nano`` is metered, before fees."""

    tenant: str
    plan: str
    period: str
    requests: int
    inputs: int
    tokens: int
    spent_nano: int
    currency: str


class Flywheel:
    """An opened project: what was declared, what was made, and what happened.

    Args:
        root: the project's folder, or one inside it.
        changes: settings to change for this time, ``["finetune.reviews.epochs=2"]``.
        home: where artefacts and the embedded database are; ``.feilun`` in the project by default.

    Raises:
        ProjectError: there is no project file, or it has problems; all of them are reported.
    """

    def __init__(self, root: Path | str = ".", changes: Sequence[str] = (), *, home: Path | None = None) -> None:
        self.root = find_root(Path(root))
        self.project = projects.load(
            self.root, OTHERS, changes, shipped("recipes"), look=lambda given: catalog.check(given, self.root)
        )
        self.deployment = deployment.from_environment(self.root, home)
        self._check_currencies()
        declared.check(self.project)

    def _check_currencies(self) -> None:
        """What a right answer is worth is weighed against what training cost: in one currency."""
        wanted = self.bill_settings.core_hour.currency
        for name, settings in self.project.other("relearn").items():
            assert isinstance(settings, RelearnSettings)
            worth = settings.value_per_correct_answer
            if parse_money(worth).currency != wanted:
                raise ProjectError(
                    f"value_per_correct_answer is '{worth}', but core_hour is in {wanted}",
                    where=f"{projects.FILE}  [relearn.{name}]",
                    hint=f"give it in {wanted}; one project has one currency",
                )

    @cached_property
    def store(self) -> ArtifactStore:
        """Artefacts and, through ``store.database``, events; the schema is brought up to date first."""
        return ArtifactStore(self.deployment.artifacts, open_database(self.deployment.database_url))

    @property
    def database(self) -> Database:
        """Events: usage, feedback, consent, postings, promotions."""
        return self.store.database

    @cached_property
    def outside(self) -> Outside:
        """Where references that name no section are looked up."""
        return Outside(self.root)

    @property
    def bill_settings(self) -> BillSettings:
        """The section ``[bill]``, or its defaults."""
        settings = self.project.others.get("bill", BillSettings())
        assert isinstance(settings, BillSettings)
        return settings

    def close(self) -> None:
        """Finish queued writes and let go of the database."""
        if "store" in self.__dict__:
            self.store.database.close()

    def __enter__(self) -> Flywheel:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    # --- making ----------------------------------------------------------------------------------------------------

    def plan(self, until: str | None = None) -> planning.Plan:
        """What would run, what is reused, and why."""
        return planning.make(self.project, self.store, self.outside, until)

    def run(self, plan: planning.Plan | None = None, observe: Observer | None = None) -> Iterator[Outcome]:
        """Run a plan (the whole project by default), yielding outcomes. A first release of a name is promoted."""
        for outcome in planning.execute(plan or self.plan(), self.store, self.outside, observe):
            if isinstance(outcome.artifact, Release) and not follows():
                self._register(outcome.artifact)
            yield outcome

    def subject(self, name: str | None = None, observe: Observer | None = None) -> Subject:
        """A section of finetune with its inputs made, for ``feilun.trials``: search, validate, learning_curve."""
        from feilun.trials import subject

        section = subject.section_of(self.project, name)
        made = subject.inputs_of(section, self.project, self.store, self.outside, observe)
        price = self.bill_settings.core_hour
        return subject.of(section, made, self.store, home=self.deployment.home, core_hour=price, observe=observe)

    def relearn(self, name: str | None = None, *, promote: bool = True, observe: Observer | None = None) -> turn.Turn:
        """One turn: learn from the feedback that is there, decide, and promote if that is worth it."""
        return turn.turn(
            self.project,
            self.store,
            self._only("relearn", name),
            core_hour_nano=self.bill_settings.core_hour.nano,
            promote=promote,
            observe=observe,
        )

    def evaluate(self, model: str, observe: Observer | None = None) -> Report:
        """What a release says on the held-out rows of every dataset that the project evaluates.

        Args:
            model: ``name`` for what is served now, or ``name@digest`` (its first digits do).
        """
        name, _, prefix = model.partition("@")
        digest = self.store.find(prefix) if prefix else releases.pointer(self.database, name).release
        served = next(a for a in map(self.store.get, self.store.get(digest).parents) if isinstance(a, Model))
        wanted = sorted(
            {
                str(r)
                for s in self.project.sections.values()
                if s.step.name == "evaluate"
                for r in s.references["examples"]
            }
        )
        made = {o.name: o.artifact for name in wanted for o in self.run(self.plan(name), observe)}
        examples = tuple(made[name] for name in wanted)
        step = STEPS["evaluate"]
        inputs: Inputs = {"model": served, "examples": examples}
        outcome = run_step(self.store, step, step.settings(), inputs, name=f"evaluate {model}", observe=observe)
        assert isinstance(outcome.artifact, Report)
        return outcome.artifact

    def export(
        self, name: str, to: Path, *, served: bool = False, observe: Observer | None = None
    ) -> tuple[Model, list[str]]:
        """Write a model with its card in the layout of the Hugging Face hub; returns it and the files' names.

        Args:
            name: a section (``finetune.reviews``), a served name or ``name@digest``, or a model's first digits.
            to: a folder that is not there yet.
            served: of a served name, the files that answer, not those that were trained.
        """
        from feilun.models import card, export

        model = self._named_model(name, served=served, observe=observe)
        told = card.of(self.store, model)
        return model, export.export(self.store, model, told, to)

    def ask(
        self, name: str, rows: Sequence[Mapping[str, Any]], *, served: bool = False, observe: Observer | None = None
    ) -> list[dict[str, Any]]:
        """What a model says of each row, whatever its task; nothing is metered.

        Args:
            name: as ``export`` has it.
            rows: what the task reads: ``text``, and ``other`` or ``candidates`` where it reads those (a model of
                vectors puts candidates in order, if there are any). Of a model that writes, ``messages``, or ``text``
                for what a user says.
                Of a model of named columns, these.

        Raises:
            DataError: a row lacks what the task reads, or has it in another form; the message names the row.
        """
        from feilun import datasets, tasks
        from feilun.tasks.task import ReadsMore

        model = self._named_model(name, served=served, observe=observe)
        if model.facts.get("format") == "onnx":
            from feilun.models import tabular

            return tabular.load(model.path).ask(rows)
        task = tasks.of(model)
        reads, may = task.READS, task.MAY_READ if isinstance(task, ReadsMore) else ()
        if reads == ("messages",):
            rows = [{"messages": [{"role": "user", "content": r["text"]}]} if r.keys() == {"text"} else r for r in rows]
        frame = datasets.asked(rows, reads, may)
        return tasks.ask(model, frame).said

    def _named_model(self, name: str, *, served: bool, observe: Observer | None) -> Model:
        if name in self.project.sections:
            found = {o.name: o.artifact for o in self.run(self.plan(name), observe)}[name]
        elif re.fullmatch(r"[0-9a-f]{6,64}", name):
            found = self.store.get(self.store.find(name))
        else:
            found = self._released(name)
        if isinstance(found, Release):
            found = next(a for a in map(self.store.get, found.parents) if isinstance(a, Model))
            while not served and found.facts.get("format") not in ("safetensors", "onnx"):
                found = next(a for a in map(self.store.get, found.parents) if isinstance(a, Model))
        if not isinstance(found, Model):
            raise ProjectError(f"'{name}' is a {found.kind}, no model", hint="name a section of finetune or compress")
        return found

    def _released(self, name: str) -> Artifact:
        """The release that is served under a name, or ``name@digest``."""
        served, _, prefix = name.partition("@")
        known = {pointer.name for pointer in releases.pointers(self.database)}
        if served not in known:
            hint = did_you_mean(name, [*self.project.sections, *known])
            raise ProjectError(f"there is no model '{name[:80]}'", hint=hint or "see: feilun status")
        return self.store.get(self.store.find(prefix) if prefix else releases.pointer(self.database, served).release)

    # --- customers -------------------------------------------------------------------------------------------------

    def add_tenant(self, name: str, plan: str) -> tenants.Tenant:
        """Make a tenant on one of the project's plans, with that plan's monthly budget."""
        self.bill_settings.terms(plan)  # refuses a plan that is not there
        self._announce_prices()
        return tenants.create(self.database, name, plan=plan, budget_nano=self._usual_budget(plan))

    def set_plan(self, tenant: str, plan: str, *, budget: str | None = None) -> tenants.Tenant:
        """Put a tenant on another plan from its next request on.

        Args:
            tenant: its name.
            plan: one of the project's plans.
            budget: its new monthly budget; where it is left out, one that was the old plan's becomes the new plan's,
                and any other stays.

        Raises:
            SettingError: no such plan, or a budget of its own is in the old plan's currency.
            ConflictError: the plan is in another currency than the one before.
            AccessError: no such tenant.
        """
        wanted = self.bill_settings.terms(plan).currency
        known = tenants.get(self.database, tenant)
        limit, is_known = known.budget_nano, known.plan in self.bill_settings.plans
        if is_known and self.bill_settings.currency(known.plan) != wanted:
            raise ConflictError(
                f"'{tenant}' is billed in {self.bill_settings.currency(known.plan)}, and a customer keeps its currency",
                where=f"plan '{plan}' is in {wanted}",
                hint="make a second customer for the other currency: feilun tenant add",
                code="two-currencies",
            )
        if budget is not None:
            limit = self._nano_in(wanted, budget, tenant)
        elif limit == (self._usual_budget(known.plan) if is_known else None):
            limit = self._usual_budget(plan)
        elif limit is not None and (not is_known or self.bill_settings.currency(known.plan) != wanted):
            hint = f"state the new one: --budget '100 {wanted}'"
            raise SettingError(f"the budget of '{tenant}' is not in {wanted}", where="budget", hint=hint)
        self._announce_prices()
        tenants.set_plan(self.database, tenant, plan)
        return tenants.set_budget(self.database, tenant, limit)

    def set_budget(self, tenant: str, budget: str | None) -> tenants.Tenant:
        """Change what a tenant's usage may cost in a calendar month (UTC); None for no limit."""
        return tenants.set_budget(self.database, tenant, self._in_currency_of(tenant, budget))

    def _usual_budget(self, plan: str) -> int | None:
        budget = self.bill_settings.plans[plan].budget
        return budget.nano if budget else None

    def _announce_prices(self) -> None:
        """Write down what the project file says of prices, so that it is known from when on they held."""
        from feilun.bill import plan_history

        plan_history.announce(self.database, self.bill_settings.all_terms())

    def required_pepper(self) -> bytes:
        """The secret that keys are checked with.

        Raises:
            SettingError: none is set, or it is too short. Where keys were given out already, a new one is no help.
        """
        if not self.deployment.pepper and keys.keys(self.database):
            raise SettingError(
                "the secret is missing with which the keys in this database were made",
                where="FEILUN_PEPPER",
                hint=f"copy secrets.env of the old place to {self.deployment.home / deployment.SECRETS}",
            )
        return self.deployment.required_pepper()

    def add_key(
        self,
        tenant: str,
        *,
        scopes: Sequence[str] = keys.USUAL,
        days: float | None = None,
        budget: str | None = None,
        quota: Mapping[str, int] | None = None,
    ) -> keys.NewKey:
        """Make an API key; its token is known now and never again.

        Args:
            tenant: whose it is.
            scopes: what it may do.
            days: how long it lives; None for ever.
            budget: what it may spend in a calendar month (UTC).
            quota: the most units of such a month, by meter.
        """
        pepper = self.required_pepper()
        limit, units = self._in_currency_of(tenant, budget), self._of_answers(quota or {})
        return keys.create(self.database, pepper, tenant, scopes=scopes, days=days, budget_nano=limit, quota=units)

    def set_key_quota(self, public_id: str, quota: Mapping[str, int]) -> keys.Key:
        """Change how many units of a calendar month (UTC) a key may use, by meter; empty for any number."""
        return keys.set_quota(self.database, public_id, self._of_answers(quota))

    def _of_answers(self, quota: Mapping[str, int]) -> Mapping[str, int]:
        """A quota, if each of its meters comes with answers: nothing else can be refused."""
        known = (*METERS, *MORE_METERS, *self.bill_settings.meters_reported_by("answers"))
        for meter in quota:
            if meter not in known:
                hint = did_you_mean(meter, known) or f"meters are {', '.join(known)}"
                raise SettingError(f"'{meter[:80]}' does not come with answers", where="quota", hint=hint)
        return quota

    def set_key_budget(self, public_id: str, budget: str | None) -> keys.Key:
        """Change what a key may spend in a calendar month (UTC); None for no limit of its own."""
        limit = self._in_currency_of(keys.get(self.database, public_id).tenant, budget)
        return keys.set_budget(self.database, public_id, limit)

    def _in_currency_of(self, tenant: str, amount: str | None) -> int | None:
        """An amount in nano-units of the currency in which the tenant is billed."""
        if amount is None:
            return None
        return self._nano_in(self.bill_settings.currency(tenants.get(self.database, tenant).plan), amount, tenant)

    def _nano_in(self, currency: str, amount: str, tenant: str) -> int:
        money = parse_money(amount)
        if money.currency != currency:
            raise SettingError(f"'{amount}' is not in {currency}, in which '{tenant}' is billed", where="budget")
        return money.nano

    def usage(self, period: str | None = None) -> list[Usage]:
        """What each tenant used in a calendar month (UTC), this one by default."""
        found = []
        for tenant in tenants.tenants(self.database):
            currency = self.bill_settings.terms(tenant.plan).currency
            with self.database.read() as connection:
                month, counts, spent = ledger.month(connection, tenant.id, period)
            units = (counts.requests, counts.inputs, counts.tokens)
            found.append(Usage(tenant.id, tenant.plan, month, *units, spent, currency))
        return found

    def serve(
        self,
        *,
        host: str = "127.0.0.1",
        port: int = 8765,
        hosts: Sequence[str] = (),
        threads: int | None = None,
        leave_s: float = 0.0,
        latency_ms: float = 100.0,
        tls: Tls | None = None,
    ) -> None:
        """Answer over HTTP until SIGTERM or Ctrl-C.

        Args:
            hosts: further names that a Host header may have.
            threads: of the engine; all cores by default.
            leave_s: after SIGTERM, how long new requests are answered while readiness is red already.
            latency_ms: how long the engine should take for a request, where the load allows it.
            tls: answer by HTTPS.
        """
        from feilun.serve.run import run_gateway
        from feilun.serve.settings import GatewaySettings

        meters = tuple(self.bill_settings.meters_reported_by("events"))
        settings = GatewaySettings(threads=threads or os.cpu_count() or 1, meters=meters, leave_s=leave_s)
        settings = replace(settings, latency_ms=latency_ms, tls=tls, prompts=self._prompts())
        settings = replace(settings, hosts=(*settings.hosts, *hosts))
        self._announce_prices()
        run_gateway(
            self.deployment.database_url,
            self.deployment.artifacts,
            pepper=self.required_pepper(),
            plans=self.bill_settings.all_terms(),
            host=host,
            port=port,
            settings=settings,
            office_factory=self.office,
        )

    def _prompts(self) -> Prompts | None:
        """Where inputs are written down; None unless the project has the section ``[prompts]``."""
        settings = self.project.others.get("prompts")
        if not isinstance(settings, PromptSettings):
            return None
        from feilun.bill.masking import mask

        return Prompts(self.deployment.home / PROMPTS, settings.keep_days, lambda text: mask(text)[0])

    def work(
        self, *, stop: threading.Event | None = None, once: bool = False, observe: Observer | None = None
    ) -> Iterator[Job]:
        """Do tenants' fine-tuning jobs, yielding each that ended, until ``stop`` is set.

        Args:
            stop: set it to end; the job that is being done is put back, to go on where it stopped.
            once: end where there is none to do now.
        """
        from feilun import tuning

        yield from tuning.forever(self.project, self.store, stop or threading.Event(), once=once, observe=observe)

    def office(self, store: ArtifactStore | None = None) -> Office:
        """Billing as a running gateway needs it; ``store`` is the gateway's own connection, this one's by default."""
        from feilun.bill.office import Office

        return Office(store or self.store, self.bill_settings)

    def start(self, *, port: int = 0) -> Background:
        """The same in a process of its own, for notebooks: ``with wheel.start() as gateway: ... gateway.url``."""
        from feilun.serve import background

        environment = {"FEILUN_HOME": str(self.deployment.home)}
        return background.start(self.root, self.deployment.home / "gateway.log", port=port, environment=environment)

    # --- feedback --------------------------------------------------------------------------------------------------

    def feedback(self, tenant: str | None = None) -> list[dict[str, Any]]:
        """Every correction, oldest first, with whether its contributor allows learning from it today."""
        table = tables.feedback
        query = select(table).order_by(table.c.id)
        with self.database.read() as connection:
            allowed = consents.in_force(connection, "learn")
            rows = connection.execute(query.where(table.c.tenant == tenant) if tenant else query).mappings().all()
        return [
            dict(row) | {"consent": consents.allows(allowed, row["tenant"], row["contributor"], row["at"])}
            for row in rows
        ]

    def import_feedback(self, tenant: str, rows: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
        """Corrections of a tenant's answered requests, in the form of ``POST /v1/feedback``; all or none are kept."""
        from feilun.accounts.access import Keyring
        from feilun.serve import bodies, corrections

        tenants.get(self.database, tenant)
        digest = Keyring(self.database, self.required_pepper()).digest_of
        given = [bodies.validate(dict(row), bodies.CORRECTION) for row in rows]
        return self.database.write(lambda c: corrections.record(c, tenant, given, digest), order=tenant)

    def consent(self, tenant: str, contributor: str, purpose: str) -> None:
        """Note that a contributor allows a purpose: serve, learn or share (sell their words, or counts of them).

        Raises:
            AccessError: no such tenant.
            SettingError: no such purpose.
        """
        tenants.get(self.database, tenant)
        if purpose not in consents.PURPOSES:
            hint = did_you_mean(purpose, consents.PURPOSES) or f"purposes are {', '.join(consents.PURPOSES)}"
            raise SettingError(f"'{purpose}' is not a purpose of consent", hint=hint)
        self.database.write(lambda c: consents.record(c, tenant, contributor, purpose, granted=True), order=tenant)

    def withdraw(self, tenant: str, contributor: str) -> list[str]:
        """Note that a contributor no longer allows any purpose; returns those that they had said anything about.

        Later turns leave their words out, and products that hold them are not sold any more until they are built anew.

        Raises:
            AccessError: no such tenant.
            DataError: that tenant knows nobody of that name.
        """
        tenants.get(self.database, tenant)
        table = tables.consents.c
        with self.database.read() as connection:
            known = set(connection.execute(select(table.contributor).where(table.tenant == tenant)).scalars())
        if contributor not in known:
            hint = did_you_mean(contributor, known) or "names are as corrections gave them; upper and lower case differ"
            raise DataError(f"'{tenant}' has no contributor '{contributor}'", hint=hint)
        return self.database.write(lambda c: consents.withdraw(c, tenant, contributor), order=tenant)

    # --- money -----------------------------------------------------------------------------------------------------

    def bill(
        self, period: str | None = None, *, tenant: str | None = None, close: bool = False, now: bool = False
    ) -> list[Invoice]:
        """Invoices of a month, this one by default: those that are closed, and drafts of what is not invoiced yet.

        Args:
            tenant: only this one.
            close: close what can be closed: the bytes of those invoices never change again.
            now: with ``close``, a month that still runs is invoiced up to this moment; later usage comes in its next.
        """
        from feilun.bill import invoices

        month = period or self.period
        if close and (wrong := self.verify().hindrances):
            raise ConflictError(
                f"the ledger does not agree with itself, so nothing is closed: {wrong[0]}",
                where=f"{len(wrong)} problems",
                hint="see all of them with: feilun bill --verify; then restore a backup",
            )
        if close and tenant:
            invoices.close(self.database, tenant, month, self.bill_settings, interim=now)
        elif close:
            invoices.close_all(self.database, month, self.bill_settings, interim=now)
        made: list[Invoice] = []
        for name in [tenant] if tenant else [t.id for t in tenants.tenants(self.database)]:
            with self.database.read() as connection:
                made += invoices.of_tenant(connection, name, month)
            drafts = invoices.drafts(self.database, name, month, self.bill_settings)
            made += [draft for draft in drafts if draft.lines]
        return made

    @property
    def period(self) -> str:
        """This calendar month, UTC, by the database's clock."""
        with self.database.read() as connection:
            return period_of(now_us(connection))

    def margin(self, query: Query | str | None = None) -> Margins:
        """Revenue less every cost: by customer, of a month ("2026-11") or of all time, or as a ``Query`` says."""
        from feilun.bill import margin

        chosen = query if isinstance(query, margin.Query) else margin.Query(period=query)
        return margin.report(self.database, self.bill_settings, chosen)

    def replay(
        self, period: str, *, plans: Sequence[str] = (), prices: Path | None = None, release: str | None = None
    ) -> Replay:
        """A month under other terms or another release, customer by customer; nothing is written.

        Args:
            plans: ``TENANT=PLAN``, or ``PLAN`` for everybody else.
            prices: a project file whose plans are to hold.
            release: ``NAME@DIGITS``, in the place of the releases of that name.
        """
        from feilun.bill import counterfactual

        change = counterfactual.Change({}, release=release)
        if prices is not None:
            change = replace(change, prices=counterfactual.prices_of(prices))
        for text in plans:
            change = counterfactual.with_plan(change, text)
        return counterfactual.replay(self.store, self.bill_settings, period, change)

    def forecast(self, name: str | None = None) -> Forecast:
        """The months to come by ``[bill.forecast.NAME]``, the only one by default, from the next month on."""
        from feilun.bill import forecast_measured
        from feilun.bill.forecast import forecast

        bill = self.bill_settings
        chosen = self._one_of("bill.forecast", list(bill.forecast), name)
        settings = bill.forecast[chosen]
        currency = bill.currency(next(iter(settings.plans)))
        measured = forecast_measured.measure(
            self.database,
            settings,
            core_hour_nano=bill.convert(bill.core_hour, currency).nano,
            fixed_nano=sum(bill.convert(cost, currency).nano for cost in bill.costs.values()),
            gigabyte_nano=bill.convert(bill.storage_gb_month, currency).nano if bill.storage_gb_month else 0,
        )
        following = periods.period_of(periods.bounds(self.period)[1])
        return forecast(chosen, settings, bill.all_terms(), measured, following)

    # --- data products ---------------------------------------------------------------------------------------------

    def build_product(self, name: str | None = None, observe: Observer | None = None) -> Built:
        """Build ``[bill.products.NAME]``, the only one by default, from who consents now; from then on it is sold."""
        from feilun.bill import products

        chosen = self._one_of("bill.products", list(self.bill_settings.products), name)
        settings = self.bill_settings.products[chosen]
        dataset = None if settings.source == "feedback" else self._dataset(settings.source, observe)
        return products.build(self.store, chosen, settings, dataset, self.required_pepper())

    def _dataset(self, section: str, observe: Observer | None) -> Dataset:
        if section not in self.project.sections:
            hint = did_you_mean(section, self.project.sections)
            raise ProjectError(f"nothing makes '{section}'", where="[bill.products]", hint=hint)
        made = {o.name: o.artifact for o in self.run(self.plan(section), observe)}[section]
        if not isinstance(made, Dataset):
            raise ProjectError(f"'{section}' makes a {made.kind}, no dataset", where="[bill.products]")
        return made

    def products(self, tenant: str | None = None) -> list[dict[str, Any]]:
        """What is for sale, and what a download of each would cost a customer now, where one is named."""
        if tenant is not None:
            tenants.get(self.database, tenant)
        with self.database.read() as connection:
            if tenant is None:
                return selling.built(connection)
            return selling.listed(connection, tenant, self._prices)

    def sell_product(self, name: str, tenant: str, *, form: str = "jsonl", same: str | None = None) -> selling.Sold:
        """Sell a product by hand: charged and counted as if the customer had downloaded it.

        Args:
            name: of the product.
            tenant: who buys.
            form: jsonl or csv.
            same: makes a repetition the same purchase, as an Idempotency-Key does.
        """
        tenants.get(self.database, tenant)
        self._refuse_unbuilt(name)
        buyer = selling.Buyer(tenant, "command-line", same or f"server:{ULID()}")
        return selling.sell(self.store, name, form, buyer, self._prices)

    def _refuse_unbuilt(self, product: str) -> None:
        with self.database.read() as connection:
            built = {p["id"] for p in selling.built(connection)}
        if product in built:
            return
        declared = self.bill_settings.products
        if product in declared:
            hint = f"build it: feilun bill product build {product}"
            raise AccessError(f"product '{product}' is not built yet", status=404, hint=hint, code="no-product")
        known = sorted({*built, *declared})
        hint = did_you_mean(product, known) or (
            f"known: {', '.join(known)}" if known else "declare one: [bill.products.NAME]"
        )
        raise AccessError(f"there is no product '{product[:80]}'", status=404, hint=hint, code="no-product")

    def _prices(self, plan: str, at_us: int) -> Terms:
        return self.bill_settings.terms(plan, at_us)

    def trace(self, what: str) -> LineTrace | ContributorTrace:
        """An invoice line (``INV-000001/2``) back to its examples, or a contributor forward to the money."""
        from feilun.bill import trace

        if LINE.fullmatch(what):
            return trace.trace_line(self.database, self.store, what)
        return trace.trace_contributor(self.database, self.store, what)

    def verify(self, *, compare: bool = False, seal: str | None = None) -> Verification:
        """Does the ledger agree with itself: chains, postings, invoices?

        Args:
            compare: ask Stripe too, where the project uses it, whether it has the same invoices.
            seal: ``NUMBER:HASH`` as it was noted elsewhere: it must still be there.

        Raises:
            SettingError: ``seal`` is no such note.
        """
        from feilun.bill import verify

        noted = Seal.of(seal) if seal is not None else None
        stripe = self.bill_settings.stripe
        if not compare or stripe is None:
            return verify.verify(self.database, noted=noted)
        from feilun.bill import stripe_compare

        return verify.verify(self.database, lambda: stripe_compare.compare(self.database, stripe), noted)

    # --- looking ---------------------------------------------------------------------------------------------------

    def status(self) -> dict[str, Any]:
        """Where the wheel stands, as plain values."""
        with self.database.read() as connection:
            turns = connection.execute(select(tables.turns).order_by(tables.turns.c.at.desc()).limit(5)).mappings()
            columns = ("id", "name", "verdict", "champion", "candidate", "at")
            last_turns = [{column: row[column] for column in columns} for row in turns]
        return {
            "project": self.project.name,
            "root": str(self.root),
            "database": self.database.engine.url.render_as_string(hide_password=True),
            "to_run": self.plan().to_run,
            "served": [asdict(pointer) for pointer in releases.pointers(self.database)],
            "usage": [row._asdict() for row in self.usage()],
            "runs": [
                {"name": r["name"], "outcome": r["outcome"], "seconds": r["wall_ns"] / 1e9, "at": r["finished_at"]}
                for r in runs.newest(self.database, limit=8)
            ],
            "turns": last_turns,
        }

    def _register(self, release: Release) -> None:
        releases.register(self.database, release)
        name = str(release.facts["name"])
        if name not in {pointer.name for pointer in releases.pointers(self.database)}:
            releases.promote(self.database, name, release.digest, expected_version=0, reason="first release")

    def _only(self, verb: str, name: str | None) -> str:
        """The named section of a verb, or the only one there is."""
        return self._one_of(verb, list(self.project.other(verb)), name)

    def _one_of(self, section: str, names: Sequence[str], name: str | None) -> str:
        if name is None and len(names) == 1:
            return names[0]
        if name in names:
            return str(name)
        if name is None:
            hint = f"name one: {', '.join(names)}" if names else f"begin with [{section}.some-name]"
            raise ProjectError(f"the project has {len(names)} sections of {section}", hint=hint)
        raise ProjectError(f"there is no [{section}.{name}]", hint=did_you_mean(name, names))


class Outside:
    """The catalogue, with the project's folder for relative paths."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def identity(self, reference: str) -> str | None:
        """See ``pipeline.plan.Outside``."""
        return catalog.identity(reference, root=self.root)

    def fetch(self, reference: str, kind: type[Artifact]) -> catalog.Fetched:
        """See ``pipeline.plan.Outside``."""
        return catalog.fetch(reference, kind, root=self.root)


def find_root(start: Path) -> Path:
    """The nearest folder, from ``start`` upwards, that has a project file; ``start`` itself where none has."""
    start = start.resolve()
    return next((f for f in (start, *start.parents) if (f / projects.FILE).is_file()), start)
