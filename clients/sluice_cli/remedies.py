"""Remedies for failed calls, by reason and code."""

from __future__ import annotations

import math
from collections.abc import Mapping

import grpc

from sluice_client import SluiceError

_ACCESS: Mapping[str | grpc.StatusCode, str] = {
    "AUDIT_UNAVAILABLE": "look at the disk of its AUDIT_DIR; its log has the cause, and searching goes on",
    "ACCESS_UNREADABLE": "its log says which file of access control is broken",
    grpc.StatusCode.UNAUTHENTICATED: "put a key or a token into SLUICE_TOKEN, or name its file in SLUICE_TOKEN_FILE; "
    "`sluice access key new` makes a key",
    grpc.StatusCode.PERMISSION_DENIED: "an operator sees why with `sluice access check`, and docs/access.md has the "
    "roles",
}

_GATEWAY: Mapping[str | grpc.StatusCode, str] = {
    "UNREACHABLE": "start it here with `make up`, or name another with --gateway or SLUICE_GATEWAY",
    **_ACCESS,
    "NOT_BUILDING": "the same command again goes on with what is built already",
    "BUILD_UNDER_WAY": "`sluice collections` shows it; `sluice collections --drop VERSION` gives it up",
    "VERSION_NOT_READY": "`sluice reindex` finishes it; `sluice collections` shows which versions are ready",
    "NO_PREVIOUS_VERSION": "`sluice collections` shows all versions; --to names one",
    "VERSION_LIVE": "switch to another first: `sluice rollback`, or `sluice reindex`",
    "MODEL_NOT_SERVED": "`sluice config` shows which models are served",
    "TOKEN_MODEL_NOT_SERVED": "`sluice config` shows which token models are served",
    "SNAPSHOT_NOT_FOUND": "`sluice snapshot list` names the snapshots",
    "SNAPSHOT_DAMAGED": "`sluice snapshot list` names the others; what damaged this one may damage them, too",
    "SNAPSHOT_STORAGE": "correct QDRANT_SNAPSHOT_PATH of the retriever, or its credentials; its log has the cause",
    "SWITCHED": "`sluice copy` again copies the version that is live there now",
    "TRANSFER_INCOMPLETE": "the same command compares both sides again",
    "DOCUMENT_NOT_FOUND": "`sluice documents list` shows the documents; --collection names another collection",
    "STORAGE_FULL": "free some space where Qdrant keeps its data (`sluice collections --drop VERSION`, "
    "`sluice snapshot prune --keep N`), then give the same command again; searching goes on",
    "SHARD_DOWN": "start the nodes of Qdrant that it names; other collections are searched meanwhile",
    "NO_MAJORITY": "start the nodes of Qdrant that are down; searching goes on",
    "FEEDBACK_OFF": "give the gateways FEEDBACK_KEYS (docs/experiments.md); the local stack makes a key by itself",
    "LAYOUT_FIXED": "as it says; another number of shards: `sluice snapshot create`, then `restore` with it",
    grpc.StatusCode.INVALID_ARGUMENT: "correct the named field and try again; --help shows examples",
    grpc.StatusCode.NOT_FOUND: "check --collection; `sluice collections` names them, and `sluice index` makes one with "
    "its first document",
    grpc.StatusCode.ALREADY_EXISTS: "choose another name; `sluice collections` shows those that are taken",
    grpc.StatusCode.UNAVAILABLE: "`sluice doctor` says which stage is down, and what to do",
    grpc.StatusCode.FAILED_PRECONDITION: "`sluice doctor` compares the index with the model that serves",
    grpc.StatusCode.DEADLINE_EXCEEDED: "allow more time with --timeout; `sluice doctor` shows whether a stage is down",
    grpc.StatusCode.UNIMPLEMENTED: "it is no Sluice gateway, or one of an older release; name another with --gateway",
}

