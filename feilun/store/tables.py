"""Every table. Rows marked append-only are guarded by triggers that the migrations install.

Times are integers: microseconds since 1970 in UTC, always read from the database's clock inside the transaction that
writes the row. Money is in nano-units (see ``money.py``). JSON columns hold canonical JSON text.
"""

from __future__ import annotations

from sqlalchemy import (
    BigInteger,
    Boolean,
    CheckConstraint,
    Column,
    ForeignKey,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    PrimaryKeyConstraint,
    String,
    Table,
    Text,
    UniqueConstraint,
)

metadata = MetaData()

# --- artefacts and the runs that made them -------------------------------------------------------------------------

artifacts = Table(
    "artifacts",
    metadata,
    Column("digest", String(64), primary_key=True),
    Column("kind", String(16), nullable=False),
    Column("facts", Text, nullable=False),
    Column("bytes", BigInteger, nullable=False),
    Column("created_at", BigInteger, nullable=False),
)

parents = Table(
    "parents",
    metadata,
    Column("child", String(64), ForeignKey("artifacts.digest"), primary_key=True),
    Column("parent", String(64), ForeignKey("artifacts.digest"), primary_key=True),
    Index("parents_by_parent", "parent"),
)

runs = Table(
    "runs",
    metadata,
    Column("id", String(26), primary_key=True),
    Column("fingerprint", String(64), nullable=False),
    Column("step", String(32), nullable=False),
    Column("version", Integer, nullable=False),
    Column("name", String(128), nullable=False),
    Column("settings", Text, nullable=False),
    Column("inputs", Text, nullable=False),
    Column("environment", Text, nullable=False),
    Column("metrics", Text, nullable=False),
    Column("core_ns", BigInteger, nullable=False),  # processor time of the run, all threads
    Column("wall_ns", BigInteger, nullable=False),
    Column("outcome", String(16), nullable=False),  # finished, failed, interrupted, pruned
    Column("error", Text),
    Column("output", String(64), ForeignKey("artifacts.digest")),
    Column("started_at", BigInteger, nullable=False),
    Column("finished_at", BigInteger, nullable=False),
    Index("runs_by_fingerprint", "fingerprint"),
    Index("runs_by_output", "output"),
)

# --- tenants and keys ----------------------------------------------------------------------------------------------

tenants = Table(
    "tenants",
    metadata,
    Column("id", String(64), primary_key=True),
    Column("plan", String(64), nullable=False),
    Column("budget_nano", BigInteger),  # hard limit for a calendar month (UTC); null means none
    Column("active", Boolean, nullable=False),
    Column("created_at", BigInteger, nullable=False),
)

keys = Table(
    "keys",
    metadata,
    Column("public_id", String(32), primary_key=True),
    Column("tenant", String(64), ForeignKey("tenants.id"), nullable=False),
    Column("mode", String(4), nullable=False),  # live, test
    Column("scopes", Text, nullable=False),
    Column("hmac", LargeBinary(32), nullable=False),
    Column("created_at", BigInteger, nullable=False),
    Column("expires_at", BigInteger),
    Column("revoked_at", BigInteger),
    Column("budget_nano", BigInteger),  # hard limit of this key for a calendar month (UTC); null means none
    Column("quota", Text),  # the same in units by meter, canonical JSON; null means none
    Index("keys_by_tenant", "tenant"),
)

# --- releases ------------------------------------------------------------------------------------------------------

releases = Table(
    "releases",
    metadata,
    Column("digest", String(64), ForeignKey("artifacts.digest"), primary_key=True),
    Column("name", String(128), nullable=False),
    Column("registered_at", BigInteger, nullable=False),
    Column("tenant", String(64), ForeignKey("tenants.id")),  # whose alone it is; null: everybody may ask it
    Column("retired_at", BigInteger),  # from then on it answers no more, under no name
    Index("releases_by_name", "name"),
)

pointers = Table(  # the one mutable fact about releases; changed by compare-and-swap on version
    "pointers",
    metadata,
    Column("name", String(128), primary_key=True),
    Column("release", String(64), ForeignKey("releases.digest"), nullable=False),
    Column("version", BigInteger, nullable=False),
)

