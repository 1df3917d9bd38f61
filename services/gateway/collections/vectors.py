"""Vectors for a version that is being built: copied from the live version where both have the same model, else made."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from services.chassis.errors import NotFound
from services.chassis.timing import both
from services.gateway.collections.embedders import Embedders
from services.gateway.collections.store import Difference, Store, Vectors
from services.gateway.search.stages import reading
from sluice.type.v1 import collection_pb2, passage_pb2, tokens_pb2

Records = Mapping[str, passage_pb2.PassageRecord]
"""Passages with their vectors, by id."""


class BuildingVectors:
    """Finds vectors for passages that are copied to a version that is being built."""

    def __init__(self, store: Store, embedders: Embedders) -> None:
        self._store = store
        self._embedders = embedders

    async def of(self, collection: str, version: str, present: Sequence[Difference], *, deadline: float) -> Vectors:
        """Return the vectors of passages as they are in the live version of a collection."""
        live = await self._embedders.live(collection, deadline=deadline)
        wanted = await self._embedders.live(version, deadline=deadline)
        dense: Records = {}
        tokens: Records = {}
        if live is not None and wanted is not None:
            same_model = live.model.fingerprint == wanted.model.fingerprint
            same_tokens = wanted.HasField("token_model") and (
                live.token_model.fingerprint == wanted.token_model.fingerprint
            )
            if same_model or same_tokens:
                known = await self._known(live, present, deadline)
                dense = known if same_model else {}
                tokens = known if same_tokens else {}
        texts = {one.id: reading(one.passage) for one in present if one.passage is not None}
        (vectors, model), (token_vectors, token_model) = await both(
            self._dense(version, texts, dense, deadline), self._tokens(version, texts, tokens, deadline)
        )
        return Vectors(
            vectors,
            model or (wanted.model.fingerprint if wanted else ""),
            token_vectors,
            token_model or (wanted.token_model.fingerprint if wanted else ""),
        )

    async def _known(
        self, live: collection_pb2.CollectionVersion, present: Sequence[Difference], deadline: float
    ) -> Records:
        """Read what a version has of the same writes.

        It is asked for by its own name, which stands for its models for good: the collection may have been switched
        since it was described.
        """
        revisions = {one.id: one.revision for one in present}
        try:
            records = await self._store.records(live.version, list(revisions), deadline=deadline)
        except NotFound:  # switched, and deleted
            return {}
        return {record.passage.id: record for record in records if record.revision == revisions.get(record.passage.id)}

    async def _dense(
        self, version: str, texts: Mapping[str, str], known: Records, deadline: float
    ) -> tuple[list[bytes], str]:
        """Return a vector for each text, and the model's fingerprint if any was made."""
        vectors = {id_: record.vector for id_, record in known.items()}
        missing = [id_ for id_ in texts if id_ not in vectors]
        if not missing:
            return [vectors[id_] for id_ in texts], ""
        # A version's name is that of a collection, too: its own model embeds.
        embedded = await self._embedders.embed_documents(
            [texts[id_] for id_ in missing], collection=version, deadline=deadline
        )
        vectors |= zip(missing, embedded.vectors, strict=True)
        return [vectors[id_] for id_ in texts], embedded.model.fingerprint

    async def _tokens(
        self, version: str, texts: Mapping[str, str], known: Records, deadline: float
    ) -> tuple[list[tokens_pb2.TokenVectors], str]:
        """Return token vectors for each text, none for a version without, and the model's fingerprint."""
        vectors = {id_: record.tokens for id_, record in known.items() if record.HasField("tokens")}
        missing = [id_ for id_ in texts if id_ not in vectors]
        if not missing:
            return [vectors[id_] for id_ in texts], ""
        made = await self._embedders.embed_document_tokens(
            [texts[id_] for id_ in missing], collection=version, deadline=deadline
        )
        if made is None:
            return [], ""
        vectors |= zip(missing, made.vectors, strict=True)
        return [vectors[id_] for id_ in texts], made.model.fingerprint
