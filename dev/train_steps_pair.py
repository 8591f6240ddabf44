"""Makes the pair of docs/method.md whose thinking side rises, in part by what it taught. Not shipped.

    python dev/train_steps_pair.py FOLDER
    ./start.sh run FOLDER/steps.yaml

The base begins as the mean of the two checkpoints of presets/tiny and learns sums of two digits. It is
stopped early, while one step in ten of a chain is wrong, so that there is something to learn.
"""

import argparse
from pathlib import Path

import steps_problems
import torch
from train_tiny_pair import Training, save, train
from transformers import AutoTokenizer, Qwen3ForCausalLM

from tiny_problems import TINY

BATCH = 48
SINGLE = 0.6  # share of single steps among the problems of the second phase and of both fine-tunes
FIRST = Training("base, first phase", 400, 1e-3, traced=0.7, seed=0, batch=BATCH)
SECOND = Training("base, second phase", 400, 1e-3, traced=0.75, seed=5, batch=BATCH)
INSTRUCT = Training("instruct", 40, 5e-4, traced=0.0, seed=6, batch=BATCH)
THINKING = Training("thinking", 40, 5e-4, traced=1.0, seed=7, batch=BATCH)

PRESET = """name: steps
instruct: instruct
thinking: thinking
train_set: train.jsonl
held_out_set: held_out.jsonl
prompts: 3904
held_out: 1000
rounds: 1
t: 0.5
greedy: true
think_tokens: 160
instruct_tokens: 160
rows: 256
batch: 32
micro_batch: 32
learning_rate: 1.0e-3
"""


def mean_of_the_embedded_pair() -> Qwen3ForCausalLM:
    model = Qwen3ForCausalLM.from_pretrained(TINY / "instruct", dtype=torch.float32)
    other = Qwen3ForCausalLM.from_pretrained(TINY / "thinking", dtype=torch.float32)
    mine, others = model.state_dict(), other.state_dict()
    model.load_state_dict({name: (mine[name] + others[name]) / 2 for name in mine})
    return model


def learning_rate(step: int, training: Training) -> float:
    """Linear warm-up over 50 steps; falls over the last 30 %, and never below a twentieth."""
    warm = min(1.0, (step + 1) / 50)
    cool = (training.steps - step) / (0.3 * training.steps)
    return training.lr * warm * min(1.0, max(0.05, cool))


def teach(model, tok, training: Training, single: float) -> None:
    stream = steps_problems.problems("pretrain", training.seed, single)
    train(model, tok, training, stream, learning_rate)


def twin(tok, base: dict[str, torch.Tensor], training: Training) -> Qwen3ForCausalLM:
    """A fine-tune of the base, whose weights `base` holds."""
    model = mean_of_the_embedded_pair()
    model.load_state_dict(base)
    teach(model, tok, training, SINGLE)
    return model


def main() -> None:
    flag = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    flag.add_argument("folder", type=Path)
    folder = flag.parse_args().folder
    torch.set_num_threads(1)  # with more, sums are added in another order
    tok = AutoTokenizer.from_pretrained(TINY / "instruct")
    model = mean_of_the_embedded_pair()
    teach(model, tok, FIRST, single=0.5)
    teach(model, tok, SECOND, SINGLE)
    base = model.state_dict()
    instruct, thinking = twin(tok, base, INSTRUCT), twin(tok, base, THINKING)
    save(instruct, tok, folder / "instruct", "", {"temperature": 0.7, "top_p": 0.95, "top_k": 20})
    save(thinking, tok, folder / "thinking", "<think>\\n", {"temperature": 0.6, "top_p": 0.95, "top_k": 20})
    steps_problems.write(folder / "train.jsonl", steps_problems.train())
    steps_problems.write(folder / "held_out.jsonl", steps_problems.held_out())
    (folder / "steps.yaml").write_text(PRESET)


if __name__ == "__main__":
    main()
