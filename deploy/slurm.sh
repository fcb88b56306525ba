#!/bin/bash
# A job over several nodes of a Slurm cluster: `sbatch deploy/slurm.sh plan.toml`. A shared environment with Leadline must be
# active. After the time limit, the same command continues the job: its journal is in runs/.
#SBATCH --job-name=leadline
#SBATCH --nodes=2
#SBATCH --ntasks-per-node=1
#SBATCH --gpus-per-node=4
#SBATCH --cpus-per-task=32
#SBATCH --time=04:00:00
#SBATCH --signal=B:TERM@120
set -euo pipefail
plan=${1:?name a plan file}
n_gpus=$((SLURM_JOB_NUM_NODES * ${SLURM_GPUS_ON_NODE:?ask for GPUs}))
head=$(scontrol show hostnames "$SLURM_JOB_NODELIST" | head -n 1)
# several jobs may share a node: each has a port of its own
export RAY_ADDRESS="$head:$((20000 + SLURM_JOB_ID % 10000))"
export RAY_USAGE_STATS_ENABLED=0

srun --nodes=1 --ntasks=1 --nodelist="$head" --overlap \
  ray start --head --port="${RAY_ADDRESS#*:}" --num-gpus="$SLURM_GPUS_ON_NODE" --block &
srun --nodes=1 --ntasks=1 --nodelist="$head" --overlap \
  bash -c 'until ray status >/dev/null 2>&1; do sleep 2; done'
if ((SLURM_JOB_NUM_NODES > 1)); then
  srun --nodes=$((SLURM_JOB_NUM_NODES - 1)) --ntasks=$((SLURM_JOB_NUM_NODES - 1)) --exclude="$head" --overlap \
    ray start --address="$RAY_ADDRESS" --num-gpus="$SLURM_GPUS_ON_NODE" --block &
fi
# one model on one GPU; for larger ones set execution.engine.tensor_parallel in the plan, and fewer replicas here.
# The job starts with the first node, and replicas are added as the others join
leadline run "$plan" --execution.engine ray --execution.engine.replicas "${REPLICAS:-$n_gpus}" &
run=$!
# two minutes before the end of the time limit, Slurm sends SIGTERM to this script
trap 'kill -TERM "$run"' TERM
code=0
wait "$run" || code=$?
if kill -0 "$run" 2>/dev/null; then
  code=0
  wait "$run" || code=$?
fi
jobs -p | xargs -r kill 2>/dev/null || true
exit "$code"
