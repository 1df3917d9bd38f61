"""Dashboard of the stages: latencies, connections to Qdrant, quality of answers, resources."""

from __future__ import annotations

from grafana_foundation_sdk.builders import dashboard

from deploy.grafana import answers, callers, enrichment
from deploy.grafana.panels import Limits, Panel, Query, buckets, dashboard_of, lines, listing, states
from deploy.grafana.promql import HERE, each, mean, quantile, rate, ratio, worst

UID = "sluice"

_SEARCH = 'grpc_service="sluice.gateway.v1.SearchService", grpc_method="Search"'
_STAGES = 'job!="qdrant"'


def built() -> dashboard.Dashboard:
    """Build seven rows."""
    return dashboard_of(
        UID,
        "Sluice",
        "Searches and the stages behind them. The third panel says whether something is wrong, the fourth which stage.",
        {
            "Latency by stage": _latency(),
            "Pool health": _pool(),
            "Quality indicators": _quality(),
            "Enrichment": enrichment.panels(),
            "Answers in words": answers.panels(),
            "Resources": _resources(),
            "Callers": callers.panels(),
        },
    )


def _latency() -> list[Panel]:
    return [
        lines(
            "Searches",
            "Searches by how they ended. degraded: answered, and the answer says what it lacks. refused: shed.",
            Query(rate("sluice_searches_total", by="outcome"), "{{outcome}}"),
            unit="reqps",
            stacked=True,
        ),
        lines(
            "Search latency",
            "From the decoded request to the answer or failure. The limits are those of P95.",
            Query(quantile(0.5, "sluice_search_latency_seconds"), "P50"),
            Query(quantile(0.95, "sluice_search_latency_seconds"), "P95"),
            Query(quantile(0.99, "sluice_search_latency_seconds"), "P99", exemplars=True),
            unit="s",
            limits=Limits(3, 4),
            alert="SluiceSearchP95",
        ),
        lines(
            "Failed searches",
            "Share of searches that failed or were refused. Callers' mistakes and cancelled calls are left out.",
            Query(
                ratio(
                    rate("grpc_server_handled_total", f'{_SEARCH}, grpc_code!~"OK|CANCELLED|INVALID_ARGUMENT"'),
                    rate("grpc_server_handled_total", f'{_SEARCH}, grpc_code!~"CANCELLED|INVALID_ARGUMENT"'),
                ),
                "failed",
            ),
            unit="percentunit",
            limits=Limits(0.02, 0.05),
            alert="SluiceSearchFailures",
        ),
        lines(
            "P99 by stage",
            "Time that searches spend on each stage, as the gateway sees it: the stage, the network, and failed tries.",
            Query(quantile(0.99, "sluice_stage_latency_seconds", by="stage"), "{{stage}}", exemplars=True),
            unit="s",
        ),
        lines(
            "Where the time of a search goes",
            "Mean seconds on each stage for each search. Embedding and expansion run side by side.",
            Query(
                f"{rate('sluice_stage_latency_seconds_sum', by='stage')}"
                f" / on () group_left () {rate('sluice_search_latency_seconds_count')}",
                "{{stage}}",
            ),
            unit="s",
            stacked=True,
        ),
        lines(
            "P99 of searches by features",
            "Searches with and without expansion and reranking.",
            Query(
                quantile(0.99, "sluice_search_latency_seconds", by="expansion, rerank, rerank_method"),
                "expansion {{expansion}}, rerank {{rerank}} ({{rerank_method}})",
                exemplars=True,
            ),
            unit="s",
        ),
        lines(
            "Retrieval with expansion and reranking",
            "P99 of the retrieve stage where there are variants to search for and candidates to return.",
            Query(
                quantile(0.99, "sluice_stage_latency_seconds", 'stage="retrieve", expansion="on", rerank="on"'), "P99"
            ),
            unit="s",
            limits=Limits(0.15, 0.5),
            alert="SluiceRetrievalP99",
        ),
        lines(
            "Embedding queries",
            "P99 in the embedder, waiting included. The bulk lane is indexing, which is meant to wait.",
            Query(quantile(0.99, "embedding_latency_seconds", by="lane"), "{{lane}}", exemplars=True),
            unit="s",
            limits=Limits(0.1),
            alert="SluiceEmbeddingP99",
        ),
        lines(
            "Reranking and expanding",
            "P99 in the reranker and in the expander. The limit is the reranker's.",
            Query(quantile(0.99, "reranker_latency_seconds"), "rerank", exemplars=True),
            Query(quantile(0.99, "query_expansion_latency_seconds", by="strategy"), "expand by {{strategy}}"),
            unit="s",
            limits=Limits(0.2),
            alert="SluiceRerankP99",
        ),
        lines(
            "Stages that were left out",
            "What stages did for searches, where it was not what was asked for. skipped: also where a feature is off.",
            Query(rate("sluice_stage_outcomes_total", 'outcome!="ran"', by="stage, outcome"), "{{stage}} {{outcome}}"),
            unit="reqps",
        ),
        lines(
            "Deadline left on arrival",
            "One call in twenty arrives at a stage with less time than this.",
            Query(quantile(0.05, "sluice_deadline_left_seconds", by="grpc_service"), "{{grpc_service}}"),
            unit="s",
        ),
        lines(
            "Calls that did not end well",
            "By stage and status code; cancelled and timed-out calls are counted.",
            Query(
                rate("grpc_server_handled_total", 'grpc_code!="OK"', by="grpc_service, grpc_code"),
                "{{grpc_service}} {{grpc_code}}",
            ),
            unit="reqps",
        ),
    ]


