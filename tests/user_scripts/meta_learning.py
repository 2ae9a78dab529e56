"""A loss evaluated under several sets of parameters at once, and an inner step through which gradients flow."""

import torch
from tensordict import TensorDict
from tensordict.nn import TensorDictModule
from torch import nn

from torchrl.modules import MLP, Actor, TanhModule, ValueOperator  # noqa: F401
from torchrl.objectives import DDPGLoss


def make_loss():
    torch.manual_seed(0)
    actor = TensorDictModule(
        nn.Sequential(MLP(3, 1, num_cells=[16]), nn.Tanh()), in_keys=["observation"], out_keys=["action"]
    )
    value = ValueOperator(MLP(4, 1, num_cells=[16]), in_keys=["observation", "action"])
    loss = DDPGLoss(actor, value, delay_actor=False, delay_value=False, loss_function="l2")
    loss.make_value_estimator(gamma=0.9)
    return loss


def make_batch(n=32):
    obs = torch.randn(n, 3)
    return TensorDict(
        observation=obs,
        action=torch.rand(n, 1) * 2 - 1,
        next=dict(
            observation=torch.randn(n, 3),
            reward=obs.sum(-1, True),
            done=torch.zeros(n, 1, dtype=torch.bool),
            terminated=torch.zeros(n, 1, dtype=torch.bool),
        ),
        batch_size=[n],
    )


def main(num_models=3):
    loss_module, batch = make_loss(), make_batch()
    params = TensorDict.from_module(loss_module)
    stacked = torch.stack([params.data + 0.1 * i for i in range(num_models)]).contiguous()

    def compute(one, data):
        with one.to_module(loss_module):
            return loss_module(data).select("loss_actor", "loss_value")

    batched = torch.vmap(compute, (0, None))(stacked, batch)
    for i in range(num_models):
        alone = compute(stacked[i], batch)
        for key in ("loss_actor", "loss_value"):
            torch.testing.assert_close(batched[key][i], alone[key])

    # The parameters that the loss names, under vmap over a stack of them.
    value_params = loss_module.value_network_params
    assert "value_network_params" in dict(loss_module.named_children()) or any(
        name.startswith("value_network_params") for name, _ in loss_module.named_parameters()
    )
    many = torch.stack([value_params.data, value_params.data + 0.5]).contiguous()

    def values(one):
        with one.to_module(loss_module.value_network):
            return loss_module.value_network(batch.select("observation", "action"))["state_action_value"]

    assert torch.vmap(values)(many).shape == (2, 32, 1)

    # One inner step by hand; the outer loss is differentiated through it.
    meta_lr = torch.tensor(0.05, requires_grad=True)
    outer_optim = torch.optim.Adam([meta_lr], lr=0.02)
    outer = []
    for _ in range(10):
        inner = params.data.clone().apply(lambda p: p.requires_grad_() if p.is_floating_point() else p)
        names = sorted((k for k in inner.keys(True, True)), key=str)
        value_names = [k for k in names if "value_network_params" in str(k) and inner[k].requires_grad]
        assert value_names
        first = compute(inner, batch)["loss_value"]
        grads = torch.autograd.grad(first, [inner[k] for k in value_names], create_graph=True, allow_unused=True)
        adapted = inner.clone(recurse=False)
        for key, grad in zip(value_names, grads, strict=True):
            if grad is not None:
                adapted = adapted.set(key, inner[key] - meta_lr * grad)
        second = compute(adapted, batch)["loss_value"]
        outer_optim.zero_grad()
        second.backward()
        assert meta_lr.grad is not None
        assert meta_lr.grad.isfinite()
        outer_optim.step()
        outer.append(second.item())
    return outer


if __name__ == "__main__":
    outer = main()
    assert outer[-1] < outer[0], outer
