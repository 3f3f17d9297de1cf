"""The data ingestion specialist: how data moves from its source, and what that has to look out for.

Read in this order: agents/facts/source_kinds.py (what kind of source, how soon), predicates.py (what holds of a
pipeline), modes.py (the choice), actions.yaml (the catalogue), oracle_rows.py (pipelines whose right answer is known).
It has no label: how data moves has no grade.
"""

from __future__ import annotations

from pathlib import Path

from agents.facts.spec import PipelineSpec
from agents.specialists.catalogue import packaged
from agents.specialists.ingestion.modes import MODES
from agents.specialists.ingestion.predicates import PREDICATES
from agents.specialists.specialist import Facts, Specialist
from agents.specialists.told import described, known


def _told(spec: PipelineSpec) -> Facts:
    facts = known(spec.source, "description")
    if "kind" in facts:
        facts["kind"] = str(facts["kind"]).replace("_", " ")
    return facts | described(spec)


INGESTION = Specialist(
    name="ingestion",
    role="data ingestion specialist",
    subject="how this data is brought in from its source",
    told=_told,
    choice=MODES,
    predicates=PREDICATES,
    catalogue=packaged(Path(__file__).parent, "ingestion"),
)
