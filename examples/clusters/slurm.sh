#!/usr/bin/env bash
# A study, or the command that is given, on four nodes. SLURM sends SIGUSR1 five minutes before it takes them back: jobs end
# their step, write a checkpoint, and this script asks for nodes again; the same command goes on.
#   SHARED=/scratch/me sbatch examples/clusters/slurm.sh nshot study table-b --preset proxy --seeds 3 ...
#SBATCH --job-name=nshot
#SBATCH --nodes=4
#SBATCH --ntasks-per-node=1
#SBATCH --cpus-per-task=64
#SBATCH --exclusive
#SBATCH --time=24:00:00
#SBATCH --signal=B:USR1@300
#SBATCH --requeue
set -euo pipefail

SHARED=${SHARED:?the folder that all nodes see: SHARED=/scratch/me sbatch ...}
source "$SHARED/venv/bin/activate"
export NSHOT_DATA=$SHARED/data RAY_AUTH_MODE=token RAY_AUTH_TOKEN_PATH=$SHARED/ray-token RAY_USAGE_STATS_ENABLED=0
[ -s "$RAY_AUTH_TOKEN_PATH" ] || (umask 077 && openssl rand -hex 32 >"$RAY_AUTH_TOKEN_PATH")

head=$(scontrol show hostnames "$SLURM_JOB_NODELIST" | head -n 1)
port=$((20000 + SLURM_JOB_ID % 10000)) # two jobs may share a node
cores=$SLURM_CPUS_PER_TASK

srun --overlap --nodes=1 --ntasks=1 --nodelist="$head" \
  ray start --head --port="$port" --num-cpus="$cores" --block &
export RAY_ADDRESS=$head:$port
until ray status >/dev/null 2>&1; do sleep 2; done
if [ "$SLURM_NNODES" -gt 1 ]; then
  srun --overlap --nodes=$((SLURM_NNODES - 1)) --ntasks=$((SLURM_NNODES - 1)) --exclude="$head" \
    ray start --address="$RAY_ADDRESS" --num-cpus="$cores" --block &
fi

[ $# -gt 0 ] || set -- nshot study table-k --preset proxy --seeds 5 --runs "$SHARED/runs" --out "$SHARED/results"
"$@" --on ray &
command=$!
trap 'kill -USR1 "$command"' USR1
status=0
wait "$command" || status=$?
[ "$status" -le 128 ] || { status=0; wait "$command" || status=$?; } # a signal ends wait, not the command
[ "$status" != 75 ] || scontrol requeue "$SLURM_JOB_ID"
exit "$status"
