"""Will a server load a quantised checkpoint, and with which kernels; asked of vLLM's rules, without vLLM."""
