"""The command line: one file a command, nothing heavy imported before it is needed."""

from __future__ import annotations

import sys

import typer

from feilun.cli import (
    ask,
    backup,
    bill,
    demo,
    doctor,
    export,
    feedback,
    init,
    key,
    learning_curve,
    relearn,
    releases,
    run,
    search,
    serve,
    status,
    tenant,
    trace,
    usage,
    validate,
    work,
)
from feilun.errors import FeilunError
from feilun.show import print_error

app = typer.Typer(
    name="feilun",
    help="From your users' data to a model that answers, earns and learns.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
app.command("init")(init.init)
app.command("run")(run.run)
app.command("search")(search.search)
app.command("validate")(validate.validate)
app.command("learning-curve")(learning_curve.learning_curve)
app.command("serve")(serve.serve)
app.command("work")(work.work)
app.add_typer(tenant.app, name="tenant")
app.add_typer(key.app, name="key")
app.command("usage")(usage.usage)
app.add_typer(feedback.app, name="feedback")
app.command("relearn")(relearn.relearn)
app.add_typer(releases.app, name="releases")
app.add_typer(bill.app, name="bill")
app.command("ask")(ask.ask)
app.command("export")(export.export)
app.command("trace")(trace.trace)
app.command("status")(status.status)
app.command("backup")(backup.backup)
app.command("restore")(backup.restore)
app.command("doctor")(doctor.doctor)
app.command("demo")(demo.demo)


def main() -> None:
    """Run a command; an error that a person can mend is shown in three lines, with its own exit code."""
    try:
        app()
    except FeilunError as error:
        print_error(error, as_json="--json" in sys.argv)
        raise SystemExit(error.exit_code) from None
    except BrokenPipeError:  # the reader of our output went away, as `| head` does
        raise SystemExit(0) from None
