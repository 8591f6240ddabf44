"""The model families that can be blended."""

# Decoders of one shape: linear layers, one embedding, RMSNorm; blending knows these and no others.
SUPPORTED = ("llama", "mistral", "qwen2", "qwen3")
