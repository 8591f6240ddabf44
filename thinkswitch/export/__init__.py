"""Any point of any round as ordinary weights that others can load.

    export.py               START HERE: plan, write, verify, describe, rename
    point.py                what is exported, and what the user asks for
    formats.py              the formats, what each would take, and why one cannot be had at a point
    layout.py               which tensors go to which file, and the small files with them
    safetensors_writer.py   tensors to files, a block of rows at a time
    verify.py               the files loaded again and compared with the live blend
    streaming_verifier.py   the same for a large checkpoint, while it is written
    comparison.py           the parts of two models, and how far apart they are
    gguf_writer.py          the same as GGUF, for llama.cpp, Ollama and LM Studio
      gguf_kinds.py, gguf_layout.py, gguf_quantise.py    tensors: names, order, types, rows as bytes
      gguf_tokenizer.py     vocabulary, special tokens, and how llama.cpp splits text
      gguf_verify.py        every byte read back, and what llama.cpp computes (llama_cpp.py asks it)
      gguf_folder.py        file names, Modelfile, commands
    model_card.py           README.md of the export              mergekit.py   the same point for mergekit
    destination.py          the folder: checked first, filled under a hidden name, renamed when complete

A new format is a writer beside these, which yields its progress; a way to read its files back; a field of
`ExportPoint` that asks for it; and a row in `formats.FORMATS`, which is a card on the page.
"""
