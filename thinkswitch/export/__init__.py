"""Any point of any round as ordinary weights that others can load.

    export.py               START HERE: plan, write, verify, describe, rename
    point.py                what is exported, and what the user asks for
    formats.py              the formats, what each would take, and why one cannot be had at a point
    layout.py               which tensors go to which file, and the small files with them
    safetensors_writer.py   tensors to files, a block of rows at a time
    verify.py               the files loaded again and compared with the live blend
    streaming_verifier.py   the same for a large checkpoint, while it is written
    comparison.py           the parts of two models, and how far apart they are
    model_card.py           README.md of the export              mergekit.py   the same point for mergekit
    destination.py          the folder: checked first, filled under a hidden name, renamed when complete

A new format is a writer beside safetensors_writer.py. GGUF would be gguf_writer.py with a function like
`write_shards`, which takes the planned tensors and yields its progress. It also needs the names and types of
its tensors in `layout.plan_entries`, a way to read the files back in `verify.load_export`, a field of
`ExportPoint` that asks for it, and a row in `formats.FORMATS`, which is a card on the page.
"""
