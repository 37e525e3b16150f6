"""What happened? Tables for the terminal and one self-contained page.

In: a `Plan`, a `Cluster`, a `Measurement`, or a run's folder; never torch. Out: rich tables, or the path of a page.
Reading order: `_run_data` (what a run left behind), `_outcome` (predicted beside measured), `_verdict`, `_page`;
figures: `_figure`, `_breakdowns`, `_pipeline_timeline`, `_curves`, `_pictures`; tables: `_plan_table`,
`_hardware_table`, `_outcome_table`.
"""

from meshwright.report._examples_table import examples_table as examples_table
from meshwright.report._explanation_view import difference_view as difference_view
from meshwright.report._explanation_view import explanation_view as explanation_view
from meshwright.report._hardware_table import hardware_table as hardware_table
from meshwright.report._layout_view import change_view as change_view
from meshwright.report._layout_view import layout_view as layout_view
from meshwright.report._outcome import Outcome as Outcome
from meshwright.report._outcome import outcomes as outcomes
from meshwright.report._outcome_table import outcome_table as outcome_table
from meshwright.report._page import write_page as write_page
from meshwright.report._plan_table import plan_table as plan_table
from meshwright.report._run_data import Run as Run
from meshwright.report._run_data import read_run as read_run
from meshwright.report._verdict import Verdict as Verdict
from meshwright.report._verdict import judge as judge
from meshwright.report._verification_table import verification_table as verification_table
