"""Where does it run? Planning and training processes on this machine, across hosts, under Slurm.

In: a script, a `Goal`, a `Cluster`. Out: a `Plan`, a run's folder with its `Measurement`, or a `Verification`.
Nothing here loads torch but `agent`, which runs in a process of its own.
Reading order: `_run_folder`, `_environment` (what a worker is told), `_processes`, `_watch`, `_planning`, `_running`,
`_proof`; then `_failure` (what killed a worker), `_ending`, `_progress`; `_hosts`, `_agent_job`, `agent` and `_link`
(several workers, several hosts); `_slurm` and `_slurm_start`.
"""

from meshwright.launch._ending import sum_up as sum_up
from meshwright.launch._hosts import ONE_HOST as ONE_HOST
from meshwright.launch._hosts import Hosts as Hosts
from meshwright.launch._hosts import check_devices as check_devices
from meshwright.launch._hosts import check_port as check_port
from meshwright.launch._hosts import parse_rendezvous as parse_rendezvous
from meshwright.launch._hosts import spread_over as spread_over
from meshwright.launch._interrupt import INTERRUPTED_EXIT_CODE as INTERRUPTED_EXIT_CODE
from meshwright.launch._link import answer_link as answer_link
from meshwright.launch._link import with_link as with_link
from meshwright.launch._planning import PLANNING_LIMIT as PLANNING_LIMIT
from meshwright.launch._planning import check_script as check_script
from meshwright.launch._planning import plan_script as plan_script
from meshwright.launch._progress import Progress as Progress
from meshwright.launch._proof import verify_script as verify_script
from meshwright.launch._run_folder import Origin as Origin
from meshwright.launch._run_folder import RunFolder as RunFolder
from meshwright.launch._run_folder import Value as Value
from meshwright.launch._run_folder import create_run_folder as create_run_folder
from meshwright.launch._run_folder import latest_run as latest_run
from meshwright.launch._run_folder import write_record as write_record
from meshwright.launch._running import join_run as join_run
from meshwright.launch._running import run_script as run_script
from meshwright.launch._slurm import Task as Task
from meshwright.launch._slurm import slurm_task as slurm_task
from meshwright.launch._slurm_start import announce_failure as announce_failure
from meshwright.launch._slurm_start import announce_start as announce_start
from meshwright.launch._slurm_start import await_start as await_start
