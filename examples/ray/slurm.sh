#!/usr/bin/env bash
# A training on the GPUs of several Slurm nodes: Ray on each, and the search on the first.
#
#   sbatch --nodes 4 --gpus-per-node 8 --ntasks-per-node 1 --cpus-per-task 64 --exclusive examples/ray/slurm.sh \
#     --model /shared/Llama-3-8B --output /shared/profiles/llama --preset paper --picks 64 --lag 1 \
#     --device cuda --gpus-per-worker 1 --cpus-per-worker 4
#
# The model, the output and the environment are in folders that all nodes see. The search's own model shares the first
# device with a worker. After a kill the same with --resume goes on.
set -euo pipefail

export RAY_USAGE_STATS_ENABLED=0
nodes="$(scontrol show hostnames "$SLURM_JOB_NODELIST")"
head="${nodes%%$'\n'*}"
port=6379
workers=$((SLURM_JOB_NUM_NODES * SLURM_GPUS_ON_NODE))

# symmetric-run starts Ray on every node, runs the command on the first once all have joined, and stops Ray again.
# Since Slurm 22.05 srun has to be told the processors of a task again.
srun --ntasks "$SLURM_JOB_NUM_NODES" --ntasks-per-node 1 --cpus-per-task "$SLURM_CPUS_PER_TASK" \
  ray symmetric-run --address "$head:$port" --min-nodes "$SLURM_JOB_NUM_NODES" -- \
  unicuco train "$@" --ray auto --workers "$workers"