promotions = Table(  # append-only: the history of the pointer
    "promotions",
    metadata,
    Column("id", String(26), primary_key=True),
    Column("name", String(128), nullable=False),
    Column("release", String(64), ForeignKey("releases.digest"), nullable=False),
    Column("replaced", String(64)),
    Column("version", BigInteger, nullable=False),
    Column("reason", Text, nullable=False),
    Column("at", BigInteger, nullable=False),
    UniqueConstraint("name", "version"),
)

rollouts = Table(  # what a name has beside its pointer; changed by compare-and-swap on version, never deleted
    "rollouts",
    metadata,
    Column("name", String(128), primary_key=True),
    Column("kind", String(8), primary_key=True),  # canary, shadow
    Column("release", String(64), ForeignKey("releases.digest")),  # null: there is none now
    Column("share", Integer, nullable=False),  # of the traffic, in 1/10000
    Column("sticky", String(8), nullable=False),  # by tenant, or by request
    Column("tenants", Text, nullable=False),  # who gets it whatever the share is, canonical JSON
    Column("version", BigInteger, nullable=False),
    CheckConstraint("share between 0 and 10000", name="share_is_a_share"),
)

rollout_changes = Table(  # append-only: the history of those
    "rollout_changes",
    metadata,
    Column("id", String(26), primary_key=True),
    Column("name", String(128), nullable=False),
    Column("kind", String(8), nullable=False),
    Column("release", String(64), ForeignKey("releases.digest")),
    Column("share", Integer, nullable=False),
    Column("sticky", String(8), nullable=False),
    Column("tenants", Text, nullable=False),
    Column("version", BigInteger, nullable=False),
    Column("reason", Text, nullable=False),
    Column("at", BigInteger, nullable=False),
    UniqueConstraint("name", "kind", "version"),
)

agreements = Table(  # counters: what a shadow answered beside the release that was asked
    "agreements",
    metadata,
    Column("name", String(128), primary_key=True),
    Column("release", String(64), ForeignKey("releases.digest"), primary_key=True),
    Column("shadow", String(64), ForeignKey("releases.digest"), primary_key=True),
    Column("compared", BigInteger, nullable=False),
    Column("agreed", BigInteger, nullable=False),
    Column("failed", BigInteger, nullable=False),  # the shadow could not answer
    Column("dropped", BigInteger, nullable=False),  # not asked, because too many waited
    Column("release_ns", BigInteger, nullable=False),  # processor time of the compared answers
    Column("shadow_ns", BigInteger, nullable=False),
    Column("furthest", BigInteger, nullable=False),  # millionths: the largest distance of two numbers in the same place
    Column("changed_at", BigInteger, nullable=False),
)

turns = Table(  # append-only: one revolution of the wheel and its decision
    "turns",
    metadata,
    Column("id", String(26), primary_key=True),
    Column("name", String(128), nullable=False),
    Column("champion", String(64), ForeignKey("releases.digest"), nullable=False),
    Column("candidate", String(64), ForeignKey("releases.digest")),
    Column("verdict", String(16), nullable=False),  # promote, keep
    Column("decision", Text, nullable=False),
    Column("at", BigInteger, nullable=False),
)

# --- requests and the ledger ---------------------------------------------------------------------------------------

prices = Table(  # append-only: the terms behind each price version, so that any row can be rated again
    "prices",
    metadata,
    Column("version", String(64), primary_key=True),  # digest of the terms; usage.price_version names it
    Column("terms", Text, nullable=False),
    Column("at", BigInteger, nullable=False),
)

