"""Where the time of our own decode step goes: weights, arithmetic, and the rest by operation.

Used by `bench/engines.py --profile`. Of a step the floor is what this machine needs to read all weights once
(measured by a sum over a block larger than its caches), or to multiply as much (measured on one large
product). The linear layers alone, one after the other as a step has them, say how near torch comes to that.
"""

from collections.abc import Iterator
from statistics import median

import torch
from common import dtype_name, once, parameters
from torch.profiler import ProfilerActivity
from torch.profiler import profile as torch_profile

from thinkswitch import rounds
from thinkswitch.generate import Row, generate
from thinkswitch.sampler import Sampling
from thinkswitch.weights.materialise import materialise
from thinkswitch.weights.pair import Pair

BLOCK_BYTES = 1 << 29  # larger than any cache
PRODUCT = 1024  # rows and columns of a product that shows how fast this machine multiplies
OPERATIONS = 8  # of the profile, shown by name
LINEAR = ("aten::addmm", "aten::mm", "aten::linear", "aten::matmul", "mkldnn::_linear_pointwise")


def profile(args, pair: Pair) -> Iterator[dict]:
    """A line for each number of rows."""
    model = materialise(pair, [], rounds.start(pair).thinking, args.device, torch.float32)
    linears = [module for module in model.modules() if isinstance(module, torch.nn.Linear)]
    numbers = sum(linear.weight.numel() for linear in linears)
    weight_bytes = numbers * linears[0].weight.element_size()
    bandwidth = read_bandwidth(args)
    speed = product_speed(args)
    for count in args.rows:
        step = step_seconds(args, model, pair, count)
        products = products_seconds(args, linears, count)
        reading = weight_bytes / bandwidth
        multiplying = 2 * numbers * count / speed
        yield {
            "parameters": parameters(pair),
            "dtype": dtype_name(linears[0].weight.dtype),
            "rows": count,
            "step_ms": 1e3 * step,
            "bandwidth_GB_s": bandwidth / 1e9,
            "product_GFLOP_s": speed / 1e9,
            "reading_weights_share": reading / step,
            "multiplying_share": multiplying / step,
            "linear_layers_share": products / step,
            "linear_layers_over_floor": products / max(reading, multiplying),
            **rest(args, model, pair, count),
        }


def decode(model, pair: Pair, count: int, tokens: int) -> None:
    ids = tuple(pair.thinking.prompt_ids("How many apples has Tom now?"))
    rows = [Row(ids, Sampling(0.6, top_k=20, top_p=0.95, max_new_tokens=tokens), i) for i in range(count)]
    list(generate(model, pair.thinking.tokenizer, rows, set(), batch=count, stream=False))


def step_seconds(args, model, pair: Pair, count: int) -> float:
    """Of one token after the first: a long answer less a short one."""
    decode(model, pair, count, 2)  # does not count
    steps = args.tokens
    differences = []
    for _ in range(args.repeats):
        long = once(lambda: decode(model, pair, count, 1 + steps))
        differences.append(long - once(lambda: decode(model, pair, count, 1)))
    return median(differences) / steps


@torch.inference_mode()
def products_seconds(args, linears: list[torch.nn.Linear], count: int) -> float:
    """All linear layers once, one after the other: their weights come from memory, as in a step."""
    inputs = {size: torch.randn(count, size) for size in {linear.in_features for linear in linears}}
    inputs = {size: x.to(linears[0].weight) for size, x in inputs.items()}

    def work() -> None:
        for linear in linears:
            linear(inputs[linear.in_features])

    once(work)
    return median(once(work) for _ in range(max(3, args.repeats)))


def read_bandwidth(args) -> float:
    """Bytes a second."""
    block = torch.ones(BLOCK_BYTES // 4, device=args.device)
    block.sum()
    return BLOCK_BYTES / min(once(block.sum) for _ in range(max(3, args.repeats)))


def product_speed(args) -> float:
    """Floating-point operations a second."""
    a, b = (torch.randn(PRODUCT, PRODUCT, device=args.device) for _ in range(2))
    a @ b
    return 2 * PRODUCT**3 / min(once(lambda: a @ b) for _ in range(max(3, args.repeats)))


def rest(args, model, pair: Pair, count: int) -> dict:
    """Shares of operations in the time of a short answer; what no operation takes is Python's."""
    with torch_profile(activities=[ProfilerActivity.CPU]) as recorded:
        took = once(lambda: decode(model, pair, count, 1 + args.tokens))
    own = {event.key: event.self_cpu_time_total / 1e6 for event in recorded.key_averages()}
    inside = {name: seconds for name, seconds in own.items() if name.startswith(("aten::", "mkldnn::"))}
    linear = sum(inside.pop(name, 0.0) for name in LINEAR)
    largest = sorted(inside.items(), key=lambda one: one[1], reverse=True)[:OPERATIONS]
    shares = {name.partition("::")[2]: round(seconds / took, 3) for name, seconds in largest}
    total = linear + sum(inside.values())
    return {"profiled": {"linear": round(linear / took, 3), **shares, "python": round(1 - total / took, 3)}}
