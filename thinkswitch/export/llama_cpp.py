"""What llama.cpp makes of a GGUF file: the token ids of texts, and the likeliest token after them.

    python -m thinkswitch.export.llama_cpp FILE [LORA] < QUESTIONS      (JSON both ways, see `ask`)

Always a child process: llama.cpp ends the process that loads a file it cannot use.
"""

import importlib.util
import json
import subprocess
import sys
from pathlib import Path

from thinkswitch.errors import UserError

PACKAGE = "xllamacpp"
PATIENCE = 600.0  # seconds; a large file is read from a slow disk
ROOM = 1024  # tokens of context
SMALL_BYTES = 50_000_000  # of a file for which threads cost more, waiting for each other, than they bring


def is_here() -> bool:
    return importlib.util.find_spec(PACKAGE) is not None


Token = int | None  # one of those that end an answer is None: which of them, llama.cpp does not tell


def ask(
    file: Path,
    texts: list[str],
    prefixes: list[list[int]],
    lora: Path | None = None,
    scales: tuple[float, ...] = (1.0,),
) -> tuple[list[list[int]], list[list[Token]]]:
    """(token ids of each text, for each scale of `lora` the likeliest token after each prefix)."""
    question = json.dumps({"texts": texts, "prefixes": prefixes, "scales": scales})
    command = [sys.executable, "-m", __name__, str(file), *([str(lora)] if lora else [])]
    try:
        done = subprocess.run(
            command, input=question, capture_output=True, encoding="utf-8", timeout=PATIENCE, check=False
        )
    except subprocess.TimeoutExpired:
        raise UserError(f"llama.cpp did not answer within {PATIENCE:g} s; nothing was kept") from None
    if done.returncode:
        raise UserError(
            f"llama.cpp does not take what was written ({complaint(done.stderr)}); nothing was kept"
        )
    answer = json.loads(done.stdout.splitlines()[-1])
    return answer["ids"], answer["likeliest"]


def complaint(log: str) -> str:
    """The first line of llama.cpp's log that is an error, or the last one of all."""
    lines = log.strip().splitlines() or ["it said nothing"]
    signs = (" E ", "Error", "error:", "GGML_ASSERT")
    errors = [line for line in lines if any(sign in line for sign in signs)]
    return " ".join((errors or lines[-1:])[0].split())[:200]


# ---- in the child


def answer(file: str, lora: str = "") -> dict:
    import xllamacpp

    question = json.load(sys.stdin)
    settings = xllamacpp.CommonParams()
    settings.model.path = file
    settings.n_ctx = ROOM
    settings.n_parallel = 1
    settings.warmup = False
    if Path(file).stat().st_size < SMALL_BYTES:
        settings.cpuparams.n_threads = settings.cpuparams_batch.n_threads = 1
    if lora:
        settings.cache_prompt = False  # it would give back what was read at another scale
        settings.lora_adapters = [xllamacpp.CommonAdapterLoraInfo(lora, 1.0)]
    server = xllamacpp.Server(settings)
    address = server.listening_address
    likeliest = []
    for scale in question["scales"]:
        if lora:
            post(f"{address}/lora-adapters", [{"id": 0, "scale": scale}])
        likeliest.append([likeliest_after(address, prefix) for prefix in question["prefixes"]])
    ids = []
    for text in question["texts"]:
        asked = {"content": text, "add_special": False, "parse_special": True}
        ids.append(post(f"{address}/tokenize", asked)["tokens"])
    return {"ids": ids, "likeliest": likeliest}


def likeliest_after(address: str, prefix: list[int]) -> Token:
    asked = {"prompt": prefix, "n_predict": 1, "temperature": 0, "n_probs": 1, "return_tokens": True}
    written = post(f"{address}/completion", asked)["tokens"]
    return written[0] if written else None


def post(address: str, asked: dict | list) -> dict:
    import httpx

    # whatever HTTP_PROXY says, this goes to this machine
    return httpx.post(address, json=asked, timeout=PATIENCE, trust_env=False).raise_for_status().json()


if __name__ == "__main__":
    print(json.dumps(answer(*sys.argv[1:])), flush=True)
