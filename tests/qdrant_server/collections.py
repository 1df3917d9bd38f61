"""Collections and aliases over Qdrant's protocol."""

# ruff: noqa: N802  Qdrant's protocol names the methods

from __future__ import annotations

from functools import cache

import grpc
from google.protobuf.message import Message
from qdrant_client import grpc as api

from tests.qdrant_server.cluster import Known, Points, Refusal, View, changed, missing
from tests.qdrant_server.rpc import Servicer, rpc


class CollectionsService(Servicer, api.CollectionsServicer):
    """Describes and changes collections and aliases."""

    @rpc
    async def Create(self, request: api.CreateCollection) -> api.CollectionOperationResponse:
        name, config = request.collection_name, _config(request, len(self.cluster.nodes))
        points = cache(lambda: Points(config.params, len(self.cluster.nodes)))

        def create(view: View) -> bool:
            if name in view.collections or name in view.aliases:
                raise Refusal(grpc.StatusCode.ALREADY_EXISTS, f"Wrong input: Collection `{name}` already exists!")
            view.collections[name] = Known(name, points(), config)
            return True

        return _done(await self.cluster.change(self.node(), create, everywhere=True))

    @rpc
    async def Update(self, request: api.UpdateCollection) -> api.CollectionOperationResponse:
        def update(view: View) -> bool:
            known = view.named(view.aliases.get(request.collection_name, request.collection_name))
            view.collections[known.name] = changed(known, _updated(known.config, request))
            return True

        node = self.node()
        done = await self.cluster.change(node, update)
        known = self.cluster.view(node).find(request.collection_name)
        known.points.weigh(known.config.params)
        return _done(done)

    @rpc
    async def Delete(self, request: api.DeleteCollection) -> api.CollectionOperationResponse:
        name = request.collection_name

        def delete(view: View) -> bool:
            view.aliases = {alias: target for alias, target in view.aliases.items() if target != name}
            known = view.collections.pop(name, None)
            if known is not None and not known.points.dropped:
                known.points.drop()
            return known is not None

        return _done(await self.cluster.change(self.node(), delete))

    @rpc
    async def Get(self, request: api.GetCollectionInfoRequest) -> api.GetCollectionInfoResponse:
        known = self.view().find(request.collection_name)
        shards = self.cluster.readable(known)
        schema = {}
        for key, index in known.indexes.items():
            schema[key] = api.PayloadSchemaInfo()
            schema[key].CopyFrom(index)
            schema[key].points = sum(shard.points_with(key) for shard in shards)
        info = api.CollectionInfo(
            status=api.CollectionStatus.Green,
            optimizer_status=api.OptimizerStatus(ok=True),
            segments_count=len(shards),
            points_count=sum(shard.size for shard in shards),
            config=known.config,
            payload_schema=schema,
        )
        return api.GetCollectionInfoResponse(result=info)

    @rpc
    async def CollectionClusterInfo(
        self, request: api.CollectionClusterInfoRequest
    ) -> api.CollectionClusterInfoResponse:
        node = self.node()
        known = self.cluster.view(node).find(request.collection_name)
        here, there = [], []
        for number, (shard, places) in enumerate(zip(known.points.shards, known.points.places, strict=True)):
            for place, state in places.items():
                if place == node.number:
                    here.append(api.LocalShardInfo(shard_id=number, points_count=shard.size, state=state))
                else:
                    there.append(api.RemoteShardInfo(shard_id=number, peer_id=1 + place, state=state))
        return api.CollectionClusterInfoResponse(
            peer_id=node.peer_id, shard_count=len(known.points.shards), local_shards=here, remote_shards=there
        )

    @rpc
    async def UpdateCollectionClusterSetup(
        self, request: api.UpdateCollectionClusterSetupRequest
    ) -> api.UpdateCollectionClusterSetupResponse:
        if len(self.cluster.nodes) == 1:
            raise Refusal(grpc.StatusCode.INVALID_ARGUMENT, "Wrong input: Distributed mode disabled")
        assert request.WhichOneof("operation") == "replicate_shard"
        self.cluster.replicate(self.view().find(request.collection_name), request.replicate_shard)
        return api.UpdateCollectionClusterSetupResponse(result=True)

    @rpc
    async def List(self, _request: api.ListCollectionsRequest) -> api.ListCollectionsResponse:
        return api.ListCollectionsResponse(
            collections=[api.CollectionDescription(name=name) for name in self.view().collections]
        )

    @rpc
    async def CollectionExists(self, request: api.CollectionExistsRequest) -> api.CollectionExistsResponse:
        view, name = self.view(), request.collection_name
        exists = view.aliases.get(name, name) in view.collections
        return api.CollectionExistsResponse(result=api.CollectionExists(exists=exists))

    @rpc
    async def ListAliases(self, _request: api.ListAliasesRequest) -> api.ListAliasesResponse:
        return api.ListAliasesResponse(aliases=_aliases(self.view()))

    @rpc
    async def ListCollectionAliases(self, request: api.ListCollectionAliasesRequest) -> api.ListAliasesResponse:
        found = [one for one in _aliases(self.view()) if one.collection_name == request.collection_name]
        return api.ListAliasesResponse(aliases=found)

    @rpc
    async def UpdateAliases(self, request: api.ChangeAliases) -> api.CollectionOperationResponse:
        def update(view: View) -> bool:
            aliases = dict(view.aliases)
            for action in request.actions:
                match action.WhichOneof("action"):
                    case "create_alias":
                        alias, name = action.create_alias.alias_name, action.create_alias.collection_name
                        if name not in view.collections:
                            raise missing(name)
                        if alias in view.collections:
                            raise Refusal(
                                grpc.StatusCode.ALREADY_EXISTS, f"Wrong input: Collection `{alias}` already exists!"
                            )
                        aliases[alias] = name
                    case "delete_alias":
                        aliases.pop(action.delete_alias.alias_name, None)
                    case other:
                        raise NotImplementedError(f"the action {other} on aliases")
            view.aliases = aliases
            return True

        made = any(action.WhichOneof("action") == "create_alias" for action in request.actions)
        return _done(await self.cluster.change(self.node(), update, everywhere=made))