requests = Table(  # the idempotency row and the hold in one; state moves held -> posted or held -> released
    "requests",
    metadata,
    Column("id", String(26), primary_key=True),
    Column("tenant", String(64), ForeignKey("tenants.id"), nullable=False),
    Column("idempotency_key", String(255), nullable=False),
    Column("body_sha256", String(64), nullable=False),
    Column("state", String(8), nullable=False),
    Column("holder", String(26), nullable=False),  # who holds it now: an expired lease can be taken over, never shared
    Column("held_inputs", BigInteger, nullable=False),
    Column("held_tokens", BigInteger, nullable=False),
    Column("status", Integer),
    Column("answer", Text),  # the stored body that a replay returns byte for byte
    Column("inputs", Text),  # per input: keyed digest of its text, so that feedback can be tied to it
    Column("created_at", BigInteger, nullable=False),
    Column("lease_until", BigInteger, nullable=False),
    Column("key", String(32)),  # whose hold it is
    Column("held_more", Text),  # units of the meters that have no column, canonical JSON; null where there are none
    Column("progress", Text),  # of a stream that is being told: what is charged if its gateway dies, canonical JSON
    UniqueConstraint("tenant", "idempotency_key"),
    CheckConstraint("state in ('held', 'posted', 'released')", name="state_is_known"),
    CheckConstraint("held_inputs >= 0 and held_tokens >= 0", name="hold_is_not_negative"),
    Index("requests_by_state", "state", "lease_until"),
    Index("requests_by_time", "tenant", "created_at"),
)

usage = Table(  # append-only: one row for each posted request, in a hash chain for each tenant
    "usage",
    metadata,
    Column("request", String(26), ForeignKey("requests.id"), primary_key=True),
    Column("tenant", String(64), ForeignKey("tenants.id"), nullable=False),
    Column("key", String(32), nullable=False),
    Column("release", String(64), ForeignKey("releases.digest"), nullable=False),
    Column("route", String(64), nullable=False),
    Column("inputs", BigInteger, nullable=False),
    Column("tokens", BigInteger, nullable=False),
    Column("compute_ns", BigInteger, nullable=False),  # core-nanoseconds of the engine, the request's share
    Column("plan", String(64), nullable=False),
    Column("price_version", String(64), nullable=False),  # digest of the plan's terms
    Column("amount_nano", BigInteger, nullable=False),
    Column("currency", String(3), nullable=False),
    Column("at", BigInteger, nullable=False),
    Column("sequence", BigInteger, nullable=False),
    Column("previous", String(64), nullable=False),
    Column("hash", String(64), nullable=False),
    Column("more", Text),  # units of the meters that have no column, canonical JSON; null where there are none
    Column("partial", Integer),  # 1: the answer was broken off, and what was delivered of it is charged; else null
    UniqueConstraint("tenant", "sequence"),
    CheckConstraint("inputs >= 0 and tokens >= 0 and compute_ns >= 0", name="usage_is_not_negative"),
    Index("usage_by_time", "tenant", "at"),
    Index("usage_by_release", "release"),
)

postings = Table(  # append-only: double entry; the amounts of one entry sum to 0
    "postings",
    metadata,
    Column("entry", String(26), primary_key=True),  # the request, or the invoice, that it belongs to
    Column("account", String(128), primary_key=True),
    Column("currency", String(3), primary_key=True),
    Column("amount_nano", BigInteger, nullable=False),
    Column("at", BigInteger, nullable=False),
    Index("postings_by_account", "account"),
)

chains = Table(  # one row a tenant, locked by each ledger transaction: its newest rows and open holds (a cache)
    "chains",
    metadata,
    Column("tenant", String(64), ForeignKey("tenants.id"), primary_key=True),
    Column("sequence", BigInteger, nullable=False),
    Column("hash", String(64), nullable=False),
    Column("at", BigInteger, nullable=False),
    Column("held_requests", BigInteger, nullable=False),
    Column("held_inputs", BigInteger, nullable=False),
    Column("held_tokens", BigInteger, nullable=False),
    Column("held_more", Text),
    Column("due_nano", BigInteger, nullable=False, server_default="0"),  # usage that no invoice covers yet
    CheckConstraint("held_requests >= 0 and held_inputs >= 0 and held_tokens >= 0", name="open_holds_are_not_negative"),
)

counters = Table(  # a cache of each month's totals, rebuilt from the ledger
    "counters",
    metadata,
    Column("tenant", String(64), ForeignKey("tenants.id"), primary_key=True),
    Column("period", String(7), primary_key=True),  # 2026-11, UTC
    Column("requests", BigInteger, nullable=False),
    Column("inputs", BigInteger, nullable=False),
    Column("tokens", BigInteger, nullable=False),
    Column("spent_nano", BigInteger, nullable=False),
    Column("more", Text),
)

