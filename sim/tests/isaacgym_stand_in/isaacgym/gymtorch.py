"""Between descriptors of tensors and torch."""

from . import gymapi


def wrap_tensor(gym_tensor):
    """The torch tensor that shares the descriptor's memory."""
    if not isinstance(gym_tensor, gymapi.Tensor):
        raise TypeError(f"wrap_tensor takes a gymapi.Tensor, not {type(gym_tensor).__name__}")
    return gym_tensor._torch


def unwrap_tensor(torch_tensor):
    """A descriptor of the tensor's memory."""
    if not torch_tensor.is_contiguous():
        raise ValueError("Input tensor must be contiguous")
    return gymapi.Tensor(torch_tensor)
