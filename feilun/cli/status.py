"""``feilun status``: where the wheel stands."""

from __future__ import annotations

from feilun.cli.options import HERE, Json, Root, open_wheel
from feilun.show import print_json, print_table, say, short, when


def status(project: Root = HERE, json: Json = False) -> None:
    """What is served, what was used this month, the last runs and the last turns."""
    with open_wheel(project) as wheel:
        found = wheel.status()
    if json:
        print_json(found)
        return
    say(f"[bold]{found['project']}[/bold] at {found['root']}, {found['database']}")
    print_table(
        "served",
        ["name", "release", "changes"],
        [[s["name"], short(s["release"]), s["version"]] for s in found["served"]],
    )
    rows = [[u["tenant"], u["plan"], u["requests"], u["inputs"], u["tokens"]] for u in found["usage"]]
    print_table("this month", ["customer", "plan", "requests", "inputs", "tokens"], rows)
    print_table(
        "last runs",
        ["step", "outcome", "seconds", "when"],
        [[r["name"], r["outcome"], r["seconds"], when(r["at"])] for r in found["runs"]],
    )
    print_table(
        "last turns",
        ["name", "verdict", "candidate", "when"],
        [[t["name"], t["verdict"], short(t["candidate"]), when(t["at"])] for t in found["turns"]],
    )
    if found["to_run"]:
        say(f"  {found['to_run']} steps are not up to date; see: feilun run --dry-run")
