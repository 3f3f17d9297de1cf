"""Which of the readers fits an endpoint; that is found out once, and kept."""

from __future__ import annotations

from functools import partial

from agents.asking.endpoint.client import ChatClient
from agents.asking.variant import PromptVariant
from agents.asking.ways.chat_reader import ChatReader, label_ids
from agents.asking.ways.decisions_reader import DecisionsReader, has_decisions
from agents.asking.ways.label_reading import Reader


async def reader_for(client: ChatClient, model: str, variant: PromptVariant) -> Reader:
    """The reader that fits the endpoint, which is asked once. Raises EndpointFailed."""
    if await client.memory.once(("decisions", model), partial(has_decisions, client, model)):
        return DecisionsReader(client, model)
    ids = await client.memory.once(("label ids", model), partial(label_ids, client, model, variant))
    return ChatReader(client, model, variant, ids)
