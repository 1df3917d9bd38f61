"""Descriptions of versions, as their notes keep them."""

from __future__ import annotations

import enum
import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any

import numpy as np

from services.chassis.errors import FailedPrecondition, InvalidArgument
from services.late.codes import Codes
from services.retriever.documents import Passage, Vector
from services.retriever.fields import AnyOf, Equals, FieldType, Filter, Schema
from services.retriever.layout import Layout
from services.retriever.lexical import Analyzer, Bm25
from services.retriever.store import PLAIN, Description
from sluice.type.v1 import collection_pb2, model_pb2

FIRST_POINT = "00000000-0000-0000-0000-000000000000"
"""Before all points."""


@dataclass(frozen=True, slots=True)
class CollectionModel:
    """The model whose vectors a collection holds; no other may write to it or query it."""

    name: str
    fingerprint: str
    dimension: int
    precision: str

    @classmethod
    def from_proto(cls, message: model_pb2.ModelInfo) -> CollectionModel:
        """Read the part of a model that a collection keeps."""
        return cls(message.name, message.fingerprint, message.dimension, message.precision)

    def to_proto(self) -> model_pb2.ModelInfo:
        """Write the model."""
        return model_pb2.ModelInfo(
            name=self.name, fingerprint=self.fingerprint, dimension=self.dimension, precision=self.precision
        )


class VersionState(enum.StrEnum):
    """Progress of a version; nothing is switched to one that is being built."""

    BUILDING = "building"
    READY = "ready"

    def to_proto(self) -> collection_pb2.VersionState.ValueType:
        """Write the state."""
        return collection_pb2.VersionState.Value(f"VERSION_STATE_{self.name}")


