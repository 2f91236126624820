"""Progress from a builder's reports, and Ctrl-C."""

from condinst_deploy.support.signals import Interruption
from condinst_engines.monitor import Phases, progress_monitor


def test_the_share_counts_phases_inside_phases_and_never_falls() -> None:
    seen: list[tuple[float, str]] = []
    phases = Phases(lambda share, phase: seen.append((share, phase)))
    phases.start("build", None, 2)
    phases.start("parse", "build", 4)
    phases.step("parse", 1)
    assert seen[-1] == (0.25, "parse")
    phases.step("parse", 3)
    phases.finish("parse")
    phases.step("build", 0)
    assert seen[-1] == (0.5, "build")
    phases.start("time", "build", 1)
    phases.step("time", 0)
    phases.finish("time")
    phases.step("build", 1)
    phases.finish("build")
    shares = [share for share, _ in seen]
    assert shares == sorted(shares)
    assert seen[-1] == (1.0, "")


def test_reports_out_of_order_do_no_harm() -> None:
    phases = Phases(lambda share, phase: None)
    phases.step("unknown", 3)
    phases.finish("unknown")
    phases.start("empty", None, 0)
    phases.step("empty", 5)


class Trt:
    """Parts of the library that `progress_monitor` needs."""

    class IProgressMonitor:
        pass


def test_after_ctrl_c_the_monitor_asks_the_builder_to_stop() -> None:
    interruption = Interruption()
    monitor = progress_monitor(Trt, Phases(lambda share, phase: None), interruption)
    monitor.phase_start("build", None, 2)
    assert monitor.step_complete("build", 0)
    interruption.wanted = True
    assert not monitor.step_complete("build", 1)