key_counters = Table(  # a cache of the same for each key
    "key_counters",
    metadata,
    Column("key", String(32), primary_key=True),
    Column("period", String(7), primary_key=True),
    Column("requests", BigInteger, nullable=False),
    Column("inputs", BigInteger, nullable=False),
    Column("tokens", BigInteger, nullable=False),
    Column("more", Text),
    Column("spent_nano", BigInteger, nullable=False),
)

notices = Table(  # append-only: a limit that was nearly or wholly reached, said once
    "notices",
    metadata,
    Column("tenant", String(64), ForeignKey("tenants.id"), primary_key=True),
    Column("subject", String(64), primary_key=True),  # budget, quota:tokens, key:PUBLIC_ID
    Column("period", String(7), primary_key=True),
    Column("percent", Integer, primary_key=True),
    Column("at", BigInteger, nullable=False),
)

gateways = Table(  # append-only: what each gateway process used of its machine since its row before
    "gateways",
    metadata,
    Column("gateway", String(26), primary_key=True),
    Column("sequence", Integer, primary_key=True),
    Column("machine", String(64), nullable=False),  # gateways of one machine share its cores
    Column("cores", Integer, nullable=False),
    Column("wall_ns", BigInteger, nullable=False),
    Column("core_ns", BigInteger, nullable=False),  # processor time of the process, all threads
    Column("engine_ns", BigInteger, nullable=False),  # of it: answering requests, those that failed included
    Column("load_ns", BigInteger, nullable=False),  # of it: loading and warming releases and adapters
    Column("at", BigInteger, nullable=False),
    Index("gateways_by_time", "at"),
)

invoices = Table(  # append-only: the bytes of a closed invoice never change
    "invoices",
    metadata,
    Column("id", String(26), primary_key=True),
    Column("number", String(32), nullable=False, unique=True),
    Column("tenant", String(64), ForeignKey("tenants.id"), nullable=False),
    Column("period", String(7), nullable=False),
    Column("currency", String(3), nullable=False),
    Column("total_nano", BigInteger, nullable=False),
    Column("first_sequence", BigInteger, nullable=False),  # of the tenant's usage rows that it covers,
    Column("last_sequence", BigInteger, nullable=False),  # both ends included
    Column("body", Text, nullable=False),
    Column("at", BigInteger, nullable=False),
    Column("first_event", BigInteger),  # of the tenant's events that it covers, both ends included;
    Column("last_event", BigInteger),  # null on invoices from before there were events
    Index("invoices_by_tenant", "tenant", "period"),
)

credit_notes = Table(  # append-only: what takes back an invoice, or lines of it
    "credit_notes",
    metadata,
    Column("id", String(26), primary_key=True),
    Column("number", String(32), nullable=False, unique=True),
    Column("invoice", String(26), ForeignKey("invoices.id"), nullable=False),
    Column("tenant", String(64), ForeignKey("tenants.id"), nullable=False),
    Column("currency", String(3), nullable=False),
    Column("total_nano", BigInteger, nullable=False),
    Column("body", Text, nullable=False),
    Column("at", BigInteger, nullable=False),
    Index("credit_notes_by_invoice", "invoice"),
)

# --- customers' terms ----------------------------------------------------------------------------------------------

profiles = Table(  # append-only: name, address, country, tax id, language of a customer; the newest row holds
    "profiles",
    metadata,
    Column("id", String(26), primary_key=True),
    Column("tenant", String(64), ForeignKey("tenants.id"), nullable=False),
    Column("body", Text, nullable=False),
    Column("at", BigInteger, nullable=False),
    Index("profiles_by_tenant", "tenant", "id"),
)

assignments = Table(  # append-only: which plan a tenant was on from when
    "assignments",
    metadata,
    Column("id", String(26), primary_key=True),
    Column("tenant", String(64), ForeignKey("tenants.id"), nullable=False),
    Column("plan", String(64), nullable=False),
    Column("at", BigInteger, nullable=False),
    Index("assignments_by_tenant", "tenant", "at"),
)

