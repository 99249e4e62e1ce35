"""Checks every example: one training step and one evaluation on random images, then saving and loading.

All examples have the same form. `add_fdr` is what you need; the rest builds the network and feeds it:
    build()         their network, fresh, without FDR
    loss(network)   their training loss on a random batch of their image size
    embed(network)  their evaluation: features (N, D)
"""

import argparse
import copy
import io
import sys
from collections.abc import Callable

import torch
from torch import Tensor, nn

from toplight_ext import FDR
from toplight_ext.nn import Pooled


def arguments() -> argparse.Namespace:
    """The arguments of an example whose code base is a checkout, which is put on the path."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--root", required=True, help="checkout of the code base")
    found = parser.parse_args()
    sys.path.insert(0, found.root)
    return found


def check(
    build: Callable[[], nn.Module],
    add_fdr: Callable[[nn.Module], nn.Module],
    loss: Callable[[nn.Module], Tensor],
    embed: Callable[[nn.Module], Tensor],
) -> None:
    """Raises AssertionError if FDR does not work in the network; prints one line if it does."""
    torch.manual_seed(0)
    plain = build()
    network = add_fdr(copy.deepcopy(plain))
    names = plain.state_dict().keys()
    assert names <= network.state_dict().keys(), "the attachment renames tensors: old checkpoints would not load"

    shapes = _record_maps(network)
    value = _train_one_step(network, loss)

    features = _evaluate(network, embed)
    assert torch.isfinite(features).all(), "the features are not finite after one step"
    plain.load_state_dict({name: tensor for name, tensor in network.state_dict().items() if name in names})
    assert not torch.allclose(features, _evaluate(plain, embed)), "FDR does not reach the features"

    again = add_fdr(build())
    again.load_state_dict(_through_a_file(network))
    assert torch.equal(_evaluate(again, embed), features), "the network differs after saving and loading"

    parameters = sum(p.numel() for p in network.parameters()) - sum(p.numel() for p in plain.parameters())
    print(
        f"right: FDR sees {shapes[0]} in training and {shapes[-1]} in evaluation, "
        f"brings {parameters / 1e6:.1f} million parameters, loss {value:.2f}, features {tuple(features.shape)}"
    )


def _record_maps(network: nn.Module) -> list[tuple[int, ...]]:
    """A list that receives the sizes of the maps that reach FDR, while the network runs."""
    shapes = []
    for module in network.modules():
        if isinstance(module, (FDR, Pooled)):
            module.register_forward_pre_hook(lambda _, given: shapes.append(tuple(given[0].shape)))
    return shapes


def _train_one_step(network: nn.Module, loss: Callable[[nn.Module], Tensor]) -> float:
    optimizer = torch.optim.Adam(network.parameters(), lr=1e-4)
    value = loss(network.train())
    value.backward()
    assert torch.isfinite(value), f"the loss is {value}"
    first = next(module for module in network.modules() if isinstance(module, nn.Conv2d))
    necks = [module for module in network.modules() if isinstance(module, FDR)]
    for parameter in (first.weight, *(p for neck in necks for p in neck.parameters())):
        assert parameter.grad is not None and torch.isfinite(parameter.grad).all(), (
            "a gradient is missing or not finite"
        )
    assert first.weight.grad.any(), "no gradient reaches the first convolution"
    optimizer.step()
    return value.item()


def _evaluate(network: nn.Module, embed: Callable[[nn.Module], Tensor]) -> Tensor:
    torch.manual_seed(1)
    with torch.no_grad():
        return embed(network.eval())


def _through_a_file(network: nn.Module) -> dict[str, Tensor]:
    file = io.BytesIO()
    torch.save(network.state_dict(), file)
    file.seek(0)
    return torch.load(file, weights_only=True)
