"""llama.cpp's server out of the package xllamacpp, with those of llama-server's flags that we use.

    python -m thinkswitch.engines.llama_cpp_server --model FILE --port 8080 ...

Always a child process: llama.cpp ends the process that loads a file it cannot use. It ends with its parent.
"""

import argparse
import os
import sys

WARNINGS = 2  # and errors; below stand ten lines for each answer


def read_flags(arguments: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(allow_abbrev=False)
    parser.add_argument("--model", required=True)
    parser.add_argument("--alias", required=True)
    parser.add_argument("--host", required=True)
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--ctx-size", type=int, required=True)
    parser.add_argument("--parallel", type=int, required=True)
    parser.add_argument("--threads", type=int, required=True)
    parser.add_argument("--gpu-layers", type=int)
    parser.add_argument("--special", action="store_true")
    return parser.parse_args(arguments)


def serve(flags: argparse.Namespace):
    """The server, which answers by the time it is returned and ends when it is let go of."""
    import xllamacpp

    settings = xllamacpp.CommonParams()
    settings.model.path = flags.model
    settings.model_alias = {flags.alias}
    settings.hostnames = [flags.host]
    settings.port = flags.port
    settings.n_ctx = flags.ctx_size
    settings.n_parallel = flags.parallel
    settings.cpuparams.n_threads = settings.cpuparams_batch.n_threads = flags.threads
    if flags.gpu_layers is not None:
        settings.n_gpu_layers = flags.gpu_layers
    settings.special = flags.special
    settings.warmup = False
    settings.verbosity = WARNINGS
    settings.ui = False
    settings.cors_origins = ""  # no page in a browser may ask it
    settings.endpoint_slots = False  # which would show prompts
    settings.cache_ram_mib = 0  # a copy of prompts that nobody asks again
    return xllamacpp.Server(settings)


def main() -> None:
    server = serve(read_flags(sys.argv[1:]))
    sys.stdin.read()  # closes when the guard ends
    del server
    os._exit(0)


if __name__ == "__main__":
    main()
