"""The tests that need a GPU, with a table on stdout and all figures in build/gpu-tests.json.

make test-gpu                          on this machine's GPU, in at most five minutes
make test-gpu ARGS="-k attention"      some of them; ARGS are pytest's
GPU_TESTS_DEVICE=cpu make test-gpu     the CPU stands in, with tiny models: mistakes of the tests
"""

import faulthandler
import os
import sys
from pathlib import Path

from dalle_cli.runtime.devices import open_device, why_no_gpu

FOLDER = Path(__file__).parent
ROOT = FOLDER.parents[1]
FILE = ROOT / "build/gpu-tests.json"
GRACE = 30.0  # seconds for the test that runs when the time is up; one that hangs ends then


def main(words: list[str]) -> int:
    """Run the tests; return the exit code: 0 where all passed or had a reason to be skipped."""
    device = os.environ.get("GPU_TESTS_DEVICE", "cuda")
    reason = why_no_gpu() if device == "cuda" else None
    if reason is not None:
        print(f"no tests on a GPU: {reason}", file=sys.stderr)
        return 1

    import pytest  # which takes a while, as the tests do: not where there is nothing to test
    from results import LIMIT, Results

    faulthandler.dump_traceback_later(LIMIT + GRACE, exit=True)
    results = Results(open_device(device, "fp32")[0], FILE)
    # torch warns of its own compilers; a warning is printed and fails nothing
    quiet = ["-m", "gpu", "-q", "--no-header", "-p", "no:cacheprovider", "-W", "default"]
    code = pytest.main([str(FOLDER), *quiet, *words], plugins=[results])
    results.show()
    print(f"all figures: {FILE.relative_to(ROOT)}")
    return int(code) or int(results.n_left_out > 0)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