def _pool() -> list[Panel]:
    return [
        lines(
            "Connections to Qdrant",
            "In the fullest retriever: connections there are, those that carry a call, and calls that wait for one.",
            Query(worst("qdrant_pool_size"), "size"),
            Query(worst("qdrant_pool_in_use"), "in use"),
            Query(worst("qdrant_pool_waiting"), "waiting"),
            unit="short",
            limits=Limits(10),
            alert="SluicePoolWaiting",
        ),
        lines(
            "Waiting and searching",
            "P99 of the wait for a connection, and of searches with that wait and all retries.",
            Query(quantile(0.99, "qdrant_pool_wait_seconds"), "wait for a connection"),
            Query(quantile(0.99, "qdrant_search_seconds"), "search", exemplars=True),
            unit="s",
        ),
        lines(
            "Retries",
            "Tries of calls to Qdrant beyond their first, for each call.",
            Query(ratio(rate("qdrant_retry_attempts_total"), rate("qdrant_calls_total")), "retries a call"),
            unit="percentunit",
            limits=Limits(0.01),
            alert="SluiceQdrantRetries",
        ),
        lines(
            "Nodes of Qdrant",
            "Nodes that QDRANT_URL lists, and those that are up as the retriever sees it that sees fewest.",
            Query(worst("qdrant_nodes"), "listed"),
            Query(f"min(qdrant_nodes_up{{{HERE}}})", "up"),
            unit="short",
            alert="SluiceQdrantNodeAway",
        ),
        lines(
            "Embedded engine",
            "Deaths of its process by cause, and versions that are damaged or were not rebuilt.",
            Query(
                f"sum by (cause) (increase(qdrant_engine_deaths_total{{{HERE}}}[$__rate_interval]))",
                "died: {{cause}}",
            ),
            Query(worst("qdrant_engine_damaged_versions"), "damaged versions"),
            Query(worst("qdrant_engine_versions_not_rebuilt"), "versions not rebuilt"),
            unit="short",
            alert="SluiceEngineDies",
        ),
        lines(
            "Calls to Qdrant",
            "By the code that they ended with, after all retries.",
            Query(rate("qdrant_calls_total", by="code"), "{{code}}"),
            unit="reqps",
            stacked=True,
        ),
        states(
            "Breakers",
            "Open while calls fail fast: a stage, or Qdrant, failed several times in a row on at least one replica.",
            Query(worst("sluice_stage_breaker_open", by="stage"), "{{stage}}"),
            Query(worst("qdrant_circuit_breaker_open"), "qdrant"),
            names={0: ("closed", "green"), 1: ("open", "red")},
            alert="SluiceBreakerOpen",
        ),
        lines(
            "Retries between stages",
            "Calls that are the retry of an earlier one by the gateway's gRPC, for each call.",
            Query(
                each(
                    rate("grpc_server_retried_total", by="grpc_service"),
                    rate("grpc_server_started_total", by="grpc_service"),
                ),
                "{{grpc_service}}",
            ),
            unit="percentunit",
        ),
    ]


