"""Engines that decode a round's thinking checkpoint in a process that the run starts: llama.cpp, vLLM."""