@dataclass(frozen=True, slots=True)
class CollectionInfo:
    """Description of a version."""

    name: str
    """The name that it was asked for by; possibly that of the collection."""
    version: str
    model: CollectionModel
    passage_count: int
    bm25: Bm25
    schema: Schema
    created: datetime
    collection: str
    """The collection that it is a version of; its own name where a release without versions made it."""
    state: VersionState = VersionState.READY
    source: str = ""
    """Origin of its passages, in words."""
    built_from: str = ""
    """The live version that it is, or was, filled from."""
    building: str = ""
    """The version that is being filled from it: all that is written here has to get there, too."""
    previous: str = ""
    """The version that was live before it."""
    counted: int = 0
    """Number of passages counted when it was complete, as long as none is deleted since; 0 where it is not known."""
    layout: Layout = PLAIN
    switching_until: float = 0.0
    """Until when its collection's name may pass on to another version, in seconds since 1970; 0 where it does not."""
    token_model: CollectionModel | None = None
    """The model whose token vectors it holds; None where it holds none."""
    relations: str = ""
    """Rules by which its passages have keys (see `relations.keys`); empty where they have none."""
    enriching: str = ""
    """The first point that may lack its keys, while they are given; empty where all have them, or none."""

    @property
    def is_enriched(self) -> bool:
        """True if all of its passages have keys."""
        return bool(self.relations) and not self.enriching

    @property
    def is_switching(self) -> bool:
        """True while nodes of a cluster may differ about whether it is live."""
        return self.switching_until > time.time()

    @property
    def token_fingerprint(self) -> str:
        """Fingerprint of the token model; empty where there is none."""
        return self.token_model.fingerprint if self.token_model else ""

    @property
    def token_dimension(self) -> int:
        """Values of a token vector; 0 where there are none."""
        return self.token_model.dimension if self.token_model else 0

    @classmethod
    def from_description(cls, name: str, found: Description) -> CollectionInfo:
        """Read a version's notes; FailedPrecondition if this release cannot use the version."""
        notes = found.notes
        if "model_fingerprint" not in notes:
            raise FailedPrecondition(
                f"collection {name!r} was not made by Sluice, so its model is unknown; create another one",
                reason="FOREIGN_COLLECTION",
            )
        if (analyzer := Analyzer.parse(notes["analyzer"])) is None:
            raise FailedPrecondition(
                f"collection {name!r} has its words analysed by {notes['analyzer']}, which this release does not know; "
                "index it again",
                reason="ANALYZER_MISMATCH",
            )
        return cls(
            name=name,
            version=found.version,
            model=CollectionModel(notes["model"], notes["model_fingerprint"], notes["dimension"], notes["precision"]),
            passage_count=found.passage_count,
            bm25=Bm25(notes["k1"], notes["b"], notes["average_length"], notes.get("title_weight", 1.0), analyzer),
            schema={
                key.removeprefix("field:"): FieldType(kind) for key, kind in notes.items() if key.startswith("field:")
            },
            created=datetime.fromisoformat(notes["created"]),
            collection=notes.get("collection", found.version),
            state=VersionState(notes.get("state", VersionState.READY)),
            source=notes.get("source", ""),
            built_from=notes.get("built_from", ""),
            building=notes.get("building", ""),
            previous=notes.get("previous", ""),
            counted=int(notes.get("counted") or 0),
            layout=Layout.from_notes(notes),
            switching_until=float(notes.get("switching") or 0),
            token_model=_token_model(notes),
            relations=notes.get("relations", ""),
            enriching=notes.get("enriching", ""),
        )

    def to_notes(self) -> dict[str, Any]:
        """Write the notes of a new version."""
        return {
            "model": self.model.name,
            "model_fingerprint": self.model.fingerprint,
            "dimension": self.model.dimension,
            "precision": self.model.precision,
            "distance": "cosine",
            "analyzer": str(self.bm25.analyzer),
            "k1": self.bm25.k1,
            "b": self.bm25.b,
            "average_length": self.bm25.average_length,
            "title_weight": self.bm25.title_weight,
            "created": self.created.isoformat(),
            "index_version": self.version,
            "collection": self.collection,
            "state": self.state.value,
            "source": self.source,
            "built_from": self.built_from,
            "layout": self.layout.to_notes(),
            "relations": self.relations,
            "enriching": self.enriching,
            **(_token_notes(self.token_model) if self.token_model else {}),
            **schema_notes(self.schema),
        }

    def to_proto(self, *, live: bool) -> collection_pb2.CollectionVersion:
        """Write the description; `live` is true if the collection's name stands for this version."""
        message = collection_pb2.CollectionVersion(
            collection=self.collection,
            version=self.version,
            live=live,
            state=self.state.to_proto(),
            model=self.model.to_proto(),
            passage_count=self.passage_count,
            fields={name: kind.to_proto() for name, kind in self.schema.items()},
            lexical_settings=str(self.bm25),
            source=self.source,
            building_version=self.building,
            previous_version=self.previous,
            counted_passages=self.counted,
            layout=self.layout.to_proto(),
            token_model=self.token_model.to_proto() if self.token_model else None,
            enriched=self.is_enriched,
        )
        message.create_time.FromDatetime(self.created)
        return message

    def laid_out(self, layout: Layout) -> CollectionInfo:
        """Return the description of an empty version with another layout; its tenants' field is declared."""
        tenant = {layout.tenant: FieldType.KEYWORD} if layout.tenant else {}
        return replace(self, layout=layout, schema={**self.schema, **tenant})

    def fitted(self, condition: Filter) -> Filter:
        """Return a filter with its values in the fields' types.

        InvalidArgument where one does not fit, or where the version requires a tenant and the filter names none.
        """
        layout = self.layout
        if layout.tenant_required and not any(
            isinstance(one, Equals | AnyOf) and one.field == layout.tenant for one in condition.must
        ):
            problem = f"names no {layout.tenant!r}, and collection {self.name!r} answers for one tenant at a time; "
            problem += f"send a condition in `must` that {layout.tenant!r} equals a value, or is one of some"
            raise InvalidArgument("filter", problem, reason="TENANT_REQUIRED")
        return condition.fit(self.schema)

    def is_of_tenant(self, passage: Passage, condition: Filter) -> bool:
        """False if the version requires a tenant, and the passage is of none that the filter names."""
        tenant = self.layout.tenant
        if not self.layout.tenant_required:
            return True
        value = passage.metadata.get(tenant)
        own = {value} if isinstance(value, str | int | float) else set(value or ())
        return all(
            own & {one.value} if isinstance(one, Equals) else own & set(one.values)
            for one in condition.must
            if isinstance(one, Equals | AnyOf) and one.field == tenant
        )

    def check_model(self, fingerprint: str) -> None:
        """Raise FailedPrecondition (MODEL_MISMATCH) if the vectors are another model's; an empty one is any."""
        if fingerprint and fingerprint != self.model.fingerprint:
            raise FailedPrecondition(
                f"collection {self.name!r} holds vectors of {self.model.name} (fingerprint {self.model.fingerprint}), "
                f"not of the model with fingerprint {fingerprint}; use that model, or reindex the collection",
                reason="MODEL_MISMATCH",
                collection=self.version,
                collection_fingerprint=self.model.fingerprint,
            )

    def check_named(self, model: str) -> None:
        """Raise FailedPrecondition (MODEL_MISMATCH) unless this is the model: its fingerprint, or its name."""
        own = self.model
        if model not in (own.fingerprint, own.name, own.name.rpartition("/")[2]):
            raise FailedPrecondition(
                f"collection {self.name!r} holds vectors of {own.name} (fingerprint {own.fingerprint}), not of "
                f"{model!r}; send a vector by that model, or the text alone",
                reason="MODEL_MISMATCH",
                collection=self.version,
                collection_fingerprint=own.fingerprint,
            )

    def check_token_model(self, fingerprint: str) -> None:
        """Raise FailedPrecondition (TOKEN_MODEL_MISMATCH) unless token vectors are this version's; "" is for none."""
        if fingerprint == self.token_fingerprint:
            return
        own = self.token_model
        held = f"token vectors of {own.name} (fingerprint {own.fingerprint})" if own else "no token vectors"
        given = f"those of the model with fingerprint {fingerprint}" if fingerprint else "none"
        raise FailedPrecondition(
            f"collection {self.name!r} holds {held}, and was given {given}; send what it holds, or reindex it",
            reason="TOKEN_MODEL_MISMATCH",
            collection=self.version,
            collection_fingerprint=self.token_fingerprint,
        )

    def check_tokens(self, tokens: Codes | None, path: str) -> None:
        """Raise InvalidArgument unless there are token vectors if, and only if, this version holds some."""
        if tokens is None:
            if self.token_model is None:
                return
            problem = f"is missing, and collection {self.name!r} holds token vectors of {self.token_model.name}; send "
            problem += "those of this passage"
            raise InvalidArgument(path, problem)
        if self.token_model is None:
            problem = f"is there, and collection {self.name!r} holds no token vectors; leave it out, or reindex the "
            raise InvalidArgument(path, problem + "collection with token vectors")
        if tokens.shape[1] != self.token_model.dimension:
            problem = f"has rows of {tokens.shape[1]} values, and collection {self.name!r} holds token vectors of "
            raise InvalidArgument(path, problem + str(self.token_model.dimension), reason="WRONG_DIMENSION")

    def check_vector(self, vector: Vector, path: str) -> None:
        """Raise InvalidArgument unless a vector has this version's dimension and finite values."""
        if vector.shape != (self.model.dimension,):
            shape = " x ".join(map(str, vector.shape))
            problem = f"has {shape} values, and collection {self.name!r} holds vectors of {self.model.dimension}"
            raise InvalidArgument(path, problem, reason="WRONG_DIMENSION")
        if not np.isfinite(vector).all():
            raise InvalidArgument(path, "has a value that is not a finite number")


def _token_model(notes: Mapping[str, Any]) -> CollectionModel | None:
    if not notes.get("token_fingerprint"):
        return None
    return CollectionModel(
        notes["token_model"], notes["token_fingerprint"], notes["token_dimension"], notes.get("token_precision", "")
    )


def _token_notes(model: CollectionModel) -> dict[str, Any]:
    return {
        "token_model": model.name,
        "token_fingerprint": model.fingerprint,
        "token_dimension": model.dimension,
        "token_precision": model.precision,
    }


def schema_notes(schema: Mapping[str, FieldType]) -> dict[str, str]:
    """Write a note for each field: notes merge by key, so two that declare different fields keep both."""
    return {f"field:{name}": kind.value for name, kind in schema.items()}