_ROLLOUT: Mapping[str | grpc.StatusCode, str] = {
    "UNREACHABLE": "name another with `sluice rollout --service` or SLUICE_ROLLOUT. Gateways go on without it: ramps "
    "fall back to standard when their lease ends; to kill a feature at once, write ROLLOUT_KILL=NAME into each "
    "gateway's ROLLOUT_OVERRIDES_PATH",
    **_ACCESS,
    "FEATURE_NOT_FOUND": "`sluice rollout list` names the features",
    "FEATURE_EXISTS": "`sluice rollout show NAME` tells what it sets; a new feature needs a new name",
    "NEEDS_REARM": "find the cause with `sluice rollout report NAME`, then `sluice rollout rearm NAME`",
    "KILLED": "find the cause with `sluice rollout history NAME`, then `sluice rollout rearm NAME`",
    "ALREADY_RAMPING": "`sluice rollout status NAME` shows its progress; `rollback` it before another plan",
    "NOT_RAMPING": "`sluice rollout start PLAN` puts it on its way; `sluice rollout show NAME` tells its state",
    "NOT_SHOWN": "wait for more evidence: `sluice rollout status NAME`; `set` changes the share whatever is shown",
    "LAST_STEP": "it reaches all users that it will; `sluice rollout show NAME`",
    "COMPLETE": "it reaches all users already; `rollback` takes it back",
    "NOT_ROLLED_BACK": "only a feature that was rolled back or killed is armed again; see `sluice rollout show NAME`",
    "STANDBY": "name all replicas, and the active one answers: `sluice rollout --service ipv4:HOST:PORT,HOST:PORT`",
    "EXPERIMENT_NOT_FOUND": "`sluice experiment list` names the experiments",
    "EXPERIMENT_EXISTS": "`sluice experiment check PLAN` shows yours; a new question needs a new name",
    "ALREADY_RUNNING": "`sluice experiment status NAME` shows its progress; `sluice experiment stop NAME` ends it",
    "NOT_RUNNING": "`sluice experiment start NAME` begins a run; `sluice experiment list` tells its state",
    "LAYER_FULL": "`sluice experiment list` shows who has its users; take a smaller share, or another layer",
    "TOO_MANY_EXPERIMENTS": "`sluice experiment stop NAME` ends one that is not needed any more",
    "DATABASE_DOWN": "bring the service's database back; until then a feature is killed by ROLLOUT_KILL=NAME in each "
    "gateway's ROLLOUT_OVERRIDES_PATH",
    grpc.StatusCode.INVALID_ARGUMENT: "correct the named field and try again; --help shows examples",
    grpc.StatusCode.NOT_FOUND: "`sluice rollout list` names the features",
    grpc.StatusCode.ALREADY_EXISTS: "`sluice rollout list` shows it; a new feature needs a new name",
    grpc.StatusCode.FAILED_PRECONDITION: "`sluice rollout show NAME` tells its state and the reason",
    grpc.StatusCode.DEADLINE_EXCEEDED: "look with `sluice rollout list` whether it was done; giving it again is safe",
    grpc.StatusCode.UNIMPLEMENTED: "it is no rollout service, or one of an older release; name another with --service",
}


def remedy_of(error: SluiceError, *, rollout: bool = False) -> str:
    """Choose the remedy for a failed call of gateway or rollout service."""
    server = "service" if rollout else "gateway"
    if error.code is grpc.StatusCode.RESOURCE_EXHAUSTED and error.retryable:
        if error.reason == "QUOTA_EXCEEDED":
            return "send less at once, or ask the gateway's operator for a larger quota (docs/limits.md)"
        return f"the {server} is busy; try again in {max(1, math.ceil(error.retry_after or 0))} s"
    remedies = _ROLLOUT if rollout else _GATEWAY
    return (
        remedies.get(error.reason)
        or remedies.get(error.code)
        or f"the {server}'s log has it under request {error.request_id}"
    )
