from importlib import import_module

from deploy.local.paths import ROOT
from deploy.stages import STAGES
from drills.faults.rpcs.stages import rpcs
from drills.parts.rpc import methods_of

PROTOS = ROOT / "protos"


def test_the_drill_knows_every_method_of_every_service_that_a_proto_promises():
    modules = [
        ".".join(file.relative_to(PROTOS).with_suffix("").parts) + "_pb2" for file in PROTOS.glob("sluice/*/v1/*.proto")
    ]
    promised = {method.full_name for module in modules for method in methods_of(import_module(module).DESCRIPTOR)}
    assert sorted(rpc.method.full_name for rpc in rpcs("f")) == sorted(promised)


def test_the_drill_knows_every_stage():
    assert {rpc.stage for rpc in rpcs("f")} == {spec.name for spec in STAGES}
