"""ThinkSwitch: distil a thinking checkpoint's answers into its instruct twin, and rebuild the thinker by SLERP.

    for round in range(1, rounds + 1):
        answers  = think(thinking, prompts)              # trace, then answer
        pairs    = strip(answers)                        # (prompt, answer): no trace, no human label
        adapter  = distil(instruct, pairs)               # LoRA, loss on answer tokens only
        instruct = instruct + adapter
        thinking = slerp(instruct, anchor, t)            # per tensor
        measure(instruct, thinking)                      # held-out problems

Read in this order: loop (the method), recipe (a checkpoint is a few scalars per tensor), blend (the live model),
generate, distil, evaluate; then preset, tasks, trace, pair, materialise, runs, export.
"""
