"""The kinds of GGUF files that can be written, known before torch is imported."""

PLAIN = ("Q8_0", "BF16", "F16")  # written by the gguf package
MIXED = ("Q4_K_M", "Q5_K_M", "Q6_K")  # need ggml, see gguf_quantise.py
QUANTISATIONS = (*PLAIN, *MIXED)  # of files with all weights
LORAS = ("LORA", "LORA_F16")  # an update, in F32 or F16, with a file of all weights that it is added to
BASE = "Q8_0"  # the kind of that file, if none is named
KINDS = (*QUANTISATIONS, *LORAS)
OFFERED = ("Q8_0", "Q4_K_M", "BF16", "LORA")  # on the page; the command line writes all, several at once
