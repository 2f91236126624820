"""Run all cases and print a table: `python -m tests.cases [PART_OF_A_NAME...]`."""

import getpass
import sys
import tempfile
from pathlib import Path

from tests.support.cases import SCRIPTS, environment, run_case


def main() -> int:
    """Status 1: a case failed."""
    asked = sys.argv[1:]
    failed = 0
    print(f"| case | as {getpass.getuser()} | seconds |\n| --- | --- | --- |")
    with tempfile.TemporaryDirectory() as cache:
        variables = environment(Path(cache))
        for script in SCRIPTS:
            if asked and not any(part in str(script) for part in asked):
                continue
            outcome = run_case(script, variables)
            verdict = outcome.skipped or ("PASS" if outcome.passed else "FAIL")
            print(f"| {script.parent.name}/{script.name} | {verdict} | {outcome.seconds:.0f} |", flush=True)
            if not (outcome.passed or outcome.skipped):
                failed += 1
                print(outcome.text, file=sys.stderr, flush=True)
    return int(failed > 0)


if __name__ == "__main__":
    sys.exit(main())
