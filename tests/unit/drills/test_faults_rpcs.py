from drills.faults.rpcs import FILES, rpcs
from drills.parts.rpc import methods_of


def test_the_drill_knows_every_method_of_every_stage():
    promised = {method.full_name for file in FILES for method in methods_of(file)}
    assert sorted(rpc.method.full_name for rpc in rpcs("f")) == sorted(promised)
