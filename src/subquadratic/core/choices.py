"""What options choose among, and the ranges that configurations and layers check alike; known without PyTorch."""

from collections.abc import Callable, Mapping
from importlib.metadata import version
from importlib.util import find_spec
from typing import Any

from .errors import require, require_choice, require_positive
from .scalars import as_number, is_number, is_whole

BACKENDS = ("auto", "torch", "triton", "native")
BACKEND = "SUBQUADRATIC_BACKEND"  # the environment's word for one
NORMS = ("layer", "scale", "rezero")
POSITIONS = ("rotary", "learned", "fixed", "axial", None)
KERNELS = ("softmax", "relu", "efficient")  # of FAVOR+
ESTIMATORS = ("positive", "optimal", "dense")  # of its softmax kernel
BALANCES = (None, "channel", "full")  # of queries and keys before it
SHARING = ("none", "kv", "layer")  # of a Linformer's projections
DECAYS = ("channel", "head", "fixed")  # of gated linear attention
PROJECTIONS = ("learned", "pool", "conv")  # of a sequence into its slots


def backend_named(environment: Mapping[str, str]) -> str:
    """What the environment chooses, whether or not there is such a backend; "auto" where it says nothing."""
    return environment.get(BACKEND) or "auto"


def check_backend(environment: Mapping[str, str]) -> None:
    """Whether the environment chooses a backend that can run here, as far as that is known without PyTorch.

    Raises:
        ValueError: an unknown name, or "triton" where triton is not installed or PyTorch is a build for CPUs.
    """
    name = backend_named(environment)
    require_choice(BACKEND, name, BACKENDS)
    if name != "triton" or environment.get("TRITON_INTERPRET"):
        return
    require(find_spec("triton") is not None, f"{BACKEND}=triton needs triton: pip install 'subquadratic[triton]'")
    installed = version("torch")
    require(not installed.endswith("+cpu"), f"{BACKEND}=triton needs a CUDA device, and PyTorch {installed} is a build for CPUs")


def check_local(*, heads: int, local_heads: int, local_window: int) -> None:
    """Ranges of the local heads' options.

    Raises:
        ValueError: naming the first that is out of range.
    """
    require_positive(local_window=local_window)
    if not is_whole(as_number(local_heads)) or not 0 <= local_heads <= heads:
        raise ValueError(f"local_heads must be an integer from 0 to heads={heads}, got {local_heads!r}")


def key_width(width: int, key_dim: int | None) -> int:
    """K: ``key_dim``, or half of V.

    Raises:
        ValueError: for ``key_dim`` below 1.
    """
    require_positive(key_dim=key_dim)
    return key_dim if key_dim is not None else max(1, width // 2)


def check_kernel(*, kernel: str | Callable[..., Any], features: int | None, feature_epsilon: float, orthogonal_scaling: int) -> None:
    """Ranges of the options that decide the features.

    Raises:
        ValueError: naming the first that is out of range.
    """
    if not callable(kernel):
        require_choice("kernel", kernel, KERNELS)
    require_positive(features=features)
    require(
        kernel != "efficient" or features is None,
        f"features must be None with kernel='efficient', which has no projection, got {features!r}",
    )
    require(is_number(feature_epsilon) and feature_epsilon >= 0, f"feature_epsilon must be at least 0, got {feature_epsilon!r}")
    require(not feature_epsilon or kernel == "softmax", f"feature_epsilon is for kernel='softmax', got kernel={kernel!r}")
    require_choice("orthogonal_scaling", orthogonal_scaling, (0, 1))


def check_estimator(
    *,
    estimator: str,
    center: bool,
    balance: str | None,
    kernel: str | Callable[..., Any] = "softmax",
    feature_epsilon: float = 0.0,
    scaling: int = 0,
) -> bool:
    """Ranges of the options that make features of the softmax kernel precise; whether any of them asks for more than positive features.

    Raises:
        ValueError: naming the first that is out of range.
    """
    require_choice("estimator", estimator, ESTIMATORS)
    require_choice("center", center, (False, True))
    require_choice("balance", balance, BALANCES)
    asked = {"estimator": estimator != "positive", "center": bool(center), "balance": balance is not None}
    name = next((name for name in asked if asked[name]), None)
    if name is not None:
        require(kernel == "softmax", f"{name} is for kernel='softmax', got kernel={kernel!r}")
        if feature_epsilon:  # the message is made only then: compilers for any shape cannot format a number
            raise ValueError(f"{name} has no feature_epsilon: leave it at 0, got {feature_epsilon!r}")
    if estimator != "positive" and scaling != 0:
        raise ValueError(f"estimator={estimator!r} weights Gaussian features: orthogonal_scaling must be 0, got {scaling!r}")
    return name is not None


def check_buckets(buckets: int, max_distance: int) -> None:
    """The arithmetic needs two buckets, and far distances beyond the exact half.

    Raises:
        ValueError: otherwise.
    """
    require_positive(relative_buckets=buckets, relative_max_distance=max_distance)
    require(buckets >= 2, f"relative_buckets must be at least 2, got {buckets}")
    require(
        max_distance > buckets // 2,
        f"relative_max_distance must be more than relative_buckets / 2 = {buckets // 2}, where exact distances end, got {max_distance}",
    )
