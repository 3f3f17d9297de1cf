"""`python -m evals`: make cases with known answers, and score prompt variants on them."""

from __future__ import annotations

import gc

from common import console
from evals.generate_command import generate
from evals.run_command import rescore, run
from evals.verdict_commands import compare, gate

# The cases of a run stay until its end: looking through them for garbage every 700 objects finds none, and took a tenth
# of this process' time (docs/log.md).
gc.freeze()
gc.set_threshold(50_000)

app = console.command_group(__doc__ or "")


app.command()(generate)
app.command()(run)
app.command()(rescore)
app.command()(compare)
app.command()(gate)


if __name__ == "__main__":
    console.run(app)
