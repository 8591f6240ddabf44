"""What of a pair's weights has yet to be downloaded: files are deleted after their headers were read."""

from pathlib import Path

from conftest import save_pair
from thinkswitch.weights.pair import Pair, missing_weights, open_pair
from unit.adapter_helpers import WEIGHTS, save_adapter


def nbytes(pair: Pair) -> dict[str, int]:
    return {missing.folder.name: missing.nbytes for missing in missing_weights(pair)}


def test_shards_that_are_not_here_count_by_their_headers(tmp_path):
    instruct, thinking = map(Path, save_pair(tmp_path, shard="100KB"))
    pair = open_pair(str(instruct), str(thinking))
    assert missing_weights(pair) == []
    shards = sorted(instruct.glob("*.safetensors"))
    assert len(shards) > 2
    size = shards[1].stat().st_size
    shards[1].unlink()
    (missing,) = missing_weights(pair)
    assert (missing.name, missing.folder, missing.files) == (str(instruct), instruct, [shards[1].name])
    assert size - 4096 < missing.nbytes < size  # all but the header
    for shard in [*instruct.glob("*.safetensors"), *thinking.glob("*.safetensors")]:
        shard.unlink()
    assert nbytes(pair) == dict.fromkeys(("instruct", "thinking"), 4 * pair.parameters)


def test_an_adapter_counts_beside_its_base(tmp_path):
    instruct, _ = save_pair(tmp_path)
    adapter = save_adapter(instruct, tmp_path / "adapter")
    pair = open_pair(instruct, adapter)
    assert missing_weights(pair) == []
    (Path(adapter) / WEIGHTS).unlink()
    assert nbytes(pair) == {"adapter": 4 * pair.adapter_parameters}
    (Path(instruct) / "model.safetensors").unlink()
    assert nbytes(pair) == {"instruct": 4 * pair.parameters, "adapter": 4 * pair.adapter_parameters}


def test_one_checkpoint_on_both_sides_counts_once(tmp_path):
    instruct, _ = save_pair(tmp_path)
    pair = open_pair(instruct, instruct)
    (Path(instruct) / "model.safetensors").unlink()
    assert nbytes(pair) == {"instruct": 4 * pair.parameters}
