"""What some tests cannot do without."""

import pytest

from nshot.benchmarks.table import benchmark_path
from nshot.nn import kernels

TABLE = benchmark_path("nasbench201")
needs_table = pytest.mark.skipif(not TABLE.exists(), reason=f"no {TABLE}: set NSHOT_DATA")
needs_kernels = pytest.mark.skipif(kernels.library() is None, reason="no compiler: there are no kernels of ours")
