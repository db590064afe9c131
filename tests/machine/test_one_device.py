"""One device without Fabric computes, bit for bit, what Fabric computes; the compiler is not loaded for either."""

from dataclasses import replace

import pytest
import torch
from lightning_fabric import Fabric

from contracts import METHODS, STEPS
from inure.balance import Balance
from inure.machine import engine
from inure.machine.eager import eagerly
from inure.machine.engine import Engine
from inure.machine.one_device import OneDevice
from inure.optimizers import SGD
from inure.recipe.regime import Regime
from inure.steps import Joints
from inure.training.step import local_module, step_of
from tiny import assert_same_state, memory_of, state_of, tiny_batch, tiny_net

LINES = (*METHODS, *STEPS)


def stepped(fabric, method):
    torch.manual_seed(0)
    net, memory = tiny_net().train(), memory_of(method)
    model, optimizer = fabric.setup(net, SGD(lr=0.05).build(net))
    joints = Joints(balance=Balance(), regime=Regime())
    logged = [
        step_of(method)(
            fabric, model, optimizer, replace(tiny_batch(seed=seed), memory=memory), method=method, joints=joints
        )
        for seed in range(3)
    ]
    assert local_module(model) is net
    return net, [{name: float(value) for name, value in found.items()} for found in logged]


@pytest.mark.parametrize("line", LINES, ids=[f"{line.method.kind}-{i}" for i, line in enumerate(LINES)])
def test_steps_of_every_method_are_fabric_s_bit_for_bit(fabric, line):
    net, logged = stepped(OneDevice(torch.device("cpu")), line.method)
    theirs, log_of_theirs = stepped(fabric, line.method)
    assert logged == log_of_theirs
    assert_same_state(state_of(theirs), state_of(net))


def test_a_placed_net_knows_what_the_net_knows():
    net = tiny_net()
    model, _ = OneDevice(torch.device("cpu")).setup(net, SGD().build(net))
    assert model.module is net
    assert model.num_classes == net.num_classes
    assert model.domains == ()
    assert model.train().training
    assert net.training
    with pytest.raises(AttributeError, match="nothing"):
        _ = model.nothing


def test_one_process_in_float32_needs_no_fabric(monkeypatch):
    assert isinstance(engine.start(Engine(accelerator="cpu")), OneDevice)
    assert isinstance(engine.start(Engine(accelerator="cpu", precision="tf32")), OneDevice)
    assert isinstance(engine.start(Engine(accelerator="cpu", precision="bf16")), Fabric)
    monkeypatch.setenv("LT_CLI_USED", "1")
    assert isinstance(engine.start(Engine(accelerator="cpu")), Fabric)


def test_compiled_nets_run_eagerly_inside():
    calls = []

    def backend(graph, inputs):
        calls.append(len(inputs))
        return graph.forward

    net, x = torch.nn.Linear(2, 2), torch.zeros(1, 2)
    net.compile(backend=backend)
    with torch.no_grad(), eagerly():
        net(x)
    assert calls == []
    with torch.no_grad():
        net(x)
    assert len(calls) == 1
