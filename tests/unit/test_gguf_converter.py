"""Our GGUF files beside those of llama.cpp's own converter: the same bytes, and the same keys.

    python -m pytest --slow tests/unit/test_gguf_converter.py

LLAMA_CPP names a folder with convert_hf_to_gguf.py, conversion/ and gguf-py/. Without it they are taken from
the sources of llama-cpp-python, which pip downloads; where it cannot, the tests are skipped.
"""

import os
import subprocess
import sys
import tarfile
from pathlib import Path
from types import SimpleNamespace

import gguf
import numpy as np
import pytest

from conftest import python
from thinkswitch import rounds
from unit.export_helpers import export
from unit.gguf_helpers import KINDS, save_bpe_pair

pytestmark = pytest.mark.slow

QUANTISATIONS = ("BF16", "F16", "Q8_0")
SCRIPT = "convert_hf_to_gguf.py"
PARTS = (SCRIPT, "conversion/", "gguf-py/")
# Keys that differ, and why
OURS_ALONE = {
    "{arch}.rope.freq_base": "gemma2's, which its converter leaves to llama.cpp's default",
    "tokenizer.ggml.add_bos_token": "theirs only where a file says so; ours says what the tokenizer does",
}
THEIRS_ALONE = {"general.tags": "from the model card in the folder; our card lies beside the file"}
OTHER_VALUES = {"general.name": "theirs is the folder's name, ours the preset's"}
EOS, SIZE = "tokenizer.ggml.eos_token_id", "general.size_label"
OF_FAMILIES = {
    "hunyuan_v1_dense": {EOS: "theirs is eod_token_id, which config.json has by default"},
    "gemma3_text": {SIZE: "theirs is without the rows that no token has"},
}
# It knows tokenizers by a hash of what they do with a text, and those of vendors by name; ours are neither.
DRIVER = """
import runpy, sys
script, folder, rule, out, *kinds = sys.argv[1:]
sys.path.insert(0, script.rpartition("/")[0])
from conversion.base import TextModel
from conversion.gemma import Gemma2Model
from conversion.glm import Glm4Model
from conversion.phi import Phi3MiniModel
TextModel.get_vocab_base_pre = lambda self, tokenizer: rule
TextModel._set_vocab_sentencepiece = TextModel._set_vocab_gpt2
for model in (Gemma2Model, Glm4Model, Phi3MiniModel):
    model.set_vocab = TextModel.set_vocab
for kind in kinds:
    sys.argv = [script, folder, "--outtype", kind.lower(), "--outfile", f"{out}/{kind}.gguf"]
    runpy.run_path(script, run_name="__main__")
"""


@pytest.fixture(scope="module")
def converter(tmp_path_factory) -> Path:
    """The script, with what it imports beside it."""
    if named := os.environ.get("LLAMA_CPP"):
        return Path(named) / SCRIPT
    folder = tmp_path_factory.mktemp("llama.cpp")
    download = ["download", "--quiet", "--no-deps", "--no-binary", "llama-cpp-python", "llama-cpp-python"]
    environment = {key: value for key, value in os.environ.items() if key.lower() != "no_proxy"}
    command = [sys.executable, "-m", "pip", *download, "--dest", str(folder)]
    done = subprocess.run(command, env=environment, capture_output=True, encoding="utf-8", check=False)
    if done.returncode:
        pytest.skip(f"LLAMA_CPP names no folder, and pip downloads none: {done.stderr[-300:]}")
    [archive] = folder.glob("*.tar.gz")
    with tarfile.open(archive) as packed:
        for member in packed:
            _, _, inner = member.name.partition("/vendor/llama.cpp/")
            if inner.startswith(PARTS):
                member.name = inner
                packed.extract(member, folder, filter="data")
    return folder / SCRIPT


@pytest.fixture(scope="module", params=KINDS)
def written(request, converter, tmp_path_factory) -> SimpleNamespace:
    """A family, and {quantisation: (our file, theirs)} of a blend, theirs from our export as a folder."""
    family, changes, tied = KINDS[request.param]
    folder = tmp_path_factory.mktemp("pair")
    pair = save_bpe_pair(folder, family, tied, **changes)
    export(pair, rounds.start(pair), 0.4, folder / "hf")
    export(pair, rounds.start(pair), 0.4, folder / "ours", gguf=QUANTISATIONS)
    [ours] = [gguf.GGUFReader(file) for file in (folder / "ours").glob("*-Q8_0.gguf")]
    rule = ours.fields["tokenizer.ggml.pre"].contents()
    (folder / "theirs").mkdir()
    python("-c", DRIVER, converter, folder / "hf", rule, folder / "theirs", *QUANTISATIONS)
    files = {
        kind: (next((folder / "ours").glob(f"*-{kind}.gguf")), folder / "theirs" / f"{kind}.gguf")
        for kind in QUANTISATIONS
    }
    return SimpleNamespace(family=family, files=files)


@pytest.mark.parametrize("quantisation", QUANTISATIONS)
def test_the_converter_writes_the_same_tensors(written, quantisation):
    ours, theirs = [tensors(file) for file in written.files[quantisation]]
    assert ours.keys() == theirs.keys()
    for name, tensor in theirs.items():
        assert ours[name].tensor_type == tensor.tensor_type, name
        stored, expected = ours[name].data, tensor.data
        if written.family == "gemma3_text" and name == "token_embd.weight":
            stored = stored[: len(expected)]  # it cuts off rows that no token has
        assert stored.shape == expected.shape, name
        assert np.array_equal(stored.view(np.uint8), expected.view(np.uint8)), name


@pytest.mark.parametrize("quantisation", QUANTISATIONS)
def test_the_converter_writes_the_same_keys(written, quantisation):
    ours, theirs = [keys(file) for file in written.files[quantisation]]
    assert ours.keys() - theirs.keys() - OURS_ALONE.keys() == set()
    assert theirs.keys() - ours.keys() - THEIRS_ALONE.keys() == set()
    named = OTHER_VALUES | OF_FAMILIES.get(written.family, {})
    both = (ours.keys() & theirs.keys()) - named.keys()
    assert {key: ours[key] for key in both} == {key: theirs[key] for key in both}


def tensors(file: Path) -> dict[str, gguf.ReaderTensor]:
    return {tensor.name: tensor for tensor in gguf.GGUFReader(file).tensors}


def keys(file: Path) -> dict[str, object]:
    """Without the architecture's name before them."""
    fields = gguf.GGUFReader(file).fields
    arch = fields["general.architecture"].contents()
    return {
        key.replace(f"{arch}.", "{arch}.", 1) if key.startswith(f"{arch}.") else key: field.contents()
        for key, field in fields.items()
        if not key.startswith("GGUF.")
    }