def _quality() -> list[Panel]:
    return [
        lines(
            "Answers without results",
            "Share of answered searches that found nothing.",
            Query(
                ratio(rate("sluice_search_results_bucket", 'le="0.0"'), rate("sluice_search_results_count")),
                "without results",
            ),
            unit="percentunit",
        ),
        lines(
            "Variants of a query",
            "Mean of searches with expansion, the query counted; and of what the expander returned, by strategy.",
            Query(mean("sluice_search_variants"), "searched for"),
            Query(
                each(
                    rate("query_expansion_variants_total", by="strategy"),
                    rate("query_expansion_latency_seconds_count", by="strategy"),
                ),
                "returned by {{strategy}}",
            ),
            unit="short",
            limits=Limits(3, below=True),
            alert="SluiceFewVariants",
        ),
        lines(
            "Searches with nothing to rerank",
            "Share of searches with reranking on that found nothing to rerank.",
            Query(
                ratio(rate("sluice_rerank_without_candidates_total"), rate("sluice_searches_total", 'rerank="on"')),
                "nothing to rerank",
            ),
            unit="percentunit",
            limits=Limits(0.5),
            alert="SluiceRerankWithoutCandidates",
        ),
        buckets(
            "Scores of the reranker",
            "Logits of passages: many near -11 are passages that have nothing to do with the query.",
            Query(rate("reranker_score_distribution_bucket", by="le"), "{{le}}"),
            unit="short",
            alert="SluiceScoresCollapsed",
        ),
        lines(
            "Spread of scores",
            "Highest less lowest score of a call. Where even P90 is near 0, the reranker tells nothing apart.",
            *(Query(quantile(share, "reranker_score_spread"), f"P{share * 100:.0f}") for share in (0.1, 0.5, 0.9)),
            unit="short",
            limits=Limits(0.25, below=True),
            alert="SluiceScoresCollapsed",
        ),
        lines(
            "Passages read by the reranker",
            "Mean of its calls.",
            Query(each(rate("reranker_candidates_total"), rate("reranker_latency_seconds_count")), "passages"),
            unit="short",
        ),
        listing(
            "Models that embed",
            "The fingerprint has to be that of the live index.",
            Query(f"count by (name, precision, device, fingerprint) (embedding_model_info{{{HERE}}})", ""),
            columns={"name": "Model", "precision": "Precision", "device": "Device", "fingerprint": "Fingerprint"},
            alert="SluiceFingerprintMismatch",
        ),
        listing(
            "Live index",
            "The live version of each gateway's default collection, and the model that made its vectors.",
            Query(f"count by (collection, version, model, fingerprint) (sluice_index_info{{{HERE}}})", ""),
            columns={
                "collection": "Collection",
                "version": "Version",
                "model": "Model",
                "fingerprint": "Fingerprint",
            },
            alert="SluiceFingerprintMismatch",
        ),
        states(
            "Index and models",
            "Whether pseudo-embeddings serve, and whether no embedder serves the model of the index.",
            Query(worst("embedding_pseudo"), "pseudo-embeddings"),
            Query(worst("sluice_fingerprint_mismatch"), "fingerprints differ"),
            names={0: ("no", "green"), 1: ("yes", "red")},
            alert="SluicePseudoEmbeddings",
        ),
        listing(
            "Models that rerank",
            "The models of all rerankers.",
            Query(f"count by (name, precision, device, fingerprint) (reranker_model_info{{{HERE}}})", ""),
            columns={"name": "Model", "precision": "Precision", "device": "Device", "fingerprint": "Fingerprint"},
        ),
        lines(
            "Passages in the index",
            "Passages in the live version of the default collection.",
            Query(worst("sluice_index_passages"), "passages"),
            unit="short",
        ),
        lines(
            "Searches by features",
            "How many searches have expansion and reranking on.",
            Query(rate("sluice_searches_total", by="expansion, rerank"), "expansion {{expansion}}, rerank {{rerank}}"),
            unit="reqps",
            stacked=True,
        ),
    ]


