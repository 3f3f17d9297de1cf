"""`python -m load_tests`: how fast an endpoint answers, how sure that is, and what load it holds."""

from __future__ import annotations

from common import console
from load_tests.report_command import report
from load_tests.run_command import run
from load_tests.search_commands import calibrate, capacity

app = console.command_group(__doc__ or "")

app.command()(run)
app.command()(report)
app.command()(calibrate)
app.command()(capacity)


if __name__ == "__main__":
    console.run(app)
