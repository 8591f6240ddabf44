"""The kinds of GGUF files that can be written, known before torch is imported."""

PLAIN = ("Q8_0", "BF16", "F16")  # written by the gguf package
MIXED = ("Q4_K_M", "Q5_K_M", "Q6_K")  # need ggml, see gguf_quantise.py
QUANTISATIONS = (*PLAIN, *MIXED)
OFFERED = ("Q8_0", "Q4_K_M", "BF16")  # on the page; the command line writes all, and several at once
