"""The machine's MPI: whether it is there, and how to start ranks on this machine alone."""

import shutil

INSTALL = "apt install openmpi-bin libopenmpi-dev"

# More ranks than cores, which wait without spinning; over loopback; also as root in a container. What another MPI
# does not know, it does not read.
ENVIRONMENT = {
    "OMPI_MCA_rmaps_base_oversubscribe": "1",
    "PRTE_MCA_rmaps_default_mapping_policy": ":oversubscribe",
    "OMPI_MCA_mpi_yield_when_idle": "1",
    "OMPI_MCA_hwloc_base_binding_policy": "none",
    "OMPI_MCA_oob_tcp_if_include": "lo",
    "OMPI_MCA_btl_tcp_if_include": "lo",
    "OMPI_ALLOW_RUN_AS_ROOT": "1",
    "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM": "1",
}


def missing() -> str:
    """What lacks for compiling with MPI and starting ranks, and how to get it; empty if nothing does."""
    lacking = [name for name in ("mpirun", "mpicc") if not shutil.which(name)]
    return f"there is no {', no '.join(lacking)} here (Debian: `{INSTALL}`)" if lacking else ""
