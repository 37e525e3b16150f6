"""Names in a Slurm host list."""

import re

from meshwright.errors import UsageError

_HOST_OR_LIST = re.compile(r"([^,\[\]]*)(?:\[([^\]]*)\])?([^,\[\]]*)")


def first_host(hosts: str) -> str:
    """The first name of a Slurm host list: `gpu[03-05,9]-ib,login` → `gpu03-ib`.

    Raises:
        UsageError: the list is empty or no host list.
    """
    match = _HOST_OR_LIST.match(hosts)
    if match is None or not match[0]:
        raise UsageError(
            f"{hosts!r} is no Slurm host list",
            cause="SLURM_STEP_NODELIST and SLURM_JOB_NODELIST say on which hosts the workers run",
            alternatives=["start the job with srun, which sets them"],
            command="srun meshwright run SCRIPT",
        )
    prefix, numbers, suffix = match[1], match[2], match[3]
    return prefix + (re.split("[-,]", numbers)[0] if numbers else "") + suffix
