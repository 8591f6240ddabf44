"""LFM2's short convolution with a kernel per row: it stands in the place of some of its attentions."""

import torch
import torch.nn.functional as F
from torch import nn
from transformers import Cache

from thinkswitch.weights.blend_layers import SideTensors, Span, weighted_sum


class BlendKernel(nn.Module):
    """A causal convolution of every channel by itself; (rows, channels, length) -> the same."""

    def __init__(self, kernels: SideTensors, index: int, dtype: torch.dtype):
        super().__init__()
        self.kernels = nn.ParameterList(nn.Parameter(kernel, requires_grad=False) for kernel in kernels)
        self.index = index
        self.dtype = dtype
        self.size = kernels[0].shape[-1]  # the newest input and those before it
        self.kernel = torch.empty(0)  # (rows, channels, size), by `place`

    def place(self, coefficients: torch.Tensor, spans: list[Span]) -> None:
        c = coefficients[:, self.index, :2, None, None]
        kernels = [kernel[:, 0].float() for kernel in self.kernels]
        self.kernel = weighted_sum(c, kernels).to(self.dtype)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        length = x.shape[-1]
        padded = F.pad(x, (self.size - 1, 0))
        total = padded[..., :length] * self.kernel[..., :1]
        for i in range(1, self.size):
            total.addcmul_(padded[..., i : i + length], self.kernel[..., i : i + 1])
        return total


class ShortConvolution(nn.Module):
    """Lfm2ShortConv of transformers, whose convolution takes one kernel for all rows."""

    def __init__(self, original: nn.Module, kernel: BlendKernel):
        super().__init__()
        self.in_proj: nn.Module = original.in_proj  # type: ignore[assignment]  # the blend replaces both next
        self.out_proj: nn.Module = original.out_proj  # type: ignore[assignment]
        self.layer_idx: int = original.layer_idx  # type: ignore[assignment]
        self.conv = kernel

    def forward(
        self,
        hidden_states: torch.Tensor,
        past_key_values: Cache | None = None,
        attention_mask: torch.Tensor | None = None,  # (rows, length); None where nothing is padded
        **kwargs,
    ) -> torch.Tensor:
        before, after, x = self.in_proj(hidden_states).transpose(1, 2).chunk(3, 1)
        x = before * x
        if attention_mask is not None:
            x = x * attention_mask[:, None].to(x.dtype)
        length = x.shape[-1]
        if past_key_values is not None:  # gives the last inputs before these, too
            x = past_key_values.update_conv_state(x, self.layer_idx, conv_kernel_size=self.conv.size)
        y = after * self.conv(x)[..., -length:]
        return self.out_proj(y.transpose(1, 2).contiguous())
