"""Every method of every stage: a well-formed request, and the properties of its answers."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from typing import Any

import numpy as np

from drills.faults.rpcs.control_plane import rollouts
from drills.faults.rpcs.experiments import experiments
from drills.faults.rpcs.feedback import feedback
from drills.parts.rpc import Rpc
from sluice.embedder.v1 import embedder_pb2 as embedder
from sluice.expander.v1 import expander_pb2 as expander
from sluice.gateway.v1 import access_pb2 as access
from sluice.gateway.v1 import answer_pb2 as answer
from sluice.gateway.v1 import collections_pb2 as collections
from sluice.gateway.v1 import documents_pb2 as documents
from sluice.gateway.v1 import search_pb2 as search
from sluice.gateway.v1 import status_pb2 as status
from sluice.gateway.v1 import transfer_pb2 as transfer
from sluice.reasoner.v1 import reasoner_pb2 as reasoner
from sluice.reranker.v1 import reranker_pb2 as reranker
from sluice.retriever.v1 import retriever_pb2 as retriever
from sluice.type.v1.features_pb2 import EXPANSION_STRATEGY_MULTI_QUERY, Features
from sluice.type.v1.filter_pb2 import Condition, Filter, Range, Value
from sluice.type.v1.layout_pb2 import Layout
from sluice.type.v1.model_pb2 import ModelInfo
from sluice.type.v1.passage_pb2 import Passage

DIMENSION = 384


def rpcs(fingerprint: str) -> list[Rpc]:
    """All methods of all stages."""
    vector = np.full(DIMENSION, 0.05, dtype="<f4").tobytes()
    value, condition = Value(integer_value=3), Condition(field="year", range=Range(gte=1))
    passage = Passage(id="p", title="t", text="sea", metadata={"year": value})
    info = ModelInfo(name="m", fingerprint="f", dimension=8, precision="fp32")
    return [
        Rpc(
            search.SearchRequest(
                query="sea", limit=3, collection="documents", filter=Filter(must=[condition]), user_id="u",
                features=Features(dense=True, lexical=True, expansion=True, max_variant_count=3, rerank=False),
                policies=search.StagePolicies(embedding=search.STAGE_POLICY_BEST_EFFORT),
                like_document_id="d1", diversity=0.5, highlights=True,
            ),
            _search_makes_sense,
        ),
        Rpc(
            search.CompareSearchRequest(
                search=search.SearchRequest(query="sea", limit=3, collection="documents"),
                enhanced=Features(lexical=False),
            ),
            lambda asked, said: _search_makes_sense(asked.search, said.standard)
            and 0 <= said.overlap <= 1 and 0 <= said.rank_biased_overlap <= 1 and 0 < said.persistence < 1,
        ),
        *(
            Rpc(
                module.CountByFieldRequest(collection="documents", fields=["year"], filter=Filter(must=[condition])),
                lambda asked, said: _named(asked.collection) and 0 <= asked.limit <= 1000 and said.passage_count >= 0
                and 1 <= len(asked.fields) <= 16 and [one.field for one in said.fields] == list(asked.fields),
            )
            for module in (search, retriever)
        ),
        Rpc(
            retriever.DiversifyPassagesRequest(collection="documents", ids=["d1", "p"], scores=[2, 1], diversity=0.5),
            lambda asked, said: 1 <= len(asked.ids) <= 200 and len(asked.ids) == len(asked.scores)
            and 0 <= asked.diversity <= 1 and sorted(said.order) == list(range(len(asked.ids))),
        ),
        Rpc(
            retriever.HighlightTextsRequest(collection="documents", query="sea", texts=["The sea. A ship.", ""]),
            lambda asked, said: 1 <= len(asked.texts) <= 100 and len(said.texts) == len(asked.texts)
            and all(0 <= one.start < one.end <= len(text) and one.score > 0
                    for text, found in zip(asked.texts, said.texts, strict=True) for one in found.highlights),
        ),
        Rpc(
            documents.IndexDocumentsRequest(
                collection="fuzz",
                documents=[documents.Document(id="a", title="t", text="sea", metadata={"year": value}),
                           documents.Document(id="b", text="ship")],
            ),
            lambda asked, said: _ids([document.id for document in asked.documents], 512) and _named(asked.collection)
            and all((document.title + document.text).strip() for document in asked.documents)
            and all(_is_value(value) for document in asked.documents for value in document.metadata.values())
            and said.indexed_count == len(asked.documents),
        ),
        Rpc(
            documents.DeleteDocumentsRequest(collection="fuzz", ids=["a", "b"]),
            lambda asked, said: 1 <= len(asked.ids) <= 1000 and 0 <= said.deleted_count <= len(set(asked.ids)),
        ),
        Rpc(
            status.GetConfigRequest(collection="documents"),
            lambda asked, said: len(said.stages) == 5 and _named(asked.collection),
        ),
        Rpc(
            embedder.EmbedTextsRequest(texts=["sea", "ship"], kind=embedder.TEXT_KIND_QUERY),
            lambda asked, said: 1 <= len(asked.texts) <= 1024 and all(_text(text, 262_144) for text in asked.texts)
            and asked.kind in {1, 2} and asked.priority in {0, 1, 2}
            and said.row_count == len(asked.texts) == len(said.texts)
            and bool(np.isfinite(np.frombuffer(said.vectors, "<f4")).all())
            and len(said.vectors) == said.row_count * said.dimension * 4,
        ),
        Rpc(
            embedder.EmbedTokensRequest(texts=["sea", "ship"], kind=embedder.TEXT_KIND_DOCUMENT),
            lambda asked, said: 1 <= len(asked.texts) <= 1024 and all(_text(text, 262_144) for text in asked.texts)
            and asked.kind in {1, 2} and asked.priority in {0, 1, 2}
            and len(said.vectors) == len(asked.texts) == len(said.texts)
            and all(len(one.values) == one.row_count * said.model.dimension > 0 for one in said.vectors),
        ),
        Rpc(embedder.GetModelRequest(), lambda _asked, said: bool(said.model.fingerprint)),
        Rpc(
            expander.ExpandQueryRequest(
                query="sea", strategy=EXPANSION_STRATEGY_MULTI_QUERY, max_variant_count=3
            ),
            lambda asked, said: _text(asked.query, 8192) and asked.strategy in {0, 1, 2}
            and (not asked.HasField("max_variant_count") or 1 <= asked.max_variant_count <= 16)
            and said.variants[0].text == asked.query and all(0 < variant.weight <= 1 for variant in said.variants),
        ),
        Rpc(
            reranker.RerankPassagesRequest(query="sea", passages=["ship", "storm"]),
            lambda asked, said: _text(asked.query, 65_536) and 1 <= len(asked.passages) <= 1024
            and asked.priority in {0, 1, 2}
            and len(said.scores) == len(asked.passages) and all(map(math.isfinite, said.scores)),
        ),
        Rpc(reranker.GetModelRequest(), lambda _asked, said: bool(said.model.fingerprint)),
        Rpc(
            retriever.SearchPassagesRequest(
                collection="documents", variants=[retriever.QueryVariant(text="sea", vector=vector, weight=1)],
                filter=Filter(must=[Condition(field="year", exists=True)]),
                limit=3, dense_weight=1, lexical_weight=1, model_fingerprint=fingerprint, whole_count=2,
            ),
            lambda asked, said: 1 <= len(asked.variants) <= 16 and 1 <= asked.limit <= 1000 and asked.whole_count >= 0
            and all(len(one.vector) in {0, DIMENSION * 4} and _weight(one.weight) for one in asked.variants)
            and all(_finite(one.vector) for one in asked.variants)
            and _weight(asked.dense_weight) and _weight(asked.lexical_weight)
            and all(one.WhichOneof("test") for one in _conditions(asked.filter))
            and len(said.candidates) <= asked.limit and all(math.isfinite(one.score) for one in said.candidates),
        ),
        Rpc(
            retriever.GetPassagesRequest(collection="documents", ids=["p", "q"]),
            lambda asked, said: 1 <= len(asked.ids) <= 1000 and 1 <= said.read_count <= len(asked.ids)
            and len(said.passages) <= said.read_count,
        ),
        Rpc(
            retriever.CheckPassagesRequest(
                collection="documents", passages=[passage], model_fingerprint=fingerprint
            ),
            lambda asked, _said: _ids([one.id or one.document_id for one in asked.passages], 1000)
            and all(_is_value(value) for one in asked.passages for value in one.metadata.values())
            and asked.model_fingerprint == fingerprint,
        ),
        Rpc(
            retriever.UpsertPassagesRequest(
                collection="documents", passages=[retriever.PassageVector(passage=passage, vector=vector)],
                model_fingerprint=fingerprint,
            ),
            lambda asked, said: _ids([one.passage.id or one.passage.document_id for one in asked.passages], 1000)
            and all(len(one.vector) == DIMENSION * 4 and _finite(one.vector) for one in asked.passages)
            and all(_is_value(value) for one in asked.passages for value in one.passage.metadata.values())
            and asked.model_fingerprint == fingerprint and said.upserted_count == len(asked.passages),
        ),
        Rpc(
            retriever.DeletePassagesRequest(collection="documents", ids=["p", "q"]),
            lambda asked, said: 1 <= len(asked.ids) <= 1000 and 0 <= said.deleted_count <= len(set(asked.ids)),
        ),
        Rpc(
            retriever.ExpandRelationsRequest(
                collection="documents", query="sea", max_hops=1, limit=3,
                candidates=[retriever.ScoredPassage(id="p", score=1.0), retriever.ScoredPassage(id="q", score=0.5)],
            ),
            lambda asked, said: 1 <= len({one.id for one in asked.candidates}) == len(asked.candidates) <= 1000
            and all(one.id for one in asked.candidates)
            and 1 <= asked.max_hops <= 2 and len(said.passages) <= asked.limit <= 1000,
        ),
        *(
            Rpc(asked, lambda asked, said: _ids([one.id for one in asked.documents], 100) and said.changed_count >= 0)
            for asked in (
                documents.RelateDocumentsRequest(collection="fuzz", documents=[documents.RelatedDocument(id="a")]),
                retriever.RelatePassagesRequest(collection="documents", documents=[retriever.RelatedDocument(id="p")]),
            )
        ),
        *(
            Rpc(
                module.GetDocumentsRequest(collection="documents", ids=["d1", "q"]),
                lambda asked, said: 1 <= len(asked.ids) <= 1000 and len(said.missing_ids) <= len(asked.ids),
            )
            for module in (documents, retriever)
        ),
        *(
            Rpc(
                module.ListDocumentsRequest(collection="documents", filter=Filter(must=[condition]), page_size=3),
                lambda asked, _said: _named(asked.collection) and asked.page_size >= 0,  # the most for more
            )
            for module in (documents, retriever)
        ),
        Rpc(
            retriever.CreateCollectionRequest(collection="documents", model=info),
            lambda asked, said: _named(asked.collection) and bool(asked.model.fingerprint)
            and 1 <= asked.model.dimension <= 65_536 and said.collection.collection == asked.collection,
        ),
        Rpc(
            retriever.GetCollectionRequest(collection="documents"),
            lambda asked, said: said.collection.collection == asked.collection and _named(asked.collection),
        ),
        Rpc(
            embedder.SplitTextsRequest(texts=[embedder.TitledText(title="t", text="sea " * 40)], chunk_tokens=16),
            lambda asked, said: len(said.texts) == len(asked.texts)
            and all(0 <= one.start <= one.end <= len(text.text)
                    for text, parts in zip(asked.texts, said.texts, strict=True) for one in parts.chunks),
        ),
        Rpc(
            collections.CreateCollectionRequest(collection="documents", model="m"),
            lambda asked, said: _named(asked.collection) and said.live.collection == asked.collection,
        ),
        *(
            Rpc(
                module.TuneCollectionRequest(collection="documents", layout=Layout(hnsw_ef=64, replicas=1)),
                lambda asked, said: _named(asked.collection) and 0 <= said.version.layout.hnsw_ef <= 5000
                and 1 <= said.version.layout.replicas <= 32,
            )
            for module in (collections, retriever)
        ),
        *_answers(),
        *_life(fingerprint, vector),
        Rpc(
            access.CheckAccessRequest(
                identity="jwt:alice", roles=["reader"], tenant="t", method="Search", collection="documents"
            ),
            lambda asked, said: bool(asked.identity) and said.action.endswith(asked.method.rpartition("/")[2])
            and said.identity == asked.identity,
        ),
        *rollouts(),
        *experiments(),
        *feedback(),
    ]  # fmt: skip


def _answers() -> list[Rpc]:
    """Answers in words. A stream is looked at by its first part: results, or text."""
    question = answer.AnswerRequest(search=search.SearchRequest(query="sea", limit=3, collection="documents"))
    task = reasoner.ReasonRequest(
        question="sea", passages=[reasoner.SourcePassage(id="p", title="t", text="The sea. A ship.")],
        answer_schema='{"type": "string"}', max_sub_question_count=1,
    )  # fmt: skip

    def of_text(asked: Any, said: Any) -> bool:
        texts = {passage.id: passage.text for passage in asked.passages}
        return _text(asked.question, 8192) and all(
            texts[one.passage_id][one.start : one.end] == one.quote for one in said.citations
        )

    return [
        Rpc(question, lambda asked, said: _text(asked.search.query, 8192) and 0 <= asked.sub_question_count <= 2),
        Rpc(
            answer.StreamAnswerRequest(answer=question),
            lambda asked, said: _text(asked.answer.search.query, 8192) and said.HasField("search"),
        ),
        Rpc(task, lambda asked, said: of_text(asked, said.answer)),
        Rpc(reasoner.StreamReasonRequest(reason=task), lambda asked, said: of_text(asked.reason, said.answer)),
    ]


def _life(fingerprint: str, vector: bytes) -> list[Rpc]:
    """Versions and snapshots, of a collection of their own: mutants must not drop what the other methods need."""
    model = ModelInfo(name="m", fingerprint=fingerprint, dimension=DIMENSION, precision="fp32")
    copied = retriever.PassageCopy(passage=retriever.PassageVector(passage=Passage(id="p", text="sea"), vector=vector))
    named: dict[str, dict[str, Any]] = {
        "ListCollections": {},
        "RollbackCollection": {"collection": "life", "version": "life-v1"},
        "ReindexCollection": {"collection": "life", "model": "m"},
        "VerifyCollection": {"collection": "life", "version": "life-v1", "sample_size": 3},
        "CreateVersion": {"collection": "life", "model": model},
        "ComparePassages": {"collection": "life", "version": "life-v1", "ids": ["p"], "limit": 3},
        "CopyPassages": {"version": "life-v1", "passages": [copied], "model_fingerprint": fingerprint},
        "SamplePassages": {"collection": "life", "limit": 3},
        "CompleteVersion": {"version": "life-v1"},
        "AbandonVersion": {"version": "life-v1"},
        "SwitchCollection": {"collection": "life", "version": "life-v1"},
        "DeleteVersion": {"version": "life-v1"},
        "DeleteCollection": {"collection": "life"},
        "CreateSnapshot": {"collection": "life"},
        "ListSnapshots": {"collection": "life"},
        "RestoreSnapshot": {"collection": "life", "snapshot": "s"},
        "DeleteSnapshot": {"collection": "life", "snapshot": "s"},
        "StreamCreateSnapshot": {"collection": "life"},
        "EnrichCollection": {"collection": "life", "report": True},
        "StreamRestoreSnapshot": {"collection": "life", "snapshot": "s"},
        "DescribeVersion": {"collection": "life"},
        "ListKeys": {"version": "life-v1", "limit": 3},
        "ReadRecords": {"version": "life-v1", "ids": ["p"]},
        "BeginTransfer": {"collection": "life", "source_version": "life-v1", "notes": "{}"},
        "WriteRecords": {"version": "life-v1", "model_fingerprint": fingerprint},
        "CompleteTransfer": {"version": "life-v1", "passage_count": 1},
    }
    return [
        Rpc(
            getattr(module, f"{method}Request")(**fields),
            lambda asked, _said: _named(getattr(asked, "collection", "")) and _named(getattr(asked, "version", "")),
        )
        for module in (collections, retriever, transfer)
        for method, fields in named.items()
        if hasattr(module, f"{method}Request")
    ]


def _search_makes_sense(asked: Any, said: Any) -> bool:
    features, limit = asked.features, asked.limit if asked.HasField("limit") else 10
    dense = features.dense if features.HasField("dense") else True
    lexical = features.lexical if features.HasField("lexical") else True
    counts = (
        not features.HasField("max_variant_count") or 1 <= features.max_variant_count <= 16,
        not features.HasField("rerank_candidate_count") or 1 <= features.rerank_candidate_count <= 1000,
        not features.HasField("cascade_count") or 1 <= features.cascade_count <= 100,
    )
    policies = (asked.policies.expansion, asked.policies.embedding, asked.policies.rerank)
    given = bool(asked.like_document_id or asked.HasField("vector"))
    return (
        (_text(asked.query, 8192) or (given and not asked.query))
        and 0 <= asked.diversity <= 1
        and (
            not asked.HasField("vector") or (len(asked.vector.values) == DIMENSION * 4 and _finite(asked.vector.values))
        )
        and 1 <= limit <= 100
        and (dense or lexical)
        and all(counts)
        and features.expansion_strategy in {0, 1, 2}
        and all(policy in {0, 1, 2} for policy in policies)
        and all(condition.WhichOneof("test") for condition in _conditions(asked.filter))
        and len(said.results) <= limit
        and all(result.rank == rank for rank, result in enumerate(said.results, start=1))
        and all(math.isfinite(result.score) for result in said.results)
        and len(said.stages) == 5
    )


def _conditions(asked: Any) -> list[Any]:
    own = [*asked.must, *asked.should, *asked.must_not]
    return [*own, *(inner for one in own if one.WhichOneof("test") == "filter" for inner in _conditions(one.filter))]


def _text(text: str, most_bytes: int) -> bool:
    return bool(text.strip()) and len(text.encode()) <= most_bytes


def _named(collection: str) -> bool:
    """True for a name of a collection or, which is longer, of a version."""
    return re.fullmatch(r"[A-Za-z0-9_-]{0,139}", collection) is not None


def _ids(ids: Sequence[str], most: int) -> bool:
    return 1 <= len(ids) <= most and len(set(ids)) == len(ids) and all(1 <= len(one.encode()) <= 524 for one in ids)


def _is_value(value: Any) -> bool:
    kind = value.WhichOneof("kind")
    return kind is not None and (kind != "float_value" or math.isfinite(value.float_value))


def _weight(weight: float) -> bool:
    return math.isfinite(weight) and weight >= 0


def _finite(raw: bytes) -> bool:
    return bool(np.isfinite(np.frombuffer(raw, "<f4")).all())
