"""ThinkSwitch: teach an instruct model what its thinking twin works out, and rebuild the twin by SLERP.

    for round in range(1, rounds + 1):
        answers  = think(thinking, prompts)              # trace, then answer
        pairs    = strip(answers)                        # (prompt, answer): no trace, no human label
        adapter  = distil(instruct, pairs)               # LoRA, loss on answer tokens only
        instruct = instruct + adapter
        thinking = slerp(instruct, anchor, t)            # per tensor
        measure(instruct, thinking)                      # held-out problems

Read loop.py (the method), recipe.py (a checkpoint is a few scalars per tensor) and weights/live_blend.py (the
live model) in this order; docs/architecture.md has the whole picture.
"""

__version__ = "0.9.0"