plan_prices = (
    Table(  # append-only: what was announced of a plan's price versions; rows of one time are one announcement
        "plan_prices",
        metadata,
        Column("id", String(26), primary_key=True),
        Column("plan", String(64), nullable=False),
        Column("version", String(64), ForeignKey("prices.version"), nullable=False),
        Column("begins_at", BigInteger, nullable=False),  # never from before it was written
        Column(
            "at", BigInteger, nullable=False
        ),  # until the plan's next announcement, which replaces what had not begun
        UniqueConstraint("plan", "at", "begins_at"),
    )
)

grants = Table(  # append-only: prepaid credit given to a tenant
    "grants",
    metadata,
    Column("id", String(26), primary_key=True),
    Column("tenant", String(64), ForeignKey("tenants.id"), nullable=False),
    Column("currency", String(3), nullable=False),
    Column("amount_nano", BigInteger, nullable=False),
    Column("expires_at", BigInteger),
    Column("reason", Text, nullable=False),
    Column("at", BigInteger, nullable=False),
    CheckConstraint("amount_nano > 0", name="grant_is_positive"),
    Index("grants_by_tenant", "tenant"),
)

grant_uses = Table(  # append-only: credit that an invoice used, or that expired
    "grant_uses",
    metadata,
    Column("id", String(26), primary_key=True),
    Column("credit", String(26), ForeignKey("grants.id"), nullable=False),
    Column("invoice", String(26), ForeignKey("invoices.id")),  # null: expired unused
    Column("amount_nano", BigInteger, nullable=False),
    Column("at", BigInteger, nullable=False),
    CheckConstraint("amount_nano > 0", name="use_is_positive"),
    Index("grant_uses_by_grant", "credit"),
)

redemptions = Table(  # append-only: coupons, with the terms that they had when they were redeemed
    "redemptions",
    metadata,
    Column("id", String(26), primary_key=True),
    Column("tenant", String(64), ForeignKey("tenants.id"), nullable=False),
    Column("coupon", String(64), nullable=False),
    Column("terms", Text, nullable=False),
    Column("at", BigInteger, nullable=False),
    UniqueConstraint("tenant", "coupon"),
)

seals = Table(  # append-only: one hash chain over every row of the tables in ``seals.SEALED`` (see store/seals.py)
    "seals",
    metadata,
    Column("number", BigInteger, primary_key=True, autoincrement=False),
    Column("name", String(32), nullable=False),  # the table that the sealed row is in
    Column("key", String(128), nullable=False),  # the sealed row's id
    Column("row", String(64), nullable=False),  # sha256 of what the sealed row says
    Column("previous", String(64), nullable=False),
    Column("hash", String(64), nullable=False),
    Column("at", BigInteger, nullable=False),
)

# --- usage that other services report ------------------------------------------------------------------------------

event_sources = Table(  # append-only: who reported, so that each of their events need not say it in full
    "event_sources",
    metadata,
    Column("id", Integer, primary_key=True, autoincrement=False),
    Column("source", String(255), nullable=False, unique=True),
    Column("at", BigInteger, nullable=False),
)

events = Table(  # append-only: CloudEvents 1.0, once each by source and id; tenants were looked up on the way in
    "events",
    metadata,
    Column("tenant", String(64), nullable=False),
    Column("sequence", BigInteger, nullable=False),
    Column("batch", BigInteger, nullable=False),
    Column("source", Integer, nullable=False),
    Column("event", String(255).with_variant(String(255, collation="C"), "postgresql"), nullable=False),  # its id
    Column("meter", String(32), nullable=False),
    Column("units", BigInteger, nullable=False),
    Column("at", BigInteger, nullable=False),  # when it happened; when it came is its batch's
    # SQLite keeps the rows in this order; PostgreSQL finds in the index all that a month's total needs.
    PrimaryKeyConstraint("tenant", "sequence", postgresql_include=["meter", "units", "at"]),
    CheckConstraint("units >= 0", name="units_are_not_negative"),
    Index("events_by_batch", "batch", postgresql_using="brin"),
    # Not of a hash: ids that are made in order (UUIDv7, ULID, counters) are then inserted side by side.
    Index("events_by_identity", "source", "event", unique=True),
    sqlite_with_rowid=False,
)

