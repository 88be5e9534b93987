"""Settings of a training run of a second, for the tests of the benchmark."""

__all__ = ["TRAIN"]

TRAIN = {
    "tokens": 64, "seq_length": 16, "rank_tokens": 32, "rank_seq_length": 16, "initial": 10, "epochs": 1, "steps": 5,
    "pool": 32, "picks": 2, "starts": 1, "rerank": 1,
}  # fmt: skip
