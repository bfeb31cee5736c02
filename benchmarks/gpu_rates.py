"""What the GPU can do at best: matrix products by precision, and copies of memory."""

import torch
from gpu_measuring import IS_SMALL, open_gpu, tell

from dalle_cli.runtime.peak_rates import (
    COPIED_BYTES,
    MATRIX_ORDER,
    measure_bandwidth,
    measure_matmul_rate,
)
from dalle_cli.runtime.precision import DTYPES

ORDER = 256 if IS_SMALL else MATRIX_ORDER["cuda"]
COPIED = 2**20 if IS_SMALL else COPIED_BYTES["cuda"]


def main() -> None:
    """Measure and print the rates."""
    device = open_gpu()
    dtypes = {"fp32": torch.float32, **DTYPES}
    rates = {
        name: max(measure_matmul_rate(device, dtype, order=ORDER) for _ in range(2))
        for name, dtype in dtypes.items()
    }
    tell("rates", matmul=rates, bandwidth=measure_bandwidth(device, COPIED))


if __name__ == "__main__":
    main()
