"""The wheel from Python, as in a notebook: each block below is a cell.

    python examples/notebook.py path/to/project

The project is made from the template 'own' if the folder is empty.
"""

# %% A project: yours, or the template's 84 made-up support requests in three classes.
from __future__ import annotations

import csv
import sys
from pathlib import Path

import httpx

import feilun
from feilun.templates import init_project

folder = Path(sys.argv[1] if len(sys.argv) > 1 else "build/notebook")
if not (folder / "feilun.toml").exists():
    init_project(folder, "own")
wheel = feilun.open(folder)

# %% From rows to a release. A second time, every step is known and nothing runs.
for outcome in wheel.run():
    print(f"{'reused' if outcome.reused else f'{outcome.seconds:.1f} s':>8}  {outcome.name}  {outcome.artifact.short}")

# %% A customer with a key, and a gateway that answers it.
tenant = f"acme-{len(wheel.usage()) + 1}"
wheel.add_tenant(tenant, plan="starter")
headers = {"Authorization": f"Bearer {wheel.add_key(tenant).token}"}
with (folder / "examples.csv").open(encoding="utf-8") as file:
    rows = list(csv.DictReader(file))

with wheel.start() as gateway, httpx.Client(base_url=gateway.url, headers=headers, timeout=60) as http:
    # %% Ask. The release, the tokens and the price are in the answer.
    asked = http.post("/v1/classify", json={"model": "own", "input": [row["text"] for row in rows]}).json()
    right = sum(result["label"] == row["label"] for result, row in zip(asked["results"], rows, strict=True))
    print(f"{right} of {len(rows)} right, {asked['usage']}")

    # %% Tell it what would have been right, with the consent of whoever wrote it.
    corrections = [
        {
            "request": asked["id"],
            "input": number,
            "text": row["text"],
            "label": row["label"],
            "contributor": f"writer-{number % 20}",
            "consent": ["learn"],
        }
        for number, row in enumerate(rows)
    ]
    http.post("/v1/feedback", json=corrections).raise_for_status()

# %% What was used, what it costs the customer, and what it left us.
print(wheel.usage())
for invoice in wheel.bill(tenant=tenant, close=True, now=True):
    for line in invoice.lines:
        print(line.id, line.description, line.arithmetic)
print(wheel.margin().as_dict()["rows"])

# %% From a line of the invoice back to the examples behind it.
answered = next(line for line in invoice.lines if line.release)
traced = wheel.trace(answered.id).as_dict()
print(f"{answered.id} <- {traced['examples']} examples of {traced['contributors']} people")
wheel.close()
