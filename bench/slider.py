"""(c) From moving the slider to the first new token: the live blend, a model materialised in memory, a merged folder.

    python bench/slider.py [--repeats 3]

A random pair of 0.3 B. The blend is loaded once, before; the other two must make new weights for every t, which is
what moving the slider means for them. Same point, same prompt, same token. Last line: JSON.
"""

import tempfile

import torch
from common import arguments, parameters, random_pair, report, seconds
from transformers import AutoModelForCausalLM

from thinkswitch import recipe
from thinkswitch.blend import Blend
from thinkswitch.generate import Row, Sampling, generate
from thinkswitch.materialise import materialise

PROMPT = "Tom has 7 + 5 - 3 + 8 - 2 coins. Ann has 9 to 12 coins. Does Tom have more?"


def measure(args, pair, dtype, folder) -> dict:
    state, tok = recipe.start(pair), pair.instruct.tokenizer
    ids = tuple(pair.instruct.prompt_ids(PROMPT))
    blend = Blend(pair, device=args.device, dtype=dtype)

    def first_token(model, point=None) -> str:
        return next(c.text for c in generate(model, tok, [Row(ids, Sampling(max_new_tokens=1), recipe=point)], set()) if c.finish)

    def live():
        return first_token(blend, state.point(0.55))

    def in_memory():
        return first_token(materialise(pair, [], state.point(0.55), args.device, dtype))

    def by_folder():
        merged = materialise(pair, [], state.point(0.55), "cpu", torch.bfloat16)
        merged.save_pretrained(folder)
        del merged
        return first_token(AutoModelForCausalLM.from_pretrained(folder, dtype=dtype).to(args.device))

    times = {f.__name__: seconds(f, args.repeats) for f in (live, in_memory, by_folder)}
    return dict(parameters=parameters(pair), dtype=str(dtype).removeprefix("torch."), prompt_tokens=len(ids),
                **{f"{k}_s": v for k, v in times.items()},
                ratio_in_memory=times["in_memory"] / times["live"], ratio_folder=times["by_folder"] / times["live"])


def main() -> None:
    args = arguments(__doc__.splitlines()[0])
    dtypes = [torch.bfloat16] if args.device == "cuda" else [torch.float32, torch.bfloat16]
    with random_pair("42M" if args.quick else "0.3B") as pair, tempfile.TemporaryDirectory() as folder:
        report(args, "slider", [measure(args, pair, dtype, folder) for dtype in dtypes])


if __name__ == "__main__":
    main()