event_batches = Table(  # append-only: what came in one call, in a hash chain
    "event_batches",
    metadata,
    Column("number", BigInteger, primary_key=True, autoincrement=False),
    Column("key", String(32), nullable=False),
    Column("events", BigInteger, nullable=False),
    Column("checks", LargeBinary, nullable=False),  # 4 bytes a row, by which verify names the row that was changed
    Column("previous", String(64), nullable=False),
    Column("hash", String(64), nullable=False),
    Column("at", BigInteger, nullable=False),
)

# --- what goes out -------------------------------------------------------------------------------------------------

outbox = Table(  # written with what it tells of, delivered later, at least once, with an id that makes it once
    "outbox",
    metadata,
    Column("id", String(64), primary_key=True),  # deterministic: the same thing told twice is the same row
    Column("kind", String(32), nullable=False),  # webhook, stripe.customer, stripe.invoice, ...
    Column("subject", String(128), nullable=False),  # what it is about: rows of one subject go out in order
    Column("payload", Text, nullable=False),
    Column("created_at", BigInteger, nullable=False),
    Column("due_at", BigInteger, nullable=False),
    Column("attempts", Integer, nullable=False),
    Column("delivered_at", BigInteger),
    Column("receipt", Text),  # what the other side called it
    Column("failure", Text),  # the last one
    Column("dead_at", BigInteger),  # given up: nobody tries it again until somebody says so
    Index("outbox_by_due", "delivered_at", "due_at"),
    Index("outbox_by_subject", "subject", "created_at"),
)

payments = Table(  # append-only: what the payment service told us
    "payments",
    metadata,
    Column("id", String(128), primary_key=True),  # the service's id of the event, so that each counts once
    Column("invoice", String(26), ForeignKey("invoices.id")),
    Column("kind", String(64), nullable=False),
    Column("status", String(32), nullable=False),
    Column("amount_nano", BigInteger, nullable=False),
    Column("currency", String(3), nullable=False),
    Column("happened_at", BigInteger, nullable=False),
    Column("at", BigInteger, nullable=False),
    Index("payments_by_invoice", "invoice"),
)

# --- what tenants upload, and what is done with it later ------------------------------------------------------------

files = Table(  # one upload each; what is in it is kept once for each tenant, by its sha256
    "files",
    metadata,
    Column("id", String(40), primary_key=True),
    Column("tenant", String(64), ForeignKey("tenants.id"), nullable=False),
    Column("key", String(32), nullable=False),
    Column("purpose", String(32), nullable=False),
    Column("filename", String(255), nullable=False),
    Column("bytes", BigInteger, nullable=False),
    Column("sha256", String(64), nullable=False),
    Column("created_at", BigInteger, nullable=False),
    Column("expires_at", BigInteger),
    Index("files_by_content", "tenant", "sha256"),
)

file_parts = Table(  # a file's bytes; parts that no file names are of an upload that was not finished
    "file_parts",
    metadata,
    Column("tenant", String(64), primary_key=True),
    Column("sha256", String(64), primary_key=True),
    Column("number", Integer, primary_key=True),
    Column("body", LargeBinary, nullable=False),
    Column("at", BigInteger, nullable=False),
)

batches = Table(
    "batches",
    metadata,
    Column("id", String(40), primary_key=True),
    Column("tenant", String(64), ForeignKey("tenants.id"), nullable=False),
    Column("key", String(32), nullable=False),  # by which its lines are asked and charged
    Column("endpoint", String(64), nullable=False),
    Column("input_file", String(40), nullable=False),
    Column("said", Text, nullable=False),  # canonical JSON: window, metadata, how long its files are kept
    Column("state", String(16), nullable=False),
    Column("errors", Text),  # canonical JSON: why the whole of it failed
    Column("total", BigInteger, nullable=False),
    Column("completed", BigInteger, nullable=False),
    Column("failed", BigInteger, nullable=False),
    Column("output_file", String(40)),
    Column("error_file", String(40)),
    Column("times", Text, nullable=False),  # canonical JSON: when it reached each state
    Column("created_at", BigInteger, nullable=False),
    Column("expires_at", BigInteger, nullable=False),
    Column("holder", String(26)),  # the gateway that works on it, until the lease ends
    Column("lease_until", BigInteger, nullable=False),
    Index("batches_by_tenant", "tenant", "id"),
    Index("batches_by_state", "state", "lease_until"),
)

