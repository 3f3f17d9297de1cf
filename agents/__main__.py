"""`python -m agents`: decisions for data pipelines; which actions, policies and prompts there are; approvals."""

from __future__ import annotations

from agents.cli.actions_command import actions
from agents.cli.approvals_command import approvals
from agents.cli.policies_command import policies
from agents.cli.prompts_command import prompts
from agents.cli.run_command import run
from common import console

app = console.command_group(__doc__ or "")
app.command()(run)
app.command()(actions)
app.command()(policies)
app.command()(prompts)
app.add_typer(approvals, name="approvals")

if __name__ == "__main__":
    console.run(app)
