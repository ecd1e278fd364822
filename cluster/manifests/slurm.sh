#!/bin/bash
# One run on Slurm: a Ray cluster over the job's nodes, the driver on the first.
#     sbatch cluster/manifests/slurm.sh configs/quickstart.yaml run.name=mine actors.samplers.count=12
# From the repository's root on a file system that all nodes see; .venv made by `make install`. Arguments are those of
# `itercomp run`; a requeued job goes on where it stopped.
#SBATCH --job-name=itercomp
#SBATCH --nodes=4
#SBATCH --ntasks-per-node=1
#SBATCH --gpus-per-node=4
#SBATCH --cpus-per-task=32
#SBATCH --mem=0
#SBATCH --time=24:00:00
#SBATCH --requeue
#SBATCH --output=slurm-%j.log
set -euo pipefail

. .venv/bin/activate
export RAY_AUTH_MODE=token   # the token lies in the home directory, which the nodes share
ray get-auth-token --generate >/dev/null

mapfile -t nodes < <(scontrol show hostnames "$SLURM_JOB_NODELIST")   # a pipe to head would end scontrol by SIGPIPE
address="${nodes[0]}:$((20000 + SLURM_JOB_ID % 20000))"   # jobs that share a node do not meet

exec srun --kill-on-bad-exit=1 ray symmetric-run --address "$address" --min-nodes "$SLURM_JOB_NUM_NODES" \
  --include-dashboard=false -- itercomp run "$@" --resume --address "$address"