jobs = Table(  # fine-tuning: what a tenant wants to have learned from its own files
    "jobs",
    metadata,
    Column("id", String(40), primary_key=True),
    Column("tenant", String(64), ForeignKey("tenants.id"), nullable=False),
    Column("key", String(32), nullable=False),
    Column("model", String(128), nullable=False),  # as it was asked for
    Column("base", String(64), ForeignKey("releases.digest"), nullable=False),  # the release that this was then
    Column("training_file", String(40), nullable=False),
    Column("validation_file", String(40)),
    Column("said", Text, nullable=False),  # canonical JSON: method, hyperparameters, seed, suffix, metadata
    Column("state", String(16), nullable=False),
    Column("error", Text),  # canonical JSON
    Column("release", String(64), ForeignKey("releases.digest")),  # what came out,
    Column("served", String(128)),  # and the name that it is asked by
    Column("result_file", String(40)),
    Column("trained_tokens", BigInteger),
    Column("core_ns", BigInteger, nullable=False),  # processor time of its steps
    Column("attempts", Integer, nullable=False),
    Column("created_at", BigInteger, nullable=False),
    Column("finished_at", BigInteger),
    Column("holder", String(26)),
    Column("lease_until", BigInteger, nullable=False),
    Index("jobs_by_tenant", "tenant", "id"),
    Index("jobs_by_state", "state", "lease_until"),
)

job_events = Table(
    "job_events",
    metadata,
    Column("job", String(40), ForeignKey("jobs.id"), primary_key=True),
    Column("number", Integer, primary_key=True, autoincrement=False),
    Column("level", String(8), nullable=False),  # info, warn, error
    Column("type", String(8), nullable=False),  # message, metrics
    Column("message", Text, nullable=False),
    Column("data", Text, nullable=False),  # canonical JSON
    Column("at", BigInteger, nullable=False),
)

# --- feedback and consent ------------------------------------------------------------------------------------------

feedback = Table(  # append-only
    "feedback",
    metadata,
    Column("id", String(26), primary_key=True),
    Column("tenant", String(64), ForeignKey("tenants.id"), nullable=False),
    Column("request", String(26), ForeignKey("requests.id"), nullable=False),
    Column("input", Integer, nullable=False),  # which input of that request, from 0
    Column("release", String(64), ForeignKey("releases.digest"), nullable=False),
    Column("kind", String(16), nullable=False),  # correction
    Column("text", Text, nullable=False),
    Column("answered", Text, nullable=False),  # the label that was served
    Column("label", Text, nullable=False),  # the label that is right
    Column("contributor", String(128), nullable=False),
    Column("at", BigInteger, nullable=False),
    UniqueConstraint("tenant", "request", "input"),
    Index("feedback_by_contributor", "contributor"),
)

consents = Table(  # append-only: the newest row of a contributor and purpose holds
    "consents",
    metadata,
    Column("id", String(26), primary_key=True),
    Column("tenant", String(64), ForeignKey("tenants.id"), nullable=False),
    Column("contributor", String(128), nullable=False),
    Column("purpose", String(16), nullable=False),  # learn
    Column("granted", Boolean, nullable=False),
    Column("at", BigInteger, nullable=False),
    Index("consents_by_contributor", "tenant", "contributor", "purpose"),
)

APPEND_ONLY = (
    *("promotions", "turns", "prices", "usage", "postings", "invoices", "feedback", "consents", "notices", "gateways"),
    *("credit_notes", "profiles", "assignments", "plan_prices", "grants", "grant_uses", "redemptions", "events"),
    *("event_sources", "event_batches", "payments", "seals", "rollout_changes"),
)
