"""The key-value cache of a decode, with room made ahead."""

import torch
from transformers import DynamicCache, PretrainedConfig
from transformers.cache_utils import DynamicLayer, DynamicSlidingWindowLayer, LinearAttentionLayer

GROWTH = 0.25  # share of the length that a buffer gets in addition when it grows


class PreallocatedCacheLayer(DynamicLayer):
    """Keys and values (rows, heads, length, size) at the beginning of buffers that grow by a quarter.

    Ours because DynamicLayer copies the whole cache at every token, and StaticLayer takes its final length at
    the start. It relies on a private API of transformers (lazy_initialization, and what a model calls of a
    layer): transformers is pinned, and a test compares with model.generate.
    """

    keys: torch.Tensor  # views of the buffers
    values: torch.Tensor
    buffers: list[torch.Tensor]
    capacity = 0

    def update(
        self, key_states: torch.Tensor, value_states: torch.Tensor, *args, **kwargs
    ) -> tuple[torch.Tensor, torch.Tensor]:
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
        old = self.get_seq_length()
        new = old + key_states.shape[-2]
        if new > self.capacity:
            self.capacity = new + max(64, int(new * GROWTH))
            both = (key_states, value_states)
            larger = [x.new_empty(*x.shape[:2], self.capacity, x.shape[-1]) for x in both]
            if old:
                larger[0][:, :, :old] = self.keys
                larger[1][:, :, :old] = self.values
            self.buffers = larger
        keys, values = self.buffers
        keys[:, :, old:new] = key_states
        values[:, :, old:new] = value_states
        self.keys, self.values = keys[:, :, :new], values[:, :, :new]
        return self.keys, self.values

    def batch_select_indices(self, indices: torch.Tensor) -> None:
        used = self.get_seq_length()
        self.buffers = [buffer[indices] for buffer in self.buffers]
        self.keys, self.values = (buffer[:, :, :used] for buffer in self.buffers)


class ConvolutionCacheLayer(LinearAttentionLayer):
    """The last inputs of a convolution (LFM2). Ours because rows cannot leave that of transformers."""

    def batch_select_indices(self, indices: torch.Tensor) -> None:
        states = self.conv_states[0]
        if states is not None:
            self.conv_states[0] = states[indices]


def replace_layers(cache: DynamicCache) -> None:
    """Give a new cache our layers where we have better ones. Sliding windows keep those of transformers."""
    ours: dict[type, type] = {
        DynamicLayer: PreallocatedCacheLayer,
        LinearAttentionLayer: ConvolutionCacheLayer,
    }
    cache.layers = [ours[type(layer)]() if type(layer) in ours else layer for layer in cache.layers]


def cache_bytes(config: PretrainedConfig, value_bytes: int, tokens: int) -> int:
    """The cache of one row of so many tokens. Layers with a sliding window or a convolution keep no more."""
    heads = getattr(config, "num_key_value_heads", None) or config.num_attention_heads
    size = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    kept = 0  # values
    for layer in DynamicCache(config=config).layers:  # transformers knows which layers are which
        if isinstance(layer, DynamicSlidingWindowLayer):
            kept += 2 * heads * size * min(tokens, layer.sliding_window - 1)
        elif isinstance(layer, LinearAttentionLayer):
            kept += config.hidden_size * config.conv_L_cache
        else:
            kept += 2 * heads * size * tokens
    return kept * value_bytes
