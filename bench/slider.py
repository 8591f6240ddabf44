"""(c) From moving the slider to the first new token.

The live blend, a model materialised in memory, a merged folder.

    python bench/slider.py [--repeats 3] [--mergekit PATH/mergekit-yaml]

A random pair of 0.3 B. The blend is loaded once, before; the other two must make new weights for every t,
which is what moving the slider means for them: the folder is written by our own fast stream and, with
--mergekit, by mergekit's command (0.1.5, in a venv of its own), as one would do today. Same point, same
prompt. Last line: JSON.
"""

import subprocess
import tempfile
from pathlib import Path

import torch
from common import arguments, parameters, random_pair, report, seconds
from transformers import AutoModelForCausalLM

from thinkswitch import rounds
from thinkswitch.generate import Row, Sampling, generate
from thinkswitch.weights.live_blend import Blend
from thinkswitch.weights.materialise import materialise

PROMPT = "Tom has 7 + 5 - 3 + 8 - 2 coins. Ann has 9 to 12 coins. Does Tom have more?"


def measure(args, pair, dtype, folder) -> dict:
    state, tok = rounds.start(pair), pair.instruct.tokenizer
    ids = tuple(pair.instruct.prompt_ids(PROMPT))
    blend = Blend(pair, device=args.device, dtype=dtype)

    def first_token(model, point=None) -> str:
        return next(
            c.text
            for c in generate(model, tok, [Row(ids, Sampling(max_new_tokens=1), recipe=point)], set())
            if c.finish
        )

    def live():
        return first_token(blend, state.point(0.55))

    def in_memory():
        return first_token(materialise(pair, [], state.point(0.55), args.device, dtype))

    def by_folder():
        merged = materialise(pair, [], state.point(0.55), "cpu", torch.bfloat16)
        merged.save_pretrained(folder)
        del merged
        return first_token(AutoModelForCausalLM.from_pretrained(folder, dtype=dtype).to(args.device))

    def by_mergekit():
        config = Path(folder) / "slerp.yml"
        config.write_text(f"""
slices: [{{sources: [{{model: {pair.instruct.folder}, layer_range: [0, {pair.config.num_hidden_layers}]}},
                     {{model: {pair.thinking.folder}, layer_range: [0, {pair.config.num_hidden_layers}]}}]}}]
merge_method: slerp
base_model: {pair.instruct.folder}
parameters: {{t: 0.55}}
dtype: bfloat16
""")
        subprocess.run(
            [args.mergekit, config, f"{folder}/merged", "--quiet"], check=True, capture_output=True
        )
        return first_token(
            AutoModelForCausalLM.from_pretrained(f"{folder}/merged", dtype=dtype).to(args.device)
        )

    ways = [live, in_memory, by_folder] + ([by_mergekit] if args.mergekit else [])
    times = {f.__name__: seconds(f, args.repeats) for f in ways}
    return dict(
        parameters=parameters(pair),
        dtype=str(dtype).removeprefix("torch."),
        prompt_tokens=len(ids),
        **{f"{k}_s": v for k, v in times.items()},
        **{f"ratio_{k}": v / times["live"] for k, v in times.items() if k != "live"},
    )


def main() -> None:
    args = arguments(__doc__.splitlines()[0], mergekit="path of mergekit-yaml, to time it as well")
    dtypes = [torch.bfloat16] if args.device == "cuda" else [torch.float32, torch.bfloat16]
    with random_pair("33M" if args.quick else "0.3B") as pair, tempfile.TemporaryDirectory() as folder:
        report(args, "slider", [measure(args, pair, dtype, folder) for dtype in dtypes])


if __name__ == "__main__":
    main()
