# SPDX-License-Identifier: Apache-2.0
# tests/mpi.sh: sourced by the scripts that start ranks: finds mpirun, or ends with 77 (skipped).
command -v mpirun >/dev/null || { echo "skipped: there is no mpirun (openmpi-bin, or mpich)"; exit 77; }
export OMPI_ALLOW_RUN_AS_ROOT=1 OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1 # tests may run in a container
case $(mpirun --version 2>&1) in
*"Open MPI"*) how=--oversubscribe ;;
*) how= ;;
esac

# ranks N COMMAND...
ranks()
{
    n=$1
    shift
    # shellcheck disable=SC2086
    timeout 100 mpirun $how -n "$n" "$@"
}