def _config(request: api.CreateCollection, nodes: int) -> api.CollectionConfig:
    """Return the configuration of a new collection, with Qdrant's defaults."""
    if request.HasField("shard_number") and not request.shard_number:
        raise ValueError("shard_number must be 1 or more")
    config = api.CollectionConfig(
        params=api.CollectionParams(
            shard_number=request.shard_number or nodes,
            replication_factor=request.replication_factor or 1,
            write_consistency_factor=request.write_consistency_factor or 1,
            on_disk_payload=request.on_disk_payload if request.HasField("on_disk_payload") else True,
            vectors_config=request.vectors_config,
            sparse_vectors_config=request.sparse_vectors_config,
        ),
        hnsw_config=api.HnswConfigDiff(m=16, ef_construct=100, full_scan_threshold=10_000, on_disk=False),
        optimizer_config=api.OptimizersConfigDiff(
            deleted_threshold=0.2, vacuum_min_vector_number=1000, default_segment_number=0, flush_interval_sec=5
        ),
        wal_config=api.WalConfigDiff(wal_capacity_mb=32, wal_segments_ahead=0),
        metadata=request.metadata,
    )
    config.hnsw_config.MergeFrom(request.hnsw_config)
    config.optimizer_config.MergeFrom(request.optimizers_config)
    config.wal_config.MergeFrom(request.wal_config)
    for name in ("quantization_config", "strict_mode_config"):
        if request.HasField(name):
            getattr(config, name).CopyFrom(getattr(request, name))
    return config


def _updated(before: api.CollectionConfig, request: api.UpdateCollection) -> api.CollectionConfig:
    """Return a configuration with the changes of a request: what it does not name stays."""
    config = api.CollectionConfig()
    config.CopyFrom(before)
    config.hnsw_config.MergeFrom(request.hnsw_config)
    config.optimizer_config.MergeFrom(request.optimizers_config)
    _take(request.params, config.params)
    if request.HasField("strict_mode_config"):
        config.strict_mode_config.MergeFrom(request.strict_mode_config)
    _quantize(config, request)
    for name, diff in request.vectors_config.params_map.map.items():
        vector = config.params.vectors_config.params_map.map[name]
        vector.hnsw_config.MergeFrom(diff.hnsw_config)
        if diff.HasField("on_disk"):
            vector.on_disk = diff.on_disk
        _quantize(vector, diff)
    for name, sparse in request.sparse_vectors_config.map.items():
        config.params.sparse_vectors_config.map[name].MergeFrom(sparse)
    for key, value in request.metadata.items():
        config.metadata[key].CopyFrom(value)
    return config


def _quantize(target: Message, request: Message) -> None:
    """Take over another quantization, or none."""
    if not request.HasField("quantization_config"):
        return
    diff = request.quantization_config  # type: ignore[attr-defined]
    target.ClearField("quantization_config")
    kind = diff.WhichOneof("quantization")
    if kind != "disabled":
        getattr(target.quantization_config, kind).CopyFrom(getattr(diff, kind))  # type: ignore[attr-defined]


def _take(diff: Message, target: Message) -> None:
    """Take over the fields that are set."""
    for field, value in diff.ListFields():
        if isinstance(value, Message):
            getattr(target, field.name).MergeFrom(value)
        else:
            setattr(target, field.name, value)


def _aliases(view: View) -> list[api.AliasDescription]:
    return [api.AliasDescription(alias_name=alias, collection_name=name) for alias, name in view.aliases.items()]


def _done(result: bool) -> api.CollectionOperationResponse:
    return api.CollectionOperationResponse(result=result)
