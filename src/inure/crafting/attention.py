"""Where the attention of a net is: found by what a module holds, not by the name of the net."""

from collections.abc import Iterator

from torch import nn

_TO_QUERIES = ("qkv", "qk", "q", "q_proj", "query", "in_proj_weight")
_FROM_VALUES = ("proj", "out_proj", "o_proj")


def attention_modules(model: nn.Module) -> list[nn.Module]:
    """Modules that project to queries and from values, in the order of the net; of nested ones the outermost."""
    return list(_within(model))


def _within(module: nn.Module) -> Iterator[nn.Module]:
    if _holds(module, _TO_QUERIES) and _holds(module, _FROM_VALUES):
        yield module
        return
    for child in module.children():
        yield from _within(child)


def _holds(module: nn.Module, names: tuple[str, ...]) -> bool:
    return any(getattr(module, name, None) is not None for name in names)