def _resources() -> list[Panel]:
    return [
        lines(
            "Processors",
            "Cores that the replicas of each stage use together.",
            Query(rate("process_cpu_seconds_total", _STAGES, by="job"), "{{job}}"),
            unit="short",
            stacked=True,
        ),
        lines(
            "Memory",
            "Resident memory of the largest replica of each stage.",
            Query(worst("process_resident_memory_bytes", _STAGES, by="job"), "{{job}}"),
            unit="bytes",
        ),
        lines(
            "Replicas",
            "Replicas that answer Prometheus.",
            Query(f"sum by (job) (up{{{HERE}, {_STAGES}}})", "{{job}}"),
            unit="short",
            alert="SluiceStageDown",
        ),
        lines(
            "Calls under way",
            "Calls under way in the fullest replica, and the limit where there is one: over it, calls are refused.",
            Query(f"max by (job) (sum by (job, instance) (grpc_server_in_flight{{{HERE}}}))", "{{job}}"),
            Query(f"min by (job) (sluice_concurrency_limit{{{HERE}}})", "limit of {{job}}"),
            unit="short",
        ),
        lines(
            "Tokens that wait for a model",
            "Mean of the replicas; what model stages are scaled by.",
            Query(f"avg by (job, lane) (sluice_queued_tokens{{{HERE}}})", "{{job}} {{lane}}"),
            unit="short",
        ),
        lines(
            "Work refused or dropped",
            "Calls that a model stage turned away, and work that nobody waited for any more.",
            Query(rate("sluice_refused_calls_total", by="job, lane, reason"), "{{job}} {{lane}} refused: {{reason}}"),
            Query(rate("sluice_dropped_work_total", by="job, lane, reason"), "{{job}} {{lane}} dropped: {{reason}}"),
            unit="reqps",
        ),
        lines(
            "Rows of a batch",
            "Mean rows of one pass through the model.",
            Query(mean("embedding_batch_size"), "embedder"),
            Query(mean("reranker_batch_size"), "reranker"),
            unit="short",
        ),
        lines(
            "Passes through the models",
            "P99 of one pass, and of how long the first of a batch waited for it.",
            Query(quantile(0.99, "sluice_batch_compute_seconds", by="job, lane"), "{{job}} {{lane}} computing"),
            Query(quantile(0.99, "sluice_batch_wait_seconds", by="job, lane"), "{{job}} {{lane}} waiting"),
            unit="s",
        ),
        lines(
            "Tokens computed",
            "Tokens a second that models computed; padding is computed for nothing.",
            Query(rate("sluice_computed_tokens_total", by="job"), "{{job}}"),
            Query(rate("sluice_padding_tokens_total", by="job"), "{{job}} padding"),
            unit="short",
            stacked=True,
        ),
        lines(
            "Results from the cache",
            "Share of vectors and scores that were not computed again.",
            Query(
                each(
                    rate("sluice_reused_results_total", 'source="cache"', by="job"),
                    rate("sluice_requested_results_total", by="job"),
                ),
                "{{job}}",
            ),
            unit="percentunit",
        ),
        lines(
            "Open files",
            "File descriptors of the fullest replica of each stage, connections among them.",
            Query(worst("process_open_fds", _STAGES, by="job"), "{{job}}"),
            unit="short",
        ),
        lines(
            "Spans",
            "Spans of traces that the collector took, and those that were lost. Nothing else suffers from that.",
            Query(rate("sluice_spans_total", by="job, result"), "{{job}} {{result}}"),
            unit="short",
        ),
    ]
